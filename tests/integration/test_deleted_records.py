"""What retention takes while a batch waits to come again is noticed, on a real Kafka."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from faststream.kafka import KafkaBroker

from shared.clock import SystemClock
from shared.errors import StoreUnavailableError
from shared.events.envelope import Envelope
from shared.events.participants import Paused
from shared.events.topics import TOPICS
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import DeadLetter
from shared.store.port import Transaction
from shared.store.sqlite import SqliteStore
from tests.integration.test_batch_handlers import told
from tests.load.bench_platform import create_topics, publish, until
from tests.support.servers import KafkaCluster, ServerError

_TO_THE_END = -1
_LOOK_SECONDS = 0.05

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaCluster]:
    """A broker whose records are nobody else's: they are going to be deleted."""
    try:
        kafka = KafkaCluster(tmp_path / "kafka")
    except ServerError as error:
        pytest.skip(str(error))
    with kafka:
        yield kafka


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(
        tmp_path / "tally.db", service="tally", region="local", clock=SystemClock()
    ) as store:
        await store.open([DeadLetter])
        yield store


async def delete_all(kafka: KafkaCluster) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        partitions = range(TOPICS[Paused.topic].partitions)
        places = [TopicPartition(Paused.topic, number) for number in partitions]
        await admin.delete_records({place: RecordsToDelete(_TO_THE_END) for place in places})
    finally:
        await admin.close()


@pytest.mark.parametrize("before", [0, 30], ids=["a new group", "a group that has read"])
async def test_a_consumer_stops_at_records_deleted_while_their_batch_waited_for_the_store(
    own_kafka: KafkaCluster, store: SqliteStore, before: int
) -> None:
    consumer = Consumer("tally", store, SystemClock())
    applied: list[str] = []
    away, failed, deleted = False, asyncio.Event(), asyncio.Event()

    @consumer.on(Paused)
    async def note(_tx: Transaction, event: Paused, _: Envelope) -> None:
        if away:
            failed.set()
            # Until then: a client that reads them again before is not behind.
            await deleted.wait()
            raise StoreUnavailableError("The store is away.")
        applied.append(event.participant_id)

    async def tell(name: str, count: int) -> None:
        # All in one partition: those of others may be at the client already.
        records = [told(Paused, f"{name}{number}") for number in range(count)]
        await publish(own_kafka.bootstrap, [record._replace(key=b"one") for record in records])

    async def caught_up() -> bool:
        return len(applied) == before and await consumer.lag() == 0

    async def stopped_or_gone_on() -> bool:
        return consumer.stopped_because is not None or len(applied) > before

    await create_topics(own_kafka.bootstrap)
    broker = KafkaBroker([own_kafka.bootstrap], logger=None, allow_auto_create_topics=False)
    consumer.subscribe(broker)
    async with broker:
        await broker.start()
        await tell("early", before)
        await until(caught_up, _LOOK_SECONDS)
        away = True
        await tell("waiting", 60)
        await failed.wait()
        await delete_all(own_kafka)
        await tell("late", 60)
        away = False
        deleted.set()
        await until(stopped_or_gone_on, _LOOK_SECONDS)

        assert "were deleted before they were read" in (consumer.stopped_because or "")
        assert len(applied) == before
        await consumer.leave()
    await consumer.close()
