"""Handlers that take a batch of events at once, on a store of their own."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from shared.clock import SystemClock
from shared.errors import RuleViolationError, StoreUnavailableError
from shared.events.envelope import Envelope
from shared.events.participants import Paused, Resumed
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import DeadLetter, RawRecord
from shared.messaging.parsing import PermanentError
from shared.store.port import Document, Transaction
from shared.store.sqlite import SqliteStore
from tests.support.golden import golden_envelope, golden_event

REFUSED, AWAY = "pt_refused", "pt_away"


class Seen(Document):
    """Whom the handlers were told of, in order: a list for each call."""

    collection: ClassVar[str] = "seen"

    calls: tuple[tuple[str, ...], ...] = ()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(
        tmp_path / "tally.db", service="tally", region="local", clock=SystemClock()
    ) as store:
        await store.open([Seen, DeadLetter])
        yield store


@pytest.fixture
def consumer(store: SqliteStore) -> Consumer:
    consumer = Consumer("tally", store, SystemClock())

    async def note(tx: Transaction, name: str, people: Sequence[str]) -> None:
        if REFUSED in people:
            raise RuleViolationError("Not this one.")
        if AWAY in people:
            raise StoreUnavailableError("The store is away.")
        seen = await tx.get(Seen, name) or Seen(id=name)
        tx.put(seen.changed(calls=(*seen.calls, tuple(people))))

    @consumer.on_batch(Paused)
    async def paused(tx: Transaction, said: Sequence[tuple[Paused, Envelope]]) -> None:
        await note(tx, "paused", [event.participant_id for event, _ in said])

    @consumer.on(Resumed)
    async def resumed(tx: Transaction, event: Resumed, _: Envelope) -> None:
        await note(tx, "resumed", [event.participant_id])

    return consumer


def told(kind: type[Paused | Resumed], person: str) -> RawRecord:
    event = golden_event(kind).model_copy(update={"participant_id": person})
    envelope = golden_envelope(kind).model_copy(
        update={"id": f"{kind.name}-{person}", "subject": person}
    )
    headers = [(name, text.encode()) for name, text in envelope.to_headers().items()]
    return RawRecord(kind.topic, 0, 0, person.encode(), event.model_dump_json().encode(), headers)


async def calls(store: SqliteStore, name: str) -> list[tuple[str, ...]]:
    return list((await store.require(Seen, name)).calls)


async def test_a_batch_handler_gets_a_batch_at_once_in_its_order_and_each_event_once(
    store: SqliteStore, consumer: Consumer
) -> None:
    batch = [told(Paused, "a"), told(Resumed, "b"), told(Paused, "c"), told(Paused, "a")]
    await consumer.process(batch)
    await consumer.process([*batch, told(Paused, "d")])

    assert await calls(store, "paused") == [("a", "c"), ("d",)]
    assert await calls(store, "resumed") == [("b",)]


async def test_what_a_batch_handler_refuses_holds_up_nobody(
    store: SqliteStore, consumer: Consumer
) -> None:
    await consumer.process([told(Paused, "a"), told(Paused, REFUSED), told(Paused, "c")])

    assert await calls(store, "paused") == [("a",), ("c",)]
    (letter,) = await store.find(DeadLetter)
    assert letter.reason.endswith("Not this one.")


async def test_one_bad_event_among_many_costs_few_transactions(
    store: SqliteStore, consumer: Consumer
) -> None:
    people = [f"p{number}" for number in range(1000)]
    people[700] = REFUSED
    await consumer.process([told(Paused, person) for person in people])

    parts = await calls(store, "paused")
    assert [person for part in parts for person in part] == people[:700] + people[701:]
    assert len(parts) <= 10
    assert len(await store.find(DeadLetter)) == 1


async def test_a_batch_goes_in_transactions_of_what_the_store_wants_at_once(
    store: SqliteStore, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteStore, "events_at_once", 3)
    await consumer.process([told(Paused, person) for person in "abcdefgh"])

    assert await calls(store, "paused") == [tuple("abc"), tuple("def"), tuple("gh")]


async def test_what_a_batch_committed_before_it_failed_is_not_applied_again(
    store: SqliteStore, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteStore, "events_at_once", 3)
    batch = [told(Paused, person) for person in [*"abcd", AWAY, *"gh"]]
    with pytest.raises(StoreUnavailableError):
        await consumer.process(batch)
    assert await calls(store, "paused") == [tuple("abc")]

    batch[4] = told(Paused, "f")
    await consumer.process(batch)
    assert await calls(store, "paused") == [tuple("abc"), tuple("dfg"), ("h",)]


async def test_a_dead_letter_of_a_batch_handler_is_applied_when_it_is_retried(
    store: SqliteStore, consumer: Consumer
) -> None:
    await consumer.process([told(Paused, REFUSED)])
    (letter,) = await store.find(DeadLetter)
    mended = Consumer("tally", store, SystemClock())

    @mended.on_batch(Paused)
    async def paused(tx: Transaction, said: Sequence[tuple[Paused, Envelope]]) -> None:
        tx.put(Seen(id="paused", calls=(tuple(event.participant_id for event, _ in said),)))

    await store.transact(mended.retry, letter)

    assert await calls(store, "paused") == [(REFUSED,)]


async def test_a_batch_handler_takes_the_digests_of_its_events_in_their_order(
    store: SqliteStore,
) -> None:
    consumer = Consumer("tally", store, SystemClock())

    def who(event: Paused | Resumed, envelope: Envelope) -> str:
        if event.participant_id == REFUSED:
            raise RuleViolationError("Not this one.")
        return f"{event.participant_id} {envelope.id}"

    @consumer.on_batch(Paused, Resumed, digest=who)
    async def note(tx: Transaction, said: Sequence[str]) -> None:
        seen = await tx.get(Seen, "all") or Seen(id="all")
        tx.put(seen.changed(calls=(*seen.calls, tuple(said))))

    batch = [told(Paused, "a"), told(Paused, REFUSED), told(Resumed, "c"), told(Paused, "a")]
    await consumer.process(batch)

    assert await calls(store, "all") == [("a paused-a", "c resumed-c")]
    (letter,) = await store.find(DeadLetter)
    assert letter.reason.endswith("Not this one.")
    with pytest.raises(PermanentError, match=r"Not this one\.$"):
        await store.transact(consumer.retry, letter)


async def test_an_event_whose_digest_was_refused_is_applied_once_it_is_mended(
    store: SqliteStore,
) -> None:
    def refuse(*_: object) -> str:
        raise RuleViolationError("Not this one.")

    strict, mended = (Consumer("tally", store, SystemClock()) for _ in range(2))

    async def note(tx: Transaction, said: Sequence[str]) -> None:
        tx.put(Seen(id="all", calls=(tuple(said),)))

    strict.on_batch(Paused, digest=refuse)(note)
    mended.on_batch(Paused, digest=lambda event, _: event.participant_id)(note)
    await strict.process([told(Paused, "a")])
    (letter,) = await store.find(DeadLetter)
    await store.transact(mended.retry, letter)

    assert await calls(store, "all") == [("a",)]


def test_an_event_has_one_handler_of_either_sort(consumer: Consumer) -> None:
    for declare in (consumer.on, consumer.on_batch):
        for kind in (Paused, Resumed):
            with pytest.raises(ValueError, match="already has a handler"):
                declare(kind)(None)  # type: ignore[type-var]  # never called
