"""The delivery chain on a real embedded bus: outbox, relay, log, consumer, inbox, dead letters."""

import asyncio
import base64
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

import pytest
from aiokafka.errors import KafkaConnectionError
from prometheus_client import REGISTRY

from shared.clock import ManualClock, monotonic
from shared.errors import RuleViolationError, StaleWriteError, StoreUnavailableError
from shared.events.envelope import Envelope, Event, data_schema
from shared.events.participants import Paused, RosterCounted
from shared.events.programs import ProgramClosed, ProgramPublished
from shared.events.topics import (
    MAX_EVENT_BYTES,
    PARTICIPANTS,
    PROGRAMS,
    TOPICS,
    dead_letter_topic,
)
from shared.ids import new_event_id
from shared.messaging import consumer
from shared.messaging import relay as relays
from shared.messaging.breaker import DeadLetterLimit
from shared.messaging.broker import EmbeddedKafkaBroker
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import DeadLetter
from shared.messaging.local_consumer import LocalConsumer
from shared.messaging.local_log import LocalLog
from shared.messaging.local_producer import LocalProducer
from shared.messaging.local_storage import StoredRecord
from shared.messaging.parsing import PermanentError
from shared.messaging.relay import Relay
from shared.store.port import Document, Store, Transaction
from shared.store.sqlite import SqliteStore
from shared.tracing import Trace, traced
from tests.support.golden import golden_event
from tests.support.platform import START, running_platform

P = ParamSpec("P")
T = TypeVar("T")
Headers = list[tuple[str, bytes | None]]

SERVICE = "tally"
DEAD = dead_letter_topic(SERVICE)
NO_LIMIT = DeadLetterLimit(in_a_row=10_000, ratio=1.0)


class Seen(Document):
    """What the test service knows of a participant: the versions that it applied, in order."""

    collection: ClassVar[str] = "seen"

    versions: tuple[int, ...] = ()


class Refusals:
    """Which participants the test service's handler refuses, and how."""

    def __init__(self) -> None:
        self.by_id: dict[str, BaseException] = {}
        self.calls: dict[str, int] = defaultdict(int)

    async def follow(self, tx: Transaction, event: Paused, envelope: Envelope) -> None:
        self.calls[event.participant_id] += 1
        if (error := self.by_id.get(event.participant_id)) is not None:
            raise error
        seen = await tx.get(Seen, event.participant_id) or Seen(id=event.participant_id)
        tx.put(seen.changed(versions=(*seen.versions, envelope.aggregateversion)))
        tx.emit(ProgramClosed(program_id=event.participant_id, version=1))


class UnsteadyStore(SqliteStore):
    """A store whose next transactions fail, before or after their commit."""

    failures: list[BaseException]
    after_commit: list[BaseException]
    commits = 0

    async def transact(
        self,
        handler: Callable[Concatenate[Transaction, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if self.failures:
            raise self.failures.pop()
        result = await super().transact(handler, *args, **kwargs)
        self.commits += 1
        if self.after_commit:
            raise self.after_commit.pop()
        return result


class Bus:
    """A log on which tests put records as other services would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "events.db"
        self.log = LocalLog(self.path)

    async def open(self) -> None:
        await self.log.open()
        topics = {name: topic.partitions for name, topic in TOPICS.items()}
        await self.log.create_topics(topics | {DEAD: 1})

    async def send(
        self, value: bytes | None, headers: Headers, *, key: str = "k", topic: str = PARTICIPANTS
    ) -> None:
        producer = LocalProducer(self.log)
        await producer.start()
        await producer.send_and_wait(topic, value, key=key.encode(), headers=headers)
        await producer.stop()

    async def pause(self, participant_id: str, version: int = 1, **changes: str | None) -> Headers:
        """Put a good event on the log, but for the changed headers; return its headers."""
        headers = headers_of(paused(participant_id), version, **changes)
        await self.send(body_of(paused(participant_id)), headers, key=participant_id)
        return headers

    def records(self, topic: str) -> list[StoredRecord]:
        reader = LocalLog.reader(self.path)
        try:
            return [record for record in reader.export() if record.topic == topic]
        finally:
            reader.close()


def paused(participant_id: str) -> Paused:
    return Paused(program_id="p", participant_id=participant_id, person_id="x", at=START)


def body_of(event: Event, **changes: object) -> bytes:
    return json.dumps(event.model_dump(mode="json") | changes).encode()


def headers_of(event: Event, version: int = 1, **changes: str | None) -> Headers:
    """Return good headers, but for the changed ones; None leaves one out."""
    envelope = Envelope(
        id=new_event_id(),
        source="/upward/local/enrollment",
        type=event.type(),
        subject=event.subject,
        time=START,
        dataschema=data_schema(event.type()),
        program=event.program_id,
        region="local",
        aggregateversion=version,
    )
    texts: dict[str, str | None] = {**envelope.to_headers(), **changes}
    return [(name, text.encode()) for name, text in texts.items() if text is not None]


class Chain:
    """A small service: a store, a consumer and a relay on the bus."""

    def __init__(
        self,
        bus: Bus,
        limit: DeadLetterLimit,
        broker: Callable[..., EmbeddedKafkaBroker] = EmbeddedKafkaBroker,
        service: str = SERVICE,
    ) -> None:
        clock = ManualClock(START)
        self.bus = bus
        self.refusals = Refusals()
        self.store = UnsteadyStore(
            bus.folder / f"{service}.db", service=service, region="local", clock=clock
        )
        self.store.failures, self.store.after_commit = [], []
        self.consumer = Consumer(service, self.store, clock, limit)
        self.consumer.on(Paused)(self.refusals.follow)
        self.broker = broker(bus.log, acks="all", graceful_timeout=25, logger=None)
        self.consumer.subscribe(self.broker)
        self.relay = Relay(service, self.store, self.broker)

    async def start(self) -> None:
        await self.store.open([Seen, DeadLetter])
        await self.broker.start()
        self.relay.start()

    async def stop(self) -> None:
        for subscriber in self.broker.subscribers:
            await subscriber.stop()
        await self.relay.stop()
        await self.broker.stop()
        await self.store.close()

    def client(self) -> Any:
        """Return the Kafka client under the consumer."""
        subscriber: Any
        (subscriber,) = self.broker.subscribers
        return subscriber.consumer

    async def settle(self) -> None:
        await eventually(self._is_quiet)

    async def _is_quiet(self) -> bool:
        depth = await self.store.outbox.depth()
        return await self.consumer.lag() == 0 and depth.pending == 0

    async def versions(self, participant_id: str) -> tuple[int, ...]:
        seen = await self.store.get(Seen, participant_id)
        return () if seen is None else seen.versions

    async def letters(self) -> list[DeadLetter]:
        return await self.store.find(DeadLetter)


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # what it asks is not in this loop's hands
            await asyncio.sleep(0.005)


def counted(outcome: str) -> float:
    labels = {"service": SERVICE, "outcome": outcome}
    return REGISTRY.get_sample_value("upward_consumed_total", labels) or 0


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    bus = Bus(tmp_path)
    await bus.open()
    yield bus
    await bus.log.close()


@asynccontextmanager
async def running(
    bus: Bus, limit: DeadLetterLimit = NO_LIMIT, **options: Any
) -> AsyncIterator[Chain]:
    chain = Chain(bus, limit, **options)
    await chain.start()
    try:
        yield chain
    finally:
        await chain.stop()


# Poison --------------------------------------------------------------------------------------

EVENT = paused("poison")
BODY = body_of(EVENT)

POISON: dict[str, tuple[bytes | None, Headers, str, str]] = {
    "not JSON": (b"{", headers_of(EVENT), PARTICIPANTS, "data: not JSON"),
    "empty": (b"", headers_of(EVENT), PARTICIPANTS, "data: not JSON"),
    "not UTF-8": (b'"\xff"', headers_of(EVENT), PARTICIPANTS, "data: not JSON"),
    "not an object": (b"[]", headers_of(EVENT), PARTICIPANTS, "data: value"),
    "wrong type": (body_of(EVENT, at=[]), headers_of(EVENT), PARTICIPANTS, "data: at"),
    "missing field": (b'{"program_id":"p"}', headers_of(EVENT), PARTICIPANTS, "participant_id"),
    "no offset": (
        body_of(EVENT, at="2026-01-01T00:00:00"),
        headers_of(EVENT),
        PARTICIPANTS,
        "data: at",
    ),
    "tombstone": (None, headers_of(EVENT), PARTICIPANTS, "tombstone"),
    "too large": (b" " * (MAX_EVENT_BYTES + 1), headers_of(EVENT), PARTICIPANTS, "too large"),
    "nearly the bus's limit": (b" " * (2**20 - 2000), headers_of(EVENT), PARTICIPANTS, "too large"),
    "deeply nested": (b"[" * 100_000, headers_of(EVENT), PARTICIPANTS, "data: not JSON"),
    "nested but closed": (
        b'{"at":' * 1000 + b"1" + b"}" * 1000,
        headers_of(EVENT),
        PARTICIPANTS,
        "data: ",
    ),
    "huge integer": (
        BODY.replace(b'"2026-01-05T08:00:00.000000Z"', b"9" * 5000),
        headers_of(EVENT),
        PARTICIPANTS,
        "data: ",
    ),
    "NaN": (BODY.replace(b'"x"', b"NaN"), headers_of(EVENT), PARTICIPANTS, "data: not JSON"),
    "lone surrogate": (
        BODY.replace(b'"x"', b'"\\ud800"'),
        headers_of(EVENT),
        PARTICIPANTS,
        "data: not JSON",
    ),
    "no headers": (BODY, [], PARTICIPANTS, "specversion is missing"),
    "no id": (BODY, headers_of(EVENT, ce_id=None), PARTICIPANTS, "envelope: id"),
    "no content type": (
        BODY,
        [header for header in headers_of(EVENT) if header[0] != "content-type"],
        PARTICIPANTS,
        "datacontenttype is missing",
    ),
    "invalid time": (BODY, headers_of(EVENT, ce_time="soon"), PARTICIPANTS, "envelope: time"),
    "invalid version": (
        BODY,
        headers_of(EVENT, ce_aggregateversion="0"),
        PARTICIPANTS,
        "envelope: aggregateversion",
    ),
    "other CloudEvents": (
        BODY,
        headers_of(EVENT, ce_specversion="0.3"),
        PARTICIPANTS,
        "envelope: specversion",
    ),
    "control character": (
        BODY,
        headers_of(EVENT, ce_id="a\0b"),
        PARTICIPANTS,
        "envelope: id: Value error, has a control character",
    ),
    "null header": (BODY, [*headers_of(EVENT), ("ce_x", None)], PARTICIPANTS, "ce_x is null"),
    "non-UTF-8 header": (BODY, [*headers_of(EVENT), ("ce_x", b"\xff")], PARTICIPANTS, "not UTF-8"),
    "header twice": (
        BODY,
        [*headers_of(EVENT), ("ce_id", b"other")],
        PARTICIPANTS,
        "ce_id comes twice",
    ),
    "unknown type": (
        BODY,
        headers_of(EVENT, ce_type="upward.unheard-of.v1"),
        PARTICIPANTS,
        "unknown type upward.unheard-of.v1",
    ),
    "type of another topic": (
        BODY,
        headers_of(EVENT, ce_type="upward.program-closed.v1"),
        PARTICIPANTS,
        "does not belong on",
    ),
    "another subject": (
        BODY,
        headers_of(EVENT, ce_subject="somebody"),
        PARTICIPANTS,
        "different subjects",
    ),
    "another program": (BODY, headers_of(EVENT, ce_program="q"), PARTICIPANTS, "different"),
    "many headers": (
        b"{",
        [*headers_of(EVENT), *[(f"h{n}", b"x" * 3000) for n in range(90)]],
        PARTICIPANTS,
        "data: not JSON",
    ),
}


async def test_each_poison_is_dead_lettered_as_received_and_its_neighbors_are_applied(
    bus: Bus,
) -> None:
    for number, (value, headers, topic, _) in enumerate(POISON.values()):
        await bus.pause("before", number + 1)
        await bus.send(value, headers, topic=topic)
        await bus.pause("after", number + 1)
    async with running(bus) as chain:
        await chain.settle()
        for neighbor in ("before", "after"):
            assert await chain.versions(neighbor) == tuple(range(1, len(POISON) + 1))
        assert chain.refusals.calls["poison"] == 0
        letters = sorted(await chain.letters(), key=lambda letter: letter.offset)
        assert chain.consumer.alive()
    assert len(letters) == len(POISON)
    published = {record.key: record for record in bus.records(DEAD)}
    for name, (letter, (value, headers, topic, reason)) in zip(
        POISON, zip(letters, POISON.values(), strict=True), strict=True
    ):
        assert reason in letter.reason, name
        raw = letter.raw()
        assert (raw.topic, raw.value, list(raw.headers)) == (topic, value, headers), name
        record = published[letter.id.encode()]
        told = {key: (text or b"").decode() for key, text in record.headers if key[:3] == "dlq"}
        left_out = told.pop("dlq_left_out", "").split()
        assert record.value == (None if "value" in left_out else value), name
        assert told == {
            "dlq_reason": letter.reason,
            "dlq_topic": topic,
            "dlq_partition": str(letter.partition),
            "dlq_offset": str(letter.offset),
            "dlq_group": "upward.tally",
            "dlq_attempts": "1",
            "dlq_first_at": "2026-01-05T08:00:00.000000Z",
            "dlq_last_at": "2026-01-05T08:00:00.000000Z",
            "dlq_key": base64.b64encode(b"k").decode(),
            "dlq_headers": "[]" if "headers" in left_out else json.dumps(letter.headers),
        }, name


async def test_a_reason_never_quotes_what_the_record_says(bus: Bus) -> None:
    secret = "Zaphod"
    for value, headers in (
        (body_of(EVENT, at=secret), headers_of(EVENT)),
        (body_of(EVENT, person_id={secret: secret}), headers_of(EVENT)),
        (secret.encode(), headers_of(EVENT)),
        (BODY, headers_of(EVENT, ce_time=secret)),
        (BODY, headers_of(EVENT, ce_source=secret)),
        (BODY, headers_of(EVENT, ce_type=secret)),
    ):
        await bus.send(value, headers)
    async with running(bus) as chain:
        await chain.settle()
        reasons = [letter.reason for letter in await chain.letters()]
    assert len(reasons) == 6
    assert not [reason for reason in reasons if secret in reason]


async def test_what_nobody_here_wants_is_skipped_unread(bus: Bus) -> None:
    count = RosterCounted(program_id="p", role="mentor", employed=9, left=0, as_of=START)
    skipped = counted("skipped")
    await bus.send(b"not JSON, and none of our business", headers_of(count))
    await bus.pause("a")
    async with running(bus) as chain:
        await chain.settle()
        assert await chain.letters() == []
        assert await chain.versions("a") == (1,)
    assert counted("skipped") == skipped + 1


async def test_null_bytes_are_only_text(bus: Bus) -> None:
    await bus.pause("a\0b")
    async with running(bus) as chain:
        await chain.settle()
        assert await chain.versions("a\0b") == (1,)


# Handlers ------------------------------------------------------------------------------------


async def test_a_batch_commits_once(bus: Bus) -> None:
    for number in range(50):
        await bus.pause(f"p{number % 5}", number // 5 + 1)
    applied = counted("applied")
    async with running(bus) as chain:
        await chain.settle()
        assert [await chain.versions(f"p{n}") for n in range(5)] == [tuple(range(1, 11))] * 5
        assert chain.store.commits == 1
    assert counted("applied") == applied + 50


@pytest.mark.parametrize(
    ("error", "attempts", "reason"),
    [
        (RuleViolationError("never", code="no_way"), 1, "no_way: never"),
        (LookupError("Zaphod"), 3, "unexpected LookupError"),
        (RecursionError(), 3, "unexpected RecursionError"),
        (asyncio.CancelledError(), 3, "unexpected RuntimeError"),
        (RuleViolationError("\ud800" * 9000), 1, "rule_violation: ??"),
    ],
)
async def test_an_event_that_its_handler_refuses_harms_no_neighbor(
    bus: Bus, error: BaseException, attempts: int, reason: str
) -> None:
    dead, applied = counted("dead_letter"), counted("applied")
    for participant_id in ("a", "bad", "b"):
        await bus.pause(participant_id)
    chain = Chain(bus, NO_LIMIT)
    chain.refusals.by_id["bad"] = error
    await chain.start()
    await chain.settle()
    assert [await chain.versions(name) for name in ("a", "bad", "b")] == [(1,), (), (1,)]
    (letter,) = await chain.letters()
    assert letter.reason.startswith(reason)
    assert len(letter.reason) <= 500
    assert letter.attempts == attempts
    assert chain.consumer.alive()
    await bus.pause("later")
    await chain.settle()
    assert await chain.versions("later") == (1,)
    await chain.stop()
    assert (counted("dead_letter") - dead, counted("applied") - applied) == (1, 3)


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("away"), StaleWriteError("busy"), asyncio.CancelledError()]
)
async def test_a_transient_error_is_retried_after_a_pause_and_never_dead_lettered(
    bus: Bus, error: BaseException
) -> None:
    await bus.pause("a")
    await bus.send(b"{", headers_of(EVENT))
    chain = Chain(bus, DeadLetterLimit(in_a_row=2))
    chain.store.failures = [error] * 3
    loop = asyncio.get_running_loop()
    started = loop.time()
    await chain.start()
    await chain.settle()
    # Half of 0.1, 0.2 and 0.4 s at least, whatever the jitter.
    assert loop.time() - started > 0.35
    assert await chain.versions("a") == (1,)
    assert len(await chain.letters()) == 1  # the poison, counted once and not at each attempt
    assert chain.consumer.stopped_because is None
    await chain.stop()


async def test_a_write_that_stays_stale_becomes_a_dead_letter_after_its_redeliveries(
    bus: Bus,
) -> None:
    await bus.pause("bad")
    chain = Chain(bus, NO_LIMIT)
    # Five redeliveries, the batch once more, and the event alone.
    chain.store.failures = [StaleWriteError("seen changed meanwhile")] * 7
    await chain.start()
    await chain.settle()
    (letter,) = await chain.letters()
    assert letter.reason == "unexpected StaleWriteError"
    assert await chain.versions("bad") == ()
    await chain.stop()


async def test_a_redelivery_after_a_commit_applies_nothing_twice(bus: Bus) -> None:
    duplicates = counted("duplicate")
    await bus.pause("a")
    await bus.send(b"{", headers_of(EVENT))
    chain = Chain(bus, NO_LIMIT)
    # The store commits, the offsets don't: what a crash between the two leaves.
    chain.store.after_commit = [StoreUnavailableError("died")]
    await chain.start()
    await chain.settle()
    assert await chain.versions("a") == (1,)
    assert len(await chain.letters()) == len(bus.records(DEAD)) == 1
    assert len(bus.records(PROGRAMS)) == 1
    await chain.stop()
    assert counted("duplicate") == duplicates + 1


async def test_the_same_event_delivered_again_later_is_skipped(bus: Bus) -> None:
    headers = await bus.pause("a", 1)
    await bus.pause("a", 2)
    await bus.send(body_of(paused("a")), headers, key="a")
    async with running(bus) as chain:
        await chain.settle()
        assert await chain.versions("a") == (1, 2)
    async with running(bus) as chain:
        await bus.send(body_of(paused("a")), headers, key="a")
        await chain.settle()
        assert await chain.versions("a") == (1, 2)


# The dead-letter limit -----------------------------------------------------------------------


async def test_a_flood_stops_the_consumer_and_a_higher_limit_goes_on(bus: Bus) -> None:
    await bus.pause("first")
    async with running(bus) as chain:
        await chain.settle()
    for number in range(10):
        await bus.send(b"{", headers_of(EVENT), key=str(number % 3))
    await bus.pause("behind")
    async with running(bus, DeadLetterLimit(in_a_row=5)) as chain:

        async def stopped() -> bool:
            return chain.consumer.stopped_because is not None

        await eventually(stopped)
        assert chain.consumer.stopped_because == "5 dead letters in a row"
        assert chain.consumer.alive()

        async def left() -> bool:
            return await chain.consumer.lag() == 0 and not chain.broker.subscribers[0].running

        await eventually(left)
        labels = {"service": SERVICE}
        assert REGISTRY.get_sample_value("upward_consumer_stopped", labels) == 1
        assert await chain.letters() == []
        assert await chain.versions("behind") == ()
    async with running(bus, DeadLetterLimit(in_a_row=50)) as chain:
        assert REGISTRY.get_sample_value("upward_consumer_stopped", labels) == 0
        await chain.settle()
        assert len(await chain.letters()) == 10
        assert await chain.versions("behind") == (1,)
        assert await chain.versions("first") == (1,)


async def test_too_large_a_share_of_dead_letters_stops_the_consumer(bus: Bus) -> None:
    for number in range(20):
        await bus.pause(f"p{number}")
        if number % 2:
            await bus.send(b"{", headers_of(EVENT))
    async with running(bus, DeadLetterLimit(in_a_row=50, ratio=0.25, window=20)) as chain:

        async def stopped() -> bool:
            return chain.consumer.stopped_because is not None

        await eventually(stopped)
        assert "of the last 20 records" in str(chain.consumer.stopped_because)


async def test_handlers_that_all_refuse_are_a_flood_too(bus: Bus) -> None:
    for number in range(8):
        await bus.pause(f"p{number}")
    chain = Chain(bus, DeadLetterLimit(in_a_row=5))
    chain.refusals.by_id = {f"p{n}": RuleViolationError("no") for n in range(8)}
    await chain.start()

    async def stopped() -> bool:
        return chain.consumer.stopped_because is not None

    await eventually(stopped)
    assert len(await chain.letters()) < 5
    await chain.stop()
    async with running(bus) as mended:
        await mended.settle()
        # The batch was left uncommitted and came again, what had been dead-lettered included.
        assert [await mended.versions(f"p{n}") for n in range(8)] == [(1,)] * 8
        for letter in await mended.letters():
            await mended.store.transact(mended.consumer.retry, letter)
        assert [await mended.versions(f"p{n}") for n in range(8)] == [(1,)] * 8


# Handling dead letters -----------------------------------------------------------------------


async def test_a_retried_dead_letter_is_applied_once_and_closed(bus: Bus) -> None:
    await bus.pause("bad")
    chain = Chain(bus, NO_LIMIT)
    chain.refusals.by_id["bad"] = RuleViolationError("not yet", code="not_yet")
    await chain.start()
    await chain.settle()
    (letter,) = await chain.letters()

    async def retry(tx: Transaction) -> DeadLetter:
        return await chain.consumer.retry(tx, await tx.require(DeadLetter, letter.id))

    with pytest.raises(PermanentError, match="not_yet: not yet"):
        await chain.store.transact(retry)
    assert (await chain.store.require(DeadLetter, letter.id)).state == "open"
    chain.refusals.by_id["bad"] = LookupError()
    with pytest.raises(PermanentError, match="unexpected LookupError"):
        await chain.store.transact(retry)
    chain.refusals.by_id["bad"] = StoreUnavailableError("away")
    with pytest.raises(StoreUnavailableError):
        await chain.store.transact(retry)
    del chain.refusals.by_id["bad"]
    assert (await chain.store.transact(retry)).state == "retried"
    await chain.store.transact(retry)  # the inbox knows it
    assert await chain.versions("bad") == (1,)
    await chain.stop()


async def test_a_record_that_no_retry_can_read_stays_open(bus: Bus) -> None:
    await bus.send(b"{", headers_of(EVENT))
    async with running(bus) as chain:
        await chain.settle()
        (letter,) = await chain.letters()
        with pytest.raises(PermanentError, match="data: not JSON"):
            await chain.store.transact(chain.consumer.retry, letter)


# The relay -----------------------------------------------------------------------------------


class ChoosyBroker(EmbeddedKafkaBroker):
    """Fails the publications of some keys, and remembers the order of all others."""

    failing: ClassVar[set[bytes]] = set()
    dying: ClassVar[list[BaseException]] = []

    async def publish(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs["key"] in self.failing:
            raise KafkaConnectionError
        acknowledged = await super().publish(*args, **kwargs)
        if self.dying:
            await acknowledged
            raise self.dying.pop()
        return acknowledged


@pytest.fixture
def choosy() -> type[ChoosyBroker]:
    ChoosyBroker.failing.clear()
    ChoosyBroker.dying.clear()
    return ChoosyBroker


async def tell(tx: Transaction, program_id: str, numbers: Sequence[int]) -> None:
    for number in numbers:
        tx.emit(ProgramClosed(program_id=program_id, version=number))


def told(bus: Bus, key: str) -> list[int]:
    return [
        json.loads(record.value or b"")["version"]
        for record in bus.records(PROGRAMS)
        if record.key == key.encode()
    ]


async def test_a_key_that_fails_stops_itself_and_no_other(
    bus: Bus, choosy: type[ChoosyBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "_PASS_SECONDS", 0.0)
    choosy.failing.add(b"stuck")
    async with running(bus, broker=choosy) as chain:
        # More than a page of the outbox: those behind must not starve.
        await chain.store.transact(tell, "stuck", range(1, 701))
        await chain.store.transact(tell, "free", range(1, 4))

        async def free_is_out() -> bool:
            return (await chain.store.outbox.depth()).pending == 700

        await eventually(free_is_out)
        assert told(bus, "free") == [1, 2, 3]
        assert told(bus, "stuck") == []
        assert chain.relay.alive()
        choosy.failing.clear()
        await chain.settle()
        assert told(bus, "stuck") == list(range(1, 701))


async def test_nobody_waits_with_a_key_that_failed(
    bus: Bus, choosy: type[ChoosyBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "_PAUSE_AFTER_FAILURE_SECONDS", 3600.0)
    choosy.failing.add(b"stuck")
    async with running(bus, broker=choosy) as chain:
        await chain.store.transact(tell, "stuck", [1])
        for number in range(1, 4):
            await chain.store.transact(tell, "free", [number])

            async def is_out(number: int = number) -> bool:
                return told(bus, "free")[-1:] == [number]

            await eventually(is_out)
        assert told(bus, "stuck") == []


@pytest.mark.parametrize("bus_answers", [True, False])
async def test_a_relay_that_is_cut_off_the_bus_lets_another_replica_try(
    bus: Bus, choosy: type[ChoosyBroker], monkeypatch: pytest.MonkeyPatch, bus_answers: bool
) -> None:
    monkeypatch.setattr(relays, "_GIVE_UP_SECONDS", 0.0)
    monkeypatch.setattr(relays, "_ASK_SECONDS", 0.01)
    choosy.failing.add(b"stuck")
    async with running(bus, broker=choosy) as chain:
        lease = chain.store.lease("relay")
        asked = released = 0
        release = lease.release

        async def count() -> None:
            nonlocal released
            released += 1
            await release()

        async def ping(_timeout: float | None) -> bool:
            nonlocal asked
            asked += 1
            return bus_answers

        monkeypatch.setattr(lease, "release", count)
        monkeypatch.setattr(chain.broker, "ping", ping)
        await chain.store.transact(tell, "stuck", [1])

        async def was_asked_twice() -> bool:
            return asked > 1

        await eventually(was_asked_twice)
        assert (released > 0) is not bus_answers
        choosy.failing.clear()
        await chain.settle()
        assert told(bus, "stuck") == [1]


async def test_a_key_that_failed_has_its_turn_while_others_keep_coming(
    bus: Bus, choosy: type[ChoosyBroker]
) -> None:
    choosy.failing.add(b"stuck")
    async with running(bus, broker=choosy) as chain:
        await chain.store.transact(tell, "stuck", [1, 2])
        ended = asyncio.Event()

        async def keep_telling(name: str) -> None:
            number = 0
            while not ended.is_set():
                number += 1
                await chain.store.transact(tell, name, [number])

        async def stuck_is_out() -> bool:
            return told(bus, "stuck") == [1, 2]

        async with asyncio.TaskGroup() as tellers:
            for number in range(8):
                tellers.create_task(keep_telling(f"free-{number}"))
            await asyncio.sleep(0.5)
            choosy.failing.clear()
            try:
                await eventually(stuck_is_out, 10)
            finally:
                ended.set()


async def test_a_relay_that_is_cut_off_gives_up_though_events_keep_coming(
    bus: Bus, choosy: type[ChoosyBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "_GIVE_UP_SECONDS", 0.1)
    monkeypatch.setattr(relays, "_ASK_SECONDS", 0.01)
    async with running(bus, broker=choosy) as chain:
        lease = chain.store.lease("relay")
        release, released = lease.release, asyncio.Event()

        async def note() -> None:
            released.set()
            await release()

        async def away(_timeout: float | None) -> bool:
            return False

        monkeypatch.setattr(lease, "release", note)
        monkeypatch.setattr(chain.broker, "ping", away)

        async def keep_telling(teller: int) -> None:
            number = 0
            while not released.is_set():
                number += 1
                key = f"{teller}-{number}"
                choosy.failing.add(key.encode())
                await chain.store.transact(tell, key, [1])

        async with asyncio.timeout(10), asyncio.TaskGroup() as tellers:
            for teller in range(8):
                tellers.create_task(keep_telling(teller))
        choosy.failing.clear()
        await chain.settle()


async def test_a_cancellation_that_leaks_does_not_end_the_relay(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(bus) as chain:
        outbox, leaks = type(chain.store.outbox), [asyncio.CancelledError()]
        original = outbox.mark_sent

        async def leak(self: Any, positions: Sequence[int], **lease: Any) -> None:
            if leaks:
                raise leaks.pop()
            await original(self, positions, **lease)

        monkeypatch.setattr(outbox, "mark_sent", leak)
        await chain.store.transact(tell, "p", [1])
        await chain.settle()
        assert chain.relay.alive()
    assert not leaks


async def test_a_crash_before_the_mark_publishes_twice_with_the_same_id(
    bus: Bus, choosy: type[ChoosyBroker]
) -> None:
    async with running(bus, broker=choosy) as chain:
        choosy.dying.append(KafkaConnectionError())
        await chain.store.transact(tell, "p", [1])
        await chain.settle()
    first, second = bus.records(PROGRAMS)
    assert dict(first.headers)["ce_id"] == dict(second.headers)["ce_id"]
    applied: list[str] = []
    clock = ManualClock(START)
    store = SqliteStore(bus.folder / "reader.db", service="reader", region="local", clock=clock)
    consumer = Consumer("reader", store, clock)

    @consumer.on(ProgramClosed)
    async def note(_tx: Transaction, event: ProgramClosed, _envelope: Envelope) -> None:
        applied.append(event.program_id)

    broker = EmbeddedKafkaBroker(bus.log, logger=None)
    consumer.subscribe(broker)
    await store.open([DeadLetter])
    await broker.start()

    async def caught_up() -> bool:
        return await consumer.lag() == 0

    await eventually(caught_up)
    await broker.stop()
    await store.close()
    assert applied == ["p"]


async def test_a_relay_that_failed_unexpectedly_goes_on(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(bus) as chain:
        outbox = type(chain.store.outbox)
        original, failures = outbox.mark_sent, [LookupError(), StoreUnavailableError("away")]

        async def fail(self: Any, positions: Sequence[int], **lease: Any) -> None:
            if failures:
                raise failures.pop()
            await original(self, positions, **lease)

        monkeypatch.setattr(outbox, "mark_sent", fail)
        await chain.store.transact(tell, "p", [1, 2])
        await chain.settle()
        assert chain.relay.alive()
    assert sorted(set(told(bus, "p"))) == [1, 2]
    assert told(bus, "p")[-1] == 2


async def test_a_replay_publishes_again_and_changes_nothing(bus: Bus) -> None:
    await bus.pause("a")
    async with running(bus) as chain, running(bus, service="echo") as other:
        await chain.settle()
        await chain.store.transact(emit_pause, "b")
        await eventually(is_applied(other.store, "b"))
        await eventually(is_applied(chain.store, "b"))
        before = await other.versions("b"), await chain.versions("b")
        assert await chain.store.outbox.replay(topic=PARTICIPANTS) == 1
        await chain.settle()
        await other.settle()
        assert (await other.versions("b"), await chain.versions("b")) == before == ((1,), (1,))
    assert len([record for record in bus.records(PARTICIPANTS) if record.key == b"b"]) == 2


async def emit_pause(tx: Transaction, participant_id: str) -> None:
    tx.emit(paused(participant_id))


def is_applied(store: Store, participant_id: str) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return await store.get(Seen, participant_id) is not None

    return check


def break_client(chain: Chain) -> Any:
    """Have the chain's client look as one that has failed to poll for long; return it."""
    client = chain.client()
    client.failing_since = monotonic() - 3600
    return client


async def test_a_client_that_only_fails_is_replaced_until_one_starts_and_nothing_is_lost(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_REPLACE_PAUSE_SECONDS", 0.01)
    refusals = [KafkaConnectionError("away"), KafkaConnectionError("away")]
    start = LocalConsumer.start

    async def refused(client: LocalConsumer) -> None:
        if refusals:
            raise refusals.pop()
        await start(client)

    async with running(bus) as chain:
        await bus.pause("before")
        await chain.settle()
        broken = break_client(chain)
        monkeypatch.setattr(LocalConsumer, "start", refused)
        chain.consumer.mend()
        assert chain.consumer.replacing
        assert chain.consumer.alive()
        await bus.pause("meanwhile")
        await eventually(is_applied(chain.store, "meanwhile"))
        assert not refusals
        assert not chain.consumer.replacing
        assert chain.client() is not broken
        await bus.pause("after")
        await chain.settle()
        for name in ("before", "meanwhile", "after"):
            assert await chain.versions(name) == (1,)


@pytest.mark.parametrize("mended_first", [True, False])
async def test_a_service_that_stops_replaces_no_client(bus: Bus, mended_first: bool) -> None:
    async with running(bus) as chain:
        (subscriber,) = chain.broker.subscribers
        break_client(chain)
        if mended_first:
            chain.consumer.mend()
            await chain.consumer.leave()
        else:
            await chain.consumer.leave()
            chain.consumer.mend()
        assert not chain.consumer.replacing
        await subscriber.stop()
        await asyncio.sleep(0.05)
        assert not subscriber.running


async def test_stopping_under_load_loses_and_doubles_nothing(bus: Bus) -> None:
    duplicates = counted("duplicate")
    total = 600

    async def produce() -> None:
        for number in range(total):
            await bus.pause(f"p{number % 7}", number // 7 + 1)

    producing = asyncio.create_task(produce())
    for _ in range(5):
        async with running(bus) as chain:
            before = counted("applied")

            async def moved(before: float = before) -> bool:
                return counted("applied") > before or producing.done()

            await eventually(moved)
    await producing
    async with running(bus) as chain:
        await chain.settle()
        for key in range(7):
            versions = await chain.versions(f"p{key}")
            assert versions == tuple(range(1, len(range(key, total, 7)) + 1))
    assert len(bus.records(PROGRAMS)) == total
    assert counted("duplicate") == duplicates


# Links ---------------------------------------------------------------------------------------


async def test_links_go_from_the_request_through_the_outbox_to_what_consumers_tell(
    tmp_path: Path,
) -> None:
    clock = ManualClock(START)
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with running_platform(tmp_path, ["enrollment"]) as platform:
        log = platform.platform.log
        store = SqliteStore(tmp_path / "own.db", service="tally", region="local", clock=clock)
        consumer = Consumer("tally", store, clock)

        @consumer.on(ProgramPublished)
        async def answer(tx: Transaction, event: ProgramPublished, _envelope: Envelope) -> None:
            tx.emit(ProgramClosed(program_id=event.program_id, version=7))

        broker = EmbeddedKafkaBroker(log, logger=None)
        consumer.subscribe(broker)
        relay = Relay("tally", store, broker)
        await store.open([DeadLetter])
        await broker.start()
        relay.start()
        spec = golden_event(ProgramPublished).model_dump(
            mode="json", exclude={"program_id", "version"}
        )
        client = await platform.client("office", "coordinator")
        response = await client.put(
            "/enrollment/v1/programs/reverse-mentoring",
            json=spec,
            headers={
                "X-Correlation-Id": "call-42",
                "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01",
            },
        )
        assert response.status_code == 200, response.text
        assert response.headers["x-correlation-id"] == "call-42"

        async def answered() -> bool:
            return bool(platform.events(ProgramClosed))

        await eventually(answered)
        await relay.stop()
        await broker.stop()
        await store.close()
        envelopes = {envelope.type: envelope for envelope, _ in platform.records()}
    cause = envelopes["upward.program-published.v1"]
    effect = envelopes["upward.program-closed.v1"]
    assert cause.correlationid == effect.correlationid == "call-42"
    assert cause.causationid is None
    assert effect.causationid == cause.id
    for envelope in (cause, effect):
        assert (envelope.traceparent or "").split("-")[1] == trace_id
    assert cause.traceparent != effect.traceparent


async def test_work_outside_of_any_request_has_no_links(bus: Bus) -> None:
    async with running(bus) as chain:
        with traced(Trace()):
            await chain.store.transact(tell, "p", [1])
        await chain.settle()
    (record,) = bus.records(PROGRAMS)
    assert (
        not {"ce_causationid", "ce_correlationid", "ce_traceparent"} & dict(record.headers).keys()
    )
