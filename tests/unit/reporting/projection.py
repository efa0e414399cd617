"""The projection of reporting over a store of its own, as its consumer runs it."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

from services.reporting.kpis.bucket import Bucket, Cell
from services.reporting.repository import DOCUMENTS, StoredBucket
from services.reporting.subscribers import subscribe
from shared.clock import ManualClock
from shared.errors import StaleWriteError
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import DeadLetter
from shared.store.port import Store
from shared.store.sqlite import SqliteStore
from tests.unit.reporting.builders import START, Said

BATCH = 200


class Projection:
    """A store and the consumer that fills it."""

    def __init__(self, path: Path) -> None:
        self._clock = ManualClock(START)
        self.store: Store = SqliteStore(
            path, service="reporting", region="local", clock=self._clock
        )
        self.consumer = self._replica()

    def _replica(self) -> Consumer:
        consumer = Consumer("reporting", self.store, self._clock)
        subscribe(consumer)
        return consumer

    async def consume(self, said: Iterable[Said], batch: int = BATCH) -> None:
        """Apply events in the order given."""
        records = iter([each.record for each in said])
        while chunk := list(islice(records, batch)):
            await self.consumer.process(chunk)

    async def consume_as_replica(self, said: Iterable[Said], batch: int) -> None:
        """Apply events as another replica, to which the bus delivers again what was stale."""
        replica = self._replica()
        records = iter([each.record for each in said])
        while chunk := list(islice(records, batch)):
            while True:
                try:
                    await replica.process(chunk)
                except StaleWriteError:
                    continue
                break

    async def buckets(self) -> dict[tuple[str, Cell], Bucket]:
        """Return every bucket in which something counts, by program and cell."""
        found = await self.store.find(StoredBucket, limit=10_000)
        return {
            (each.program_id, Cell(each.kind, each.value)): each.counts
            for each in found
            if each.counts
        }

    async def dead_letters(self) -> list[str]:
        """Return why records could not be applied."""
        return [letter.reason for letter in await self.store.find(DeadLetter)]


@asynccontextmanager
async def projection(path: Path) -> AsyncIterator[Projection]:
    """Run a projection on a file."""
    running = Projection(path)
    await running.store.open((*DOCUMENTS, DeadLetter))
    try:
        yield running
    finally:
        await running.store.close()


async def buckets_after(path: Path, said: Sequence[Said]) -> dict[tuple[str, Cell], Bucket]:
    """Return the buckets that these events, in this order, make of nothing."""
    async with projection(path) as running:
        await running.consume(said)
        assert not await running.dead_letters()
        return await running.buckets()
