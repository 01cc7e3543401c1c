"""The int8 file of each fold, run as the device runs it, says what the fold's float network says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_people import made_config, made_people

from quantize.errors import ResultsError
from quantize.folds import int8_folds
from train.confidence import NAMES
from train.config import Config, Inner
from train.loso import Options, Places, loso

N = 7
"""Each fold calibrates on a quarter of all others' windows, which have to be twenty."""
N_TRIED = 1
PEOPLE = [f"P{i}" for i in range(N)]
ASKED = made_config(
    systems=("emobed",), modes=("cold_start",), seeds=(0,), inner=Inner(((60.0, 60.0),), epochs=1), model={"stem": 8}
)


def records(out: Path, system: str) -> list[dict[str, Any]]:
    places = Places(out, ASKED)
    return [json.loads(places.fold("cold_start", system, subject, 0).read_text()) for subject in PEOPLE[:N_TRIED]]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, people = tmp_path_factory.mktemp("folds"), made_people(N)
    assert loso(people, ASKED, folder, options=Options(workers=1))
    places = Places(folder, ASKED)
    for subject in PEOPLE[N_TRIED:]:  # as if made before
        made = places.fold("cold_start", "emobed-int8", subject, 0)
        made.parent.mkdir(exist_ok=True)
        shutil.copy(places.fold("cold_start", "emobed", subject, 0), made)
    int8_folds(people, ASKED, folder, workers=2, say=lambda _: None)
    return folder


def test_int8_says_what_float_says_window_by_window(out: Path) -> None:
    for wanted, got in zip(records(out, "emobed"), records(out, "emobed-int8"), strict=True):
        assert (got["runtime"], got["key"], list(got["masks"])) == ("int8", wanted["key"], ["both", "ecg", "eda"])
        for mask, float_record in wanted["masks"].items():
            int8_record = got["masks"][mask]
            assert int8_record["start"] == float_record["start"] and int8_record["label"] == float_record["label"]
            first, second = (np.array(record["probability"]) for record in (float_record, int8_record))
            assert not np.array_equal(first, second)
            assert np.abs(first - second).max() < 0.1
            far, near = (np.array(record["distance"]) for record in (float_record, int8_record))
            assert np.allclose(far, near, rtol=0.2, atol=0.1) and not np.array_equal(far, near)
            least, most = (wanted["confidence"][k][NAMES[mask]] for k in ("min_probability", "max_distance"))
            on_edge = {"is_sure": np.abs(first.max(1) - least) < 0.1, "is_familiar": np.isclose(far, most, 0.2, 0.1)}
            for said, edge in on_edge.items():
                assert (edge | (np.array(float_record[said]) == np.array(int8_record[said]))).all()
                assert not edge.all()


def test_what_is_there_is_not_made_again(out: Path) -> None:
    said: list[str] = []
    before = records(out, "emobed-int8")
    int8_folds(made_people(N), ASKED, out, workers=1, say=said.append)
    assert not said and records(out, "emobed-int8") == before


def test_nothing_to_convert_is_said(out: Path) -> None:
    asked = Config(dataset="wesad", task="non-stress/stress", systems=("unattended", "classical-lda"))
    with pytest.raises(ResultsError, match="none of acc, emobed"):
        int8_folds(made_people(N), asked, out, workers=1, say=lambda _: None)


def test_missing_folds_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="affectd-train loso"):
        int8_folds(made_people(N), ASKED, tmp_path, workers=1, say=lambda _: None)
