"""Servers and services that faults share."""

from collections.abc import Iterator

import pytest

from tests.faults.cluster.campaigns import Campaigns


@pytest.fixture(scope="session")
def campaigns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaigns]:
    """The campaigns of this run."""
    found = Campaigns(tmp_path_factory.mktemp("faults"))
    yield found
    found.stop()
