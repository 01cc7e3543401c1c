"""With AFFECTD_NO_SKIP set (as .ci/run does) a skipped test is a failed one; no test is judged by the time it takes."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

settings.register_profile("affectd", deadline=None)
settings.load_profile("affectd")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, None, None]:
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("AFFECTD_NO_SKIP"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped although AFFECTD_NO_SKIP is set: {report.longrepr}"
