"""The buses under the contract suite: what a test may ask of any of them."""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from aiokafka import (
    AIOKafkaConsumer,
    AIOKafkaProducer,
    ConsumerRebalanceListener,
    TopicPartition,
)
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from faststream.kafka import KafkaBroker

from shared.messaging.broker import EmbeddedKafkaBroker
from shared.messaging.local_consumer import LocalConsumer, Record
from shared.messaging.local_log import LocalLog
from shared.messaging.local_producer import LocalProducer

# Nothing here takes longer on a healthy bus; a real cluster's rebalance takes a few seconds.
PATIENCE_SECONDS = 30

CONSUMER_OPTIONS: dict[str, Any] = {
    "auto_offset_reset": "earliest",
    "enable_auto_commit": False,
    # A cluster's members learn of a rebalance and of a new topic as quickly as the local ones.
    "heartbeat_interval_ms": 200,
    "session_timeout_ms": 6000,
    "metadata_max_age_ms": 300,
}


class Bus(Protocol):
    """One running bus. The local clients' types are the typed face of aiokafka's untyped ones."""

    async def start(self) -> None:
        """Open the bus."""

    async def create_topics(self, topics: Mapping[str, int]) -> None:
        """Create topics with their numbers of partitions."""

    async def producer(self, **options: Any) -> LocalProducer:
        """Return a started producer."""

    def consumer(self, *topics: str, **options: Any) -> LocalConsumer:
        """Return a consumer, not started, with CONSUMER_OPTIONS."""

    def broker(self, **options: Any) -> KafkaBroker:
        """Return FastStream's broker, not started."""

    async def restart(self) -> None:
        """Leave all clients behind as a killed process does, and come back."""

    async def close(self) -> None:
        """Stop what is still running."""


class EmbeddedBus:
    """The local log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = LocalLog(path)
        self._running: list[LocalProducer | LocalConsumer | KafkaBroker] = []

    async def start(self) -> None:
        await self._log.open()

    async def create_topics(self, topics: Mapping[str, int]) -> None:
        await self._log.create_topics(topics)

    async def producer(self, **options: Any) -> LocalProducer:
        producer = LocalProducer(self._log, **options)
        self._running.append(producer)
        await producer.start()
        return producer

    def consumer(self, *topics: str, **options: Any) -> LocalConsumer:
        consumer = LocalConsumer(self._log, *topics, **{**CONSUMER_OPTIONS, **options})
        self._running.append(consumer)
        return consumer

    def broker(self, **options: Any) -> KafkaBroker:
        broker = EmbeddedKafkaBroker(self._log, **options)
        self._running.append(broker)
        return broker

    async def restart(self) -> None:
        await self._log.close()
        self._log = LocalLog(self._path)
        await self._log.open()

    async def close(self) -> None:
        for client in self._running:
            await client.stop()
        await self._log.close()


class KafkaBus:
    """Apache Kafka, through the clients that a cluster's services use."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        self._running: list[LocalProducer | LocalConsumer | KafkaBroker] = []

    async def start(self) -> None:
        await self._admin.start()

    async def create_topics(self, topics: Mapping[str, int]) -> None:
        answer: Any = await self._admin.create_topics(
            [NewTopic(name, count, replication_factor=1) for name, count in topics.items()]
        )
        assert [code for _, code, *_ in answer.topic_errors] == [0] * len(topics)

    async def producer(self, **options: Any) -> LocalProducer:
        producer = cast(
            "LocalProducer", AIOKafkaProducer(bootstrap_servers=self._bootstrap, **options)
        )
        self._running.append(producer)
        await producer.start()
        return producer

    def consumer(self, *topics: str, **options: Any) -> LocalConsumer:
        consumer = cast(
            "LocalConsumer",
            AIOKafkaConsumer(
                *topics,
                bootstrap_servers=self._bootstrap,
                **{**CONSUMER_OPTIONS, **options},
            ),
        )
        self._running.append(consumer)
        return consumer

    def broker(self, **options: Any) -> KafkaBroker:
        broker = KafkaBroker(self._bootstrap, **options)
        self._running.append(broker)
        return broker

    async def restart(self) -> None:
        # The bus is in another process: what it keeps does not depend on the clients left behind.
        pass

    async def close(self) -> None:
        for client in self._running:
            await client.stop()
        await self._admin.close()


def unique(name: str) -> str:
    """Return a topic or group name that no other test of a shared cluster uses."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


class RecordingListener(ConsumerRebalanceListener):
    """Remembers what it was told, and lets a test wait for it."""

    def __init__(self, on_revoked: Callable[[], Awaitable[None]] | None = None) -> None:
        self.told: list[tuple[str, frozenset[TopicPartition]]] = []
        self._on_revoked = on_revoked
        self._news = asyncio.Event()

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        if self._on_revoked is not None and revoked:
            await self._on_revoked()
        self._remember("revoked", revoked)

    # A listener may be plain functions as well as coroutines.
    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._remember("assigned", assigned)

    def _remember(self, event: str, partitions: Collection[TopicPartition]) -> None:
        self.told.append((event, frozenset(partitions)))
        self._news.set()

    async def until(
        self, condition: Callable[[list[tuple[str, frozenset[TopicPartition]]]], bool]
    ) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self.told or not condition(self.told):
                self._news.clear()
                await self._news.wait()


async def read(consumer: LocalConsumer, count: int) -> list[Record]:
    """Return exactly `count` records, in the order in which they come."""
    records: list[Record] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(records) < count:
            taken = await consumer.getmany(timeout_ms=1000, max_records=count - len(records))
            records += [record for batch in taken.values() for record in batch]
    return records


def pattern_of(prefix: str) -> str:
    """Return a pattern for all topics that begin with `prefix`."""
    return f"^{re.escape(prefix)}.*"
