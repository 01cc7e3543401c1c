"""docs/SENSORS.md and the codecs say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pair_fakes import GOOD, Tool, assess_as

from firmware_bridge.pair import evidence
from firmware_bridge.protocols import PROTOCOLS

PAGE = Path(__file__).parents[1] / "docs" / "SENSORS.md"
BEGIN, END = "<!-- begin: affectd-pair sensors --markdown -->\n", "<!-- end -->"


@pytest.fixture
def tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tool:
    return Tool(tmp_path / "sensors.toml", capsys)


def test_the_page_holds_the_table_that_the_tool_prints(tool: Tool) -> None:
    """Where this fails: put in what `affectd-pair sensors --markdown` prints."""
    _, out, _ = tool("sensors", "--markdown")
    assert PAGE.read_text().partition(BEGIN)[2].partition(END)[0] == out


def test_every_codec_has_its_row_with_its_evidence(tool: Tool) -> None:
    table = evidence.markdown()
    for codec in PROTOCOLS.values():
        (row,) = [line for line in table.splitlines() if f"`{codec.protocol}`" in line]
        assert f"| {codec.device} |" in row
        assert f"| {codec.evidence.basis} |" in row
        assert len(row.replace("\\|", "").split("|")) == len(evidence.HEADS) + 2
    assert {it["protocol"] for it in tool.json("sensors")} == set(PROTOCOLS)
    assert [it["basis"] for it in tool.json("sensors")] == sorted(
        (codec.evidence.basis for codec in PROTOCOLS.values()), key=list(evidence.BASES).index
    )


def test_the_table_fits_a_terminal(tool: Tool) -> None:
    _, out, _ = tool("sensors")
    assert "Polar H10" in " ".join(out.split())
    assert json.dumps(tool.json("sensors"))
    assert assess_as(GOOD)(PROTOCOLS["open-eda"].stream_info).report() is GOOD


def test_the_terminal_is_told_the_same() -> None:
    told = " ".join(evidence.paragraphs().split())
    for cells in evidence.rows():
        for cell in cells[:-1]:
            assert " ".join(cell.split()) in told
