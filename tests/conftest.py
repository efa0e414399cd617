"""The servers of tests that are marked `cluster`, one of each a process; the table of faults."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.servers import KafkaCluster, MongoServer, ServerError


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A running one-node Kafka; whoever kills it starts it again."""
    try:
        cluster = KafkaCluster(tmp_path_factory.mktemp("kafka"))
    except ServerError as error:
        pytest.skip(str(error))
    with cluster:
        yield cluster


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    """A running MongoDB-compatible server; whoever kills it starts it again."""
    try:
        server = MongoServer(tmp_path_factory.mktemp("mongo"))
    except ServerError as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have one process run all tests on servers but the faults, which another one runs."""
    for item in items:
        if item.get_closest_marker("cluster") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("servers"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what became of each fault and seed, whichever process has run them."""
    parts: list[Any] = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == "faults"
    ]
    if not parts:
        return
    # Imported here: every other run of tests would wait for it.
    from tests.faults.cluster.matrix import Matrix

    matrix = Matrix()
    for part in parts:
        matrix.add(part)
    terminalreporter.section("faults")
    for line in matrix.lines():
        terminalreporter.write_line(line)
