"""What is read from Kafka and MongoDB themselves, past the system under test, to judge it."""

import asyncio
import base64
import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import pymongo
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from deploy.client import Json
from deploy.cloud_events import cloud_event
from services.feedback.subscribers import subscribe as subscribe_feedback
from services.matching.subscribers import subscriptions
from services.reporting.subscribers import subscribe as subscribe_reporting
from services.sessions.subscribers import subscribe as subscribe_sessions
from shared.clock import SystemClock
from shared.events.envelope import Event
from shared.events.topics import TOPICS
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import RawRecord
from tests.faults.cluster.journal import Command

H = TypeVar("H")

_HEADER = "ce_"


@dataclass(frozen=True)
class Told:
    """One event as its outbox or one record on a topic tells it; `digest` is of its bytes."""

    event_id: str
    type: str
    source: str
    subject: str
    version: int
    correlation: str | None
    caused: bool
    digest: str
    topic: str
    partition: int = 0
    offset: int = 0
    sent: bool = True


@dataclass
class Evidence:
    """Everything that the invariants look at."""

    journal: dict[str, Command]
    outbox: list[Told]
    topics: list[Told]
    """In the order of each partition; records that are no CloudEvents are left out."""
    inbox: dict[str, Counter[str]]
    """By group: how often each event's id is noted."""
    dead: dict[str, set[str]]
    """By group: the ids of buried events."""
    handled: Mapping[str, frozenset[str]]
    """By group: the types that it applies."""
    foreign: frozenset[str]
    """The ids of events that the harness itself put on topics."""
    applied: dict[str, tuple[float, bool]] = field(default_factory=dict)
    """By group: what its replicas' counters say they have applied, and whether all survived."""
    kpis: list[Json] = field(default_factory=list)
    checker: str = ""
    """What the independent checker found in the topics' events and these rows."""
    texts: dict[str, bytes] = field(default_factory=dict)
    """By name: whatever could hold what must not leave enrollment: logs, records."""


def _told(headers: Mapping[str, str], value: bytes | None, **place: Any) -> Told | None:
    if _HEADER + "id" not in headers:
        return None
    # A client adds headers of its own on the way.
    ours = sorted((name, text) for name, text in headers.items() if name.startswith(_HEADER))
    digest = hashlib.sha256(json.dumps(ours).encode())
    digest.update(value or b"")
    return Told(
        event_id=headers["ce_id"],
        type=headers["ce_type"],
        source=headers["ce_source"],
        subject=headers["ce_subject"],
        version=int(headers["ce_aggregateversion"]),
        correlation=headers.get("ce_correlationid"),
        caused="ce_causationid" in headers,
        digest=digest.hexdigest(),
        **place,
    )


Record = ConsumerRecord[bytes | None, bytes | None]


class Topics:
    """Every record that the contract's topics have ever held, read once and kept."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._records: list[Record] = []
        self._next: dict[TopicPartition, int] = {
            TopicPartition(name, number): 0
            for name, topic in TOPICS.items()
            for number in range(topic.partitions)
        }

    async def read(self) -> list[Record]:
        """Return all records, each partition in its order, the new ones behind."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._servers,
            enable_auto_commit=False,
            isolation_level="read_committed",
        )
        partitions = list(self._next)
        consumer.assign(partitions)
        await consumer.start()
        try:
            starts = await consumer.beginning_offsets(partitions)
            ends = await consumer.end_offsets(partitions)
            for tp in partitions:
                self._next[tp] = max(self._next[tp], starts[tp])
                consumer.seek(tp, self._next[tp])
            async with asyncio.timeout(60):
                while waiting := [tp for tp in partitions if self._next[tp] < ends[tp]]:
                    for tp, records in (await consumer.getmany(*waiting, timeout_ms=500)).items():
                        # Those that came meanwhile, too: they are not read again.
                        self._records += records
                        self._next[tp] = await consumer.position(tp)
        finally:
            await consumer.stop()
        return self._records


class _Recorder:
    def __init__(self) -> None:
        self.kinds: set[str] = set()

    def on(self, *kinds: type[Event]) -> Callable[[H], H]:
        self.kinds |= {kind.type() for kind in kinds}
        return lambda handler: handler

    def on_batch(self, *kinds: type[Event], digest: object = None) -> Callable[[H], H]:
        return self.on(*kinds)


def handled() -> dict[str, frozenset[str]]:
    """Return by group which types of events it applies."""
    subscribes: dict[str, Callable[[Consumer], None]] = {
        "matching": subscriptions(SystemClock()),
        "sessions": subscribe_sessions,
        "feedback": subscribe_feedback,
        "reporting": subscribe_reporting,
    }
    found = {}
    for service, subscribe in subscribes.items():
        recorder = _Recorder()
        subscribe(cast("Consumer", recorder))
        found[f"upward.{service}"] = frozenset(recorder.kinds)
    return found


def events_on(records: Iterable[Record]) -> list[Told]:
    """Return those records that are CloudEvents, poison or not."""
    found = []
    for record in records:
        if record.topic.endswith(".dlq.v1"):
            continue
        try:
            headers = {name: (text or b"").decode() for name, text in record.headers}
            told = _told(
                headers,
                record.value,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
            )
        except (UnicodeDecodeError, KeyError, ValueError):
            continue  # poison of the harness's own: the dead letters are looked at for it
        if told is not None:
            found.append(told)
    return found


def exported(records: Iterable[Record], foreign: frozenset[str]) -> list[Json]:
    """Return the contract's events by the time of their publication, as the checker reads them.

    What the harness itself put on topics is left out and offsets are made good.
    """
    queues: dict[tuple[str, int], deque[tuple[int, Json]]] = {}
    for record in records:
        event = cloud_event(
            RawRecord(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                key=record.key,
                value=record.value,
                headers=tuple(record.headers),
            )
        )
        if event is None or event["id"] in foreign:
            continue
        queue = queues.setdefault((record.topic, record.partition), deque())
        when = max(queue[-1][0] if queue else 0, record.timestamp)
        queue.append((when, event | {"logoffset": len(queue)}))
    return list(_merged([queues[place] for place in sorted(queues)]))


def _merged(queues: list[deque[tuple[int, Json]]]) -> Iterator[Json]:
    """Yield by time, but of a subject that has two topics no later version first.

    Kafka keeps no order between topics, so none may be read into it.
    """
    waiting = Counter(_version(event) for queue in queues for _, event in queue)
    while heads := [queue for queue in queues if queue]:
        heads.sort(key=lambda queue: queue[0][0])
        in_order = (q for q in heads if not waiting[_version(q[0][1], back=1)])
        _, event = next(in_order, heads[0]).popleft()
        waiting[_version(event)] -= 1
        yield event


def _version(event: Json, back: int = 0) -> tuple[str, str, int]:
    return event["source"], event["subject"], event["aggregateversion"] - back


class Stores:
    """The services' databases, read as no service would."""

    def __init__(self, uri: str, prefix: str, services: Iterable[str]) -> None:
        self._uri = uri
        self._names = {service: f"{prefix}{service}" for service in services}

    def read(self, evidence: Evidence) -> None:
        """Fill in outbox, inbox and dead letters. Blocks."""
        with pymongo.MongoClient[dict[str, Any]](self._uri) as client:
            for service, name in self._names.items():
                database = client[name]
                for row in database["store.outbox"].find().sort("_id", 1):
                    told = _told(
                        dict(json.loads(row["headers"])),
                        row["value"],
                        topic=row["topic"],
                        sent=row["sent"],
                    )
                    if told is not None:
                        evidence.outbox.append(told)
                group = f"upward.{service}"
                evidence.inbox[group] = Counter(
                    row["_id"].partition("/")[2] for row in database["store.inbox"].find()
                )
                evidence.dead[group] = {
                    event_id
                    for row in database["dead_letters"].find({"state": "open"})
                    if (event_id := _id_of(row["headers"])) is not None
                }

    def dead_letters(self, service: str) -> list[dict[str, Any]]:
        """Return a service's dead letters. Blocks."""
        with pymongo.MongoClient[dict[str, Any]](self._uri) as client:
            return list(client[self._names[service]]["dead_letters"].find())


def _id_of(headers: Iterable[tuple[str, str | None]]) -> str | None:
    for name, value in headers:
        if name == "ce_id" and value is not None:
            return base64.b64decode(value).decode(errors="replace")
    return None
