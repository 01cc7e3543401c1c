"""Every command the README shows is run as a user would run it, or stands below with the reason why not."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOT_RUN_HERE = {
    "make test": "this test runs inside it",
    "make e2e": "minutes of a virtual machine; .ci/run runs it",
    "make e2e-service": "minutes of a container, as root; .ci/run runs it",
    "affectd-pair doctor": "looks at this machine's radio; tests/test_doctor.py",
    "affectd-pair scan": "needs a radio; tests/e2e",
    "affectd-pair add": "needs a radio and a person; tests/e2e and tests/test_pair_add.py",
    "affectd-pair test ecg": "needs a sensor; tests/test_pair_test.py",
    "affectd run --config affectd.toml": "needs sensors; its flow is tests/test_daemon.py, its links tests/e2e",
    "affectd status": "needs a running daemon; tests/test_control.py, tests/e2e",
    "affectd baseline --person Ada": "needs a running daemon; tests/test_calibration.py",
    "affectd web": "serves until it is stopped; tests/test_web.py",
    "affectd label stress": "needs a running daemon; tests/test_labelling.py",
    "affectd pause --for 1h": "needs a running daemon; tests/test_operations.py",
    "affectd health": "needs a running daemon; tests/test_pausing.py",
    'affectd mark "stroop start"': "needs a running daemon; tests/test_daemon.py",
    "affectd replay /var/lib/affectd/recordings/r000012-*": "needs a recording; tests/test_cli.py",
    "AFFECTD_REFERENCE_DATA=... train/runs/default.sh": "minutes of training; each step has its own tests",
    "affectd-train data list": "tests/test_data_check.py",
    "affectd-train data check my-study --pictures look": "needs a study; tests/test_data_check.py",
    "affectd-train loso --config train/runs/stress-predict.toml --data ...": "hours; tests/test_loso.py",
    "affectd-train report runs-out -o report.html": "needs a run; tests/test_report_html.py",
}


def readme_commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.split("   #")[0].strip() for block in blocks for line in block.splitlines()]
    starts = ("make ", "affectd", "AFFECTD_")
    return [line for line in lines if line.startswith(starts)]


COMMANDS = readme_commands()


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "PYTHONDONTWRITEBYTECODE")}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env={**env, "PATH": path}, capture_output=True, text=True, timeout=900
    )


def test_the_readme_names_the_two_commands() -> None:
    assert {"make demo", "make test"} <= set(COMMANDS)
    assert set(NOT_RUN_HERE) <= set(COMMANDS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make") and c not in NOT_RUN_HERE])
def test_make_commands(command: str) -> None:
    done = run(command, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Not a medical device" in done.stdout
    if "--json" in command:
        assert json.loads(done.stdout.splitlines()[-1])["predictions"] > 0


def test_the_configuration_commands_in_their_order(tmp_path: Path) -> None:
    commands = [c for c in COMMANDS if c.startswith("affectd") and c not in NOT_RUN_HERE]
    assert len(commands) == 2
    for command in commands:
        done = run(command, tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "affectd.toml").stat().st_size > 0


def test_make_test_sets_up_and_runs_every_check() -> None:
    plan = run("make --dry-run --always-make test", ROOT)
    assert plan.returncode == 0
    assert "requirements.lock" in plan.stdout
    assert "scripts/check" in plan.stdout


RESULT_COLUMNS = {
    "Stress-Predict, cold start": ("stress-predict", "rest/task", "cold_start"),
    "Stress-Predict, calibrated": ("stress-predict", "rest/task", "calibrated"),
    "WESAD stress, cold start": ("wesad", "non-stress/stress", "cold_start"),
    "WESAD stress, calibrated": ("wesad", "non-stress/stress", "calibrated"),
    "WESAD 3-class, cold start": ("wesad", "3-class", "cold_start"),
    "WESAD 3-class, calibrated": ("wesad", "3-class", "calibrated"),
}
RESULT_ROWS = {
    "`acc`, ECG + EDA": ("acc", "both"),
    "`acc`, ECG alone": ("acc", "ecg"),
    "`acc`, EDA alone": ("acc", "eda"),
    "`emobed`, ECG + EDA": ("emobed", "both"),
    "`emobed`, ECG alone": ("emobed", "ecg"),
    "`emobed`, EDA alone": ("emobed", "eda"),
    "`transformer-pretrained`, ECG alone": ("transformer-pretrained", "ecg"),
    "the same without connections": ("feature-fusion", "both"),
    "mean of two networks of one sensor": ("decision-fusion", "both"),
    "boosted trees": ("classical-gb", "both"),
    "random forest": ("classical-rf", "both"),
    "LDA": ("classical-lda", "both"),
    "which sensors there are, no signal": ("presence", "both"),
    "always the commoner class": ("majority", "both"),
}


def test_the_figures_of_the_readme_are_those_of_the_results() -> None:
    records = json.loads((ROOT / "results" / "loso.json").read_text())
    keys = ("dataset", "task", "mode", "system", "mask")
    known = {
        tuple(r[k] for k in keys): r for r in records if (r["runtime"], r.get("label_share", 1.0)) == ("float", 1.0)
    }
    tables = re.findall(r"^\| balanced accuracy.*?(?=\n\n)", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    rows = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in tables[0].splitlines()]
    checked = 0
    for name, *cells in rows[2:]:
        for column, cell in zip(rows[0][1:], cells, strict=True):
            checked += 1
            record = known.get((*RESULT_COLUMNS[column], *RESULT_ROWS[name]))
            if record is None:
                assert cell == "", (name, column)
                continue
            low, high = record["ci95"]
            assert cell == f"{record['balanced_accuracy']:.2f} ({low:.2f}-{high:.2f})", (name, column)
    assert checked == len(RESULT_ROWS) * len(RESULT_COLUMNS)
