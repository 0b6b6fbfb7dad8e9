"""Fixtures that many tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many parity cases really ran."""
    stats = terminalreporter.stats
    ran, skipped = (
        sum("test_parity_cases.py" in report.nodeid for outcome in outcomes for report in stats.get(outcome, []))
        for outcomes in (("passed", "failed"), ("skipped",))
    )
    if ran + skipped:
        terminalreporter.write_line(f"parity cases: {ran} run, {skipped} skipped")


def _shared(name: str) -> Path:
    root = os.environ.get("PERCEPTION_DATA", "")
    folder = Path(root) / name
    if not root or not folder.is_dir():
        pytest.skip(f"needs PERCEPTION_DATA with a folder {name}/ (recordings and parity cases may not be shipped)")
    return folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real recordings with independent expected results."""
    return _shared("data")


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Parity cases of the published implementations."""
    return _shared("golden")
