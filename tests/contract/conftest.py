"""The adapters that a contract suite runs on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.clock import ManualClock
from shared.store.port import Store
from tests.contract.stores import START, MongoStores, OpenStores, SqliteStores
from tests.support.servers import MongoServer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture(params=["sqlite", pytest.param("mongo", marks=pytest.mark.cluster)])
async def stores(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[OpenStores]:
    adapter: OpenStores
    if request.param == "sqlite":
        adapter = SqliteStores(tmp_path / "store.db", clock)
    else:
        server: MongoServer = request.getfixturevalue("mongo")
        adapter = MongoStores(server.uri, clock)
    yield adapter
    await adapter.close()


@pytest.fixture
async def store(stores: OpenStores) -> Store:
    return await stores.open()
