"""The servers of the tests that are marked `cluster`; one of each for a whole run."""

from collections.abc import Iterator

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
