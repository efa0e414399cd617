"""What the measured services run on: a real Kafka, and a store of the benchmark's choosing."""

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from faststream.kafka import KafkaBroker
from pydantic import JsonValue

from deploy.cluster.settings import KafkaSettings
from deploy.cluster.topics import TopicsAdmin
from shared.clock import Clock, SystemClock
from shared.events.topics import TOPICS, Topic
from shared.http.auth import LocalIssuer, TokenVerifier
from shared.messaging.consumer import SESSION_TIMEOUT_SECONDS
from shared.messaging.dead_letters import RawRecord
from shared.store.mongo import MongoStore
from shared.store.port import Document, Store
from shared.store.sqlite import SqliteStore

ConsumerSettings = Mapping[str, JsonValue]
"""Arguments of aiokafka's consumer, in place of those that services choose."""


class _TunedBroker(KafkaBroker):
    """A KafkaBroker whose consumers have some settings of the benchmark's choosing."""

    consumer_settings: ConsumerSettings = {}

    async def _connect(self) -> Callable[..., AIOKafkaConsumer]:
        made = await super()._connect()
        config = self.config.broker_config
        config.builder = partial(_tuned, made, self.consumer_settings)
        return config.builder


def _tuned(
    make: Callable[..., AIOKafkaConsumer], settings: ConsumerSettings, **chosen: object
) -> AIOKafkaConsumer:
    return make(**{**chosen, **settings})


class BenchPlatform:
    """Implements `shared.runtime.Platform` for one run; its stores are new and empty."""

    session_timeout_seconds = SESSION_TIMEOUT_SECONDS

    def __init__(
        self,
        folder: Path,
        kafka: str,
        mongodb: str | None,
        consumer_settings: ConsumerSettings | None = None,
    ) -> None:
        """Keep documents in MongoDB where its URI is given, else in SQLite files in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.clock: Clock = SystemClock()
        self.issuer = LocalIssuer(folder / "issuer.pem")
        self.verifier: TokenVerifier = self.issuer.verifier()
        self._folder = folder
        self._kafka = kafka
        self._mongodb = mongodb
        self._consumer_settings = consumer_settings or {}
        self._prefix = f"bench_{uuid.uuid4().hex[:12]}_"

    def store(self, service: str) -> Store:
        """Return the service's own store, not yet open."""
        if self._mongodb is not None:
            return self._mongo_store(service)
        path = self._folder / f"{service}.db"
        return SqliteStore(path, service=service, region="local", clock=self.clock)

    def _mongo_store(self, service: str) -> MongoStore:
        assert self._mongodb is not None
        return MongoStore(
            self._mongodb,
            database=self._prefix + service,
            service=service,
            region="local",
            clock=self.clock,
        )

    async def migrate(self, service: str, documents: Sequence[type[Document]]) -> None:
        """Create the collections and indexes that the service needs in MongoDB."""
        if self._mongodb is not None:
            await self._mongo_store(service).migrate(documents)

    def broker(self, service: str) -> KafkaBroker:
        """Return a broker connection as the cluster's services have it, not yet started."""
        broker = _TunedBroker(
            self._kafka.split(","),
            client_id=f"upward-{service}",
            acks="all",
            enable_idempotence=False,
            allow_auto_create_topics=False,
            request_timeout_ms=10_000,
            graceful_timeout=25.0,
            logger=None,
        )
        broker.consumer_settings = self._consumer_settings
        return broker

    def secret(self, service: str, name: str) -> bytes:
        """Return a stable secret of this service."""
        return hashlib.sha256(f"{service}:{name}".encode()).digest()


async def create_topics(kafka: str, partitions: int | None = None) -> None:
    """Create the contract's topics with one replica each, and as declared unless told otherwise."""
    topics = [
        topic if partitions is None else _with_partitions(topic, partitions)
        for topic in TOPICS.values()
    ]
    async with TopicsAdmin(KafkaSettings(servers=tuple(kafka.split(",")))) as admin:
        await admin.apply(await admin.plan(topics, 1))


def _with_partitions(topic: Topic, partitions: int) -> Topic:
    return Topic(topic.name, topic.owner, topic.readers, partitions=partitions)


async def publish(kafka: str, records: Iterable[RawRecord]) -> int:
    """Put records on Kafka as their owners would; return how many."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", linger_ms=5)
    await producer.start()
    count = 0
    try:
        for record in records:
            await producer.send(
                record.topic, record.value, key=record.key, headers=list(record.headers)
            )
            count += 1
    finally:
        await producer.stop()
    return count


async def rewind(kafka: str, group: str, topics: Sequence[str]) -> list[TopicPartition]:
    """Have a group that nobody is in begin anew; return its partitions."""
    async with AsyncExitStack() as steps:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=kafka, group_id=group, enable_auto_commit=False
        )
        await consumer.start()
        steps.push_async_callback(consumer.stop)
        async with TopicsAdmin(KafkaSettings(servers=tuple(kafka.split(",")))) as admin:
            counts = await admin.partitions(topics)
        found = [TopicPartition(name, n) for name, count in counts.items() for n in range(count)]
        consumer.assign(found)
        await consumer.commit({partition: OffsetAndMetadata(0, "") for partition in found})
        return found


async def until(condition: Callable[[], Awaitable[bool]], pause: float) -> None:
    """Wait until a condition holds, looking every `pause` seconds."""
    while True:
        if await condition():
            return
        await asyncio.sleep(pause)
