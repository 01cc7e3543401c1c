"""Calls affectd as a shell would, in this process."""

from __future__ import annotations

import sys

import pytest

from device import cli


def affectd(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one call."""
    monkeypatch.setattr(sys, "argv", ["affectd", *map(str, args)])
    code = 0
    try:
        cli.main()
    except SystemExit as leave:
        code = int(leave.code or 0)
    out, err = capsys.readouterr()
    return code, out, err
