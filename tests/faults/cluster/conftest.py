"""Servers and services that faults share, and the table at a run's end."""

from collections.abc import Iterator

import pytest

from tests.faults.cluster.campaigns import Campaigns
from tests.faults.cluster.matrix import MATRIX


@pytest.fixture(scope="session")
def campaigns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaigns]:
    """The campaigns of this run."""
    found = Campaigns(tmp_path_factory.mktemp("faults"))
    yield found
    found.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if MATRIX.results:
        terminalreporter.section("faults")
        for line in MATRIX.lines():
            terminalreporter.write_line(line)
