"""Upward's own consumer chain, with a handler that does the peers' work."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import uvloop
from faststream.kafka import KafkaBroker

from deploy.process import tune_interpreter
from shared.clock import SystemClock
from shared.events.envelope import Envelope
from shared.events.feedback import FeedbackSubmitted
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import ReceivedRecord
from shared.store.mongo import MongoStore
from shared.store.port import Counters, Store, Transaction
from shared.store.sqlite import SqliteStore
from tests.load.peers.work import Task, bucket_of

_SERVICE = "peer"


class Bucket(Counters):
    """How many pulses were counted."""

    collection: ClassVar[str] = "buckets"


async def main() -> None:
    """Run until all expected records are counted."""
    task, clock = Task(), SystemClock()
    store: Store
    if task.mongodb is None:
        store = SqliteStore(Path(task.store), service=_SERVICE, region="local", clock=clock)
    else:
        uri, database = task.mongodb
        store = MongoStore(uri, database=database, service=_SERVICE, region="local", clock=clock)
        await store.migrate([Bucket])
    finished = asyncio.Event()

    class CountingConsumer(Consumer):
        """Notes what is stored after each batch."""

        async def process(self, records: Sequence[ReceivedRecord]) -> None:
            await super().process(records)
            if task.count(len(records)):
                finished.set()

    consumer = CountingConsumer(_SERVICE, store, clock)
    consumer.group = task.group

    @consumer.on_batch(FeedbackSubmitted)
    async def count(tx: Transaction, said: Sequence[tuple[FeedbackSubmitted, Envelope]]) -> None:
        for name, more in Counter(bucket_of(event) for event, _ in said).items():
            tx.add(Bucket(id=name, counts={"pulses": more}))

    broker = KafkaBroker(task.kafka, logger=None, allow_auto_create_topics=False)
    consumer.subscribe(broker)
    await store.open([Bucket])
    async with broker:
        await broker.start()
        await finished.wait()
    await consumer.close()
    await store.close()
    task.report()


if __name__ == "__main__":
    tune_interpreter()
    uvloop.run(main())
