"""The command line with experiments of a test, for all tests of the report."""

from pathlib import Path

import pytest

from tests.experiments.reports import Run


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return Run(monkeypatch, tmp_path)
