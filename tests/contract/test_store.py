"""What every store must do: SQLite and MongoDB under the same tests."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.clock import ManualClock
from shared.errors import (
    NotFoundError,
    RuleViolationError,
    StaleWriteError,
    StoreUnavailableError,
    TooLargeError,
    UniqueViolationError,
)
from shared.events.envelope import Envelope
from shared.events.topics import MAX_EVENT_BYTES
from shared.ids import new_event_id
from shared.store.port import (
    AtMost,
    Condition,
    Contains,
    In,
    MoreThan,
    Scalar,
    Store,
    Transaction,
)
from shared.tracing import Trace, traced
from tests.contract.stores import (
    KINDS,
    START,
    Card,
    OpenStores,
    Tally,
    add_one,
    closed,
    put_cards,
)


async def ids(store: Store | Transaction, where: dict[str, Condition]) -> list[str]:
    found = [card.id for card in await store.find(Card, where)]
    assert await store.count(Card, where) == len(found)
    return found


async def first_times(tx: Transaction, events: Sequence[str]) -> list[bool]:
    return await tx.first_times("g", events)


# Documents -----------------------------------------------------------------------------------


async def test_a_document_is_kept_with_the_number_of_its_writes(store: Store) -> None:
    (card,) = await store.transact(put_cards, Card(id="c", rank=1))
    assert card.version == 1
    (card,) = await store.transact(put_cards, card.changed(rank=2))
    assert (card.version, card.rank) == (2, 2)
    assert await store.get(Card, "c") == card
    assert await store.require(Card, "c") == card

    async def put_changed(tx: Transaction) -> Card:
        return tx.put(card, rank=3)

    changed = await store.transact(put_changed)
    assert changed == card.changed(version=3, rank=3) == await store.require(Card, "c")


async def test_what_is_not_there_is_none_or_a_named_error(store: Store) -> None:
    assert await store.get(Card, "none") is None
    with pytest.raises(NotFoundError):
        await store.require(Card, "none")


@pytest.mark.parametrize("card_id", ["a\u3000b", "a\0b", "é" * 200, "a'\"b", "%", " "])
async def test_any_text_is_an_id(store: Store, card_id: str) -> None:
    await store.transact(put_cards, Card(id=card_id, color=card_id))
    assert (await store.require(Card, card_id)).color == card_id
    assert await ids(store, {"id": card_id}) == [card_id]


async def test_a_deleted_document_is_gone_and_can_come_again(store: Store) -> None:
    await store.transact(put_cards, Card(id="c", tags=("x",)))

    async def delete(tx: Transaction) -> None:
        tx.delete(await tx.require(Card, "c"))
        assert await tx.get(Card, "c") is None

    await store.transact(delete)
    assert await store.get(Card, "c") is None
    assert await ids(store, {"tags": Contains("x")}) == []
    (card,) = await store.transact(put_cards, Card(id="c"))
    assert card.version == 1


async def test_a_version_goes_on_when_a_document_is_replaced_in_one_transaction(
    store: Store,
) -> None:
    await store.transact(put_cards, *[Card(id="c", rank=1)])
    (card,) = await store.transact(put_cards, (await store.require(Card, "c")).changed(rank=2))

    async def replace(tx: Transaction) -> None:
        tx.delete(await tx.require(Card, "c"))
        tx.put(Card(id="c", rank=9))

    await store.transact(replace)
    assert (await store.require(Card, "c")).version == card.version + 1


async def test_a_unique_value_belongs_to_one_document(store: Store) -> None:
    await store.transact(put_cards, Card(id="a", email="x"), Card(id="b"), Card(id="c"))
    with pytest.raises(UniqueViolationError):
        await store.transact(put_cards, Card(id="d", email="x"))
    assert await store.get(Card, "d") is None

    async def hand_over(tx: Transaction) -> None:
        tx.delete(await tx.require(Card, "a"))
        tx.put(Card(id="d", email="x"))

    await store.transact(hand_over)
    assert await ids(store, {"email": "x"}) == ["d"]


async def test_a_document_that_could_not_be_read_back_is_not_written(store: Store) -> None:
    (card,) = await store.transact(put_cards, Card(id="c"))
    for wrong in (
        card.changed(rank="high"),
        card.changed(tags=["x"]),
        card.changed(color="\ud800"),
    ):
        with pytest.raises(ValueError, match=r"serializ"):
            await store.transact(put_cards, wrong)
    assert await store.require(Card, "c") == card


async def test_one_refused_write_does_not_harm_those_that_commit_with_it(store: Store) -> None:
    await store.transact(put_cards, Card(id="first", email="x"))
    bad = [store.transact(put_cards, Card(id=f"bad-{n}", email="x")) for n in range(5)]
    odd = [store.transact(put_cards, Card(id=f"odd-{n}", color="\ud800")) for n in range(5)]
    good = [store.transact(put_cards, Card(id=f"good-{n}")) for n in range(5)]
    results = await asyncio.gather(*bad, *odd, *good, return_exceptions=True)
    assert [type(result) for result in results[:5]] == [UniqueViolationError] * 5
    assert all(isinstance(result, ValueError) for result in results[5:10])
    kept = {card.id for card in await store.find(Card)}
    assert kept == {"first", *(f"good-{n}" for n in range(5))}


async def test_an_index_declared_later_holds_what_was_stored_before(stores: OpenStores) -> None:
    class Plain(Card):
        indexes = ()

    async def put(tx: Transaction) -> None:
        tx.put(Plain(id="c", tags=("x", "y")))

    first = await stores.open([Plain])
    await first.transact(put)
    await first.close()
    again = await stores.open()
    assert await ids(again, {"tags": Contains("y")}) == ["c"]


# Transactions --------------------------------------------------------------------------------


async def test_a_stale_write_runs_the_handler_again_from_its_load(store: Store) -> None:
    await store.transact(add_one, "t")
    runs = 0

    async def slow(tx: Transaction) -> int:
        nonlocal runs
        runs += 1
        tally = await tx.require(Tally, "t")
        if runs == 1:
            await store.transact(add_one, "t")
        return tx.put(tally.changed(count=tally.count + 10)).count

    assert await store.transact(slow) == 12
    assert runs == 2


async def test_a_stale_document_from_outside_fails_in_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, _high: low)  # no back-off
    (old,) = await store.transact(put_cards, Card(id="c"))
    await store.transact(put_cards, old)
    with pytest.raises(StaleWriteError):
        # Every attempt writes the same old version.
        await asyncio.wait_for(store.transact(put_cards, old), 30)


async def test_a_deletion_of_a_changed_document_is_stale(store: Store) -> None:
    (old,) = await store.transact(put_cards, Card(id="c"))
    runs = 0

    async def delete(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        card = await tx.require(Card, "c")
        if runs == 1:
            await store.transact(put_cards, old.changed(rank=1))
        tx.delete(card)

    await store.transact(delete)
    assert runs == 2
    assert await store.get(Card, "c") is None


async def test_of_twenty_concurrent_increments_none_is_lost(store: Store) -> None:
    counts = await asyncio.gather(*(store.transact(add_one, "t", 1) for _ in range(20)))
    assert sorted(counts) == list(range(1, 21))
    assert (await store.require(Tally, "t")).count == 20


async def test_a_transaction_reads_one_snapshot(store: Store) -> None:
    await store.transact(put_cards, Card(id="a", color="red"))

    async def read_twice(tx: Transaction) -> None:
        assert await tx.count(Card) == 1
        await store.transact(put_cards, Card(id="b", color="red"))
        assert await tx.get(Card, "b") is None
        assert await ids(tx, {"color": "red"}) == ["a"]
        await store.transact(put_cards, (await store.require(Card, "a")).changed(color="blue"))
        assert await ids(tx, {"color": "red"}) == ["a"]
        assert (await tx.require(Card, "a")).color == "red"

    await store.transact(read_twice)
    assert await ids(store, {"color": "red"}) == ["b"]


async def test_nothing_is_committed_when_the_handler_raises(store: Store) -> None:
    async def fail(tx: Transaction) -> None:
        tx.put(Card(id="c"))
        tx.emit(closed("p"))
        assert await tx.first_times("g", ["e"]) == [True]
        raise LookupError

    with pytest.raises(LookupError):
        await store.transact(fail)
    assert await store.get(Card, "c") is None
    assert await store.outbox.pending(10) == []

    async def first(tx: Transaction) -> list[bool]:
        return await tx.first_times("g", ["e"])

    assert await store.transact(first) == [True]


async def test_a_refused_commit_tells_nothing(store: Store) -> None:
    await store.transact(put_cards, Card(id="a", email="x"))

    async def clash(tx: Transaction) -> None:
        tx.put(Card(id="b", email="x"))
        tx.emit(closed("p"))

    with pytest.raises(UniqueViolationError):
        await store.transact(clash)
    assert await store.outbox.pending(10) == []


async def test_a_cancelled_caller_leaves_all_or_nothing(stores: OpenStores) -> None:
    store = await stores.open()

    async def both(tx: Transaction, number: int) -> None:
        tx.put(Card(id=f"c{number}"))
        tx.emit(closed(f"c{number}"))

    for number in range(30):
        task = asyncio.create_task(store.transact(both, number))
        for _ in range(number % 6):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await store.close()  # which finishes those on their way
    again = await stores.open()
    committed = {card.id for card in await again.find(Card)}
    assert {record.key for record in await again.outbox.pending(100)} == committed
    assert 0 < len(committed) < 30


# Queries -------------------------------------------------------------------------------------

COLORS = st.sampled_from([None, "blue", "gréen", "red"])
RANKS = st.none() | st.integers(-2, 3)
KNOWN_MOMENTS = st.builds(
    lambda minutes, offset: (START + timedelta(minutes=minutes)).astimezone(
        timezone(timedelta(minutes=offset))
    ),
    st.integers(0, 3),
    st.integers(-720, 840),
)
MOMENTS = st.none() | KNOWN_MOMENTS
CARDS = st.builds(
    Card,
    id=st.text("abé𝄞", min_size=1, max_size=3),
    color=COLORS,
    rank=RANKS,
    due=MOMENTS,
    open=st.booleans(),
    tags=st.lists(st.sampled_from("xyz"), max_size=3).map(tuple),
)
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "color": COLORS | st.lists(COLORS, max_size=3).map(lambda v: In(tuple(v))),
        "rank": RANKS | st.integers(-2, 3).map(AtMost) | st.integers(-2, 3).map(MoreThan),
        "due": MOMENTS | KNOWN_MOMENTS.map(AtMost) | KNOWN_MOMENTS.map(MoreThan),
        "open": st.booleans(),
        "tags": st.sampled_from("xyz").map(Contains),
    },
)


def holds(card: Card, name: str, condition: Condition) -> bool:
    value = getattr(card, name)
    match condition:
        case In(values):
            return value in values
        case AtMost(bound):
            return value is not None and value <= bound
        case MoreThan(bound):
            return value is not None and value > bound
        case Contains(item):
            return item in value
        case _:
            return bool(value == condition)


def key(card: Card, order_by: str) -> tuple[bool, object, str]:
    value = getattr(card, order_by)
    return (value is not None, 0 if value is None else value, card.id)


async def pages(
    reader: Store | Transaction,
    where: dict[str, Condition],
    order_by: str,
    size: int,
    *,
    descending: bool,
) -> list[str]:
    found: list[str] = []
    after: tuple[Scalar, str] | None = None
    while page := await reader.find(
        Card, where, order_by=order_by, descending=descending, after=after, limit=size
    ):
        assert len(page) <= size
        found += [card.id for card in page]
        after = (getattr(page[-1], order_by), page[-1].id)
    return found


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    stored=st.lists(CARDS, max_size=8, unique_by=lambda card: card.id),
    own=st.lists(CARDS, max_size=4, unique_by=lambda card: card.id),
    gone=st.sets(st.integers(0, 7), max_size=3),
    where=CONDITIONS,
    order_by=st.sampled_from(["id", "rank", "color", "due"]),
    descending=st.booleans(),
    size=st.integers(1, 4),
)
def test_queries_say_what_plain_python_says(
    stores: OpenStores,
    stored: list[Card],
    own: list[Card],
    gone: set[int],
    where: dict[str, Condition],
    order_by: str,
    descending: bool,
    size: int,
) -> None:
    def expected(cards: dict[str, Card]) -> list[str]:
        met = [c for c in cards.values() if all(holds(c, n, where[n]) for n in where)]
        ordered = sorted(met, key=lambda card: key(card, order_by), reverse=descending)
        return [card.id for card in ordered]

    async def compare(store: Store) -> None:
        await store.clear(KINDS)
        await store.transact(put_cards, *stored)
        cards = {card.id: card for card in stored}
        found = await pages(store, where, order_by, size, descending=descending)
        assert found == expected(cards)
        assert await store.count(Card, where) == len(found)
        changed = {**cards, **{card.id: card for card in own}}
        for number in gone & set(range(len(stored))):
            changed.pop(stored[number].id, None)

        async def within(tx: Transaction) -> None:
            for card in own:
                known = await tx.get(Card, card.id)
                tx.put(card.changed(version=known.version if known else 0))
            for number in gone & set(range(len(stored))):
                if (known := await tx.get(Card, stored[number].id)) is not None:
                    tx.delete(known)
            seen = await pages(tx, where, order_by, size, descending=descending)
            assert seen == expected(changed)
            assert await tx.count(Card, where) == len(seen)

        await store.transact(within)
        after = await pages(store, where, order_by, size, descending=descending)
        assert after == expected(changed)

    async def run() -> None:
        store = await stores.open()
        try:
            await compare(store)
        finally:
            await store.close()

    asyncio.run(run())


async def test_a_moment_is_compared_as_an_instant_whatever_its_offset(store: Store) -> None:
    east = datetime(2026, 1, 5, 23, 30, tzinfo=timezone(timedelta(hours=14)))
    west = datetime(2026, 1, 4, 23, 0, tzinfo=timezone(timedelta(hours=-12)))
    await store.transact(put_cards, Card(id="east", due=east), Card(id="west", due=west))
    assert await ids(store, {"due": AtMost(east.astimezone(UTC))}) == ["east"]
    assert await ids(store, {"due": MoreThan(east)}) == ["west"]
    assert await ids(store, {"due": west.astimezone(UTC)}) == ["west"]


async def test_only_a_declared_list_can_be_searched_for_an_item(store: Store) -> None:
    with pytest.raises(ValueError, match="color"):
        await store.find(Card, {"color": Contains("r")})


async def test_a_field_name_is_never_part_of_a_query_s_text(store: Store) -> None:
    with pytest.raises(ValueError, match="field"):
        await store.find(Card, {"x') OR 1=1 --": 1})
    with pytest.raises(ValueError, match="field"):
        await store.find(Card, order_by="rank; DROP TABLE cards")


# Outbox --------------------------------------------------------------------------------------


def versions(records: list[Envelope]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for envelope in records:
        found.setdefault(envelope.subject, []).append(envelope.aggregateversion)
    return found


async def waiting(store: Store, limit: int = 1000) -> list[Envelope]:
    return [
        Envelope.from_headers([(name, text.encode()) for name, text in record.headers])
        for record in await store.outbox.pending(limit)
    ]


async def test_aggregate_versions_have_no_gap_and_follow_the_commits(store: Store) -> None:
    work = [store.transact(add_one, f"t{n % 3}", 2) for n in range(24)]
    await asyncio.gather(*work)
    for subject, seen in versions(await waiting(store)).items():
        assert seen == list(range(1, 17)), subject
    counts = [
        int(record.value.split(b'"version":')[1].rstrip(b"}"))
        for record in await store.outbox.pending(1000)
        if record.key == "t0" and record.value
    ]
    assert counts == sorted(counts)


async def test_an_event_carries_its_links_unless_they_would_tell_who_did_it(
    store: Store, clock: ManualClock
) -> None:
    async def tell(tx: Transaction) -> None:
        tx.emit(closed("p"))
        tx.emit(closed("p", 2), unlinked=True)

    trace = Trace("c-1", "e-1", "00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    with traced(trace):
        await store.transact(tell)
    linked, unlinked = await waiting(store)
    assert (linked.correlationid, linked.causationid) == ("c-1", "e-1")
    assert linked.traceparent == trace.traceparent
    assert linked.time == clock.now()
    assert linked.source == "/upward/local/matching"
    assert (unlinked.correlationid, unlinked.causationid, unlinked.traceparent) == (None,) * 3


async def test_an_event_too_large_to_be_consumed_is_refused_at_once(store: Store) -> None:
    async def tell(tx: Transaction) -> None:
        tx.emit(closed("p" * MAX_EVENT_BYTES))

    with pytest.raises(TooLargeError):
        await store.transact(tell)


async def test_the_outbox_gives_records_in_commit_order_until_they_are_marked(
    store: Store,
) -> None:
    for number in range(5):
        await store.transact(add_one, f"t{number}", 1)
    records = await store.outbox.pending(3)
    assert [record.key for record in records] == ["t0", "t1", "t2"]
    rest = await store.outbox.pending(3, after=records[-1].position)
    assert [record.key for record in rest] == ["t3", "t4"]
    await store.outbox.mark_sent([records[0].position, records[2].position])
    assert [record.key for record in await store.outbox.pending(9)] == ["t1", "t3", "t4"]


async def test_the_outbox_says_how_much_waits_and_since_when(store: Store) -> None:
    empty = await store.outbox.depth()
    assert (empty.pending, empty.oldest) == (0, None)
    before = datetime.now(UTC)
    await store.transact(add_one, "t", 3)
    depth = await store.outbox.depth()
    assert depth.pending == 3
    assert depth.oldest is not None
    assert before <= depth.oldest <= datetime.now(UTC)


async def test_a_replay_gives_sent_records_again_as_they_were(
    store: Store, clock: ManualClock
) -> None:
    await store.transact(add_one, "t", 1)
    clock.advance(days=1)
    await store.transact(add_one, "u", 1)
    records = await store.outbox.pending(9)
    assert await store.outbox.replay() == 0
    await store.outbox.mark_sent([record.position for record in records])
    assert await store.outbox.replay(topic="upward.pairs.v1") == 0
    assert await store.outbox.replay(topic=records[0].topic, since=clock.now()) == 1
    assert await store.outbox.pending(9) == records[1:]
    await store.outbox.mark_sent([records[1].position])
    assert await store.outbox.replay() == 2
    assert await store.outbox.pending(9) == records


async def test_a_waiting_relay_wakes_at_a_commit(store: Store) -> None:
    await store.outbox.pending(1)
    waiter = asyncio.create_task(store.outbox.wait(60))
    await asyncio.sleep(0)
    await store.transact(add_one, "t", 1)
    await asyncio.wait_for(waiter, 5)
    # One that came between the look and the wait is not slept through.
    await store.outbox.pending(1)
    await store.transact(add_one, "t", 1)
    await asyncio.wait_for(store.outbox.wait(60), 5)


async def test_a_wait_ends_without_a_commit(store: Store) -> None:
    await store.outbox.pending(1)
    await asyncio.wait_for(store.outbox.wait(0.01), 5)


async def test_raw_records_go_out_as_they_are_and_outside_any_version(store: Store) -> None:
    async def raw(tx: Transaction) -> None:
        tx.emit(closed("k"))
        tx.emit_raw("dlq", "k", None, [("why", "bäd")])
        tx.emit_raw("dlq", "k", b"\xff\0", [])
        tx.emit(closed("k", 2))

    await store.transact(raw)
    first, null, bytes_, last = await store.outbox.pending(9)
    assert (null.value, null.headers) == (None, (("why", "bäd"),))
    assert (bytes_.value, bytes_.headers) == (b"\xff\0", ())
    assert dict(first.headers)["ce_aggregateversion"] == "1"
    assert dict(last.headers)["ce_aggregateversion"] == "2"


# Inbox ---------------------------------------------------------------------------------------


async def test_an_event_is_new_once_to_each_group(store: Store) -> None:
    async def twice(tx: Transaction, group: str) -> list[bool]:
        return await tx.first_times(group, ["e", "e"]) + await tx.first_times(group, ["f", "e"])

    assert await store.transact(twice, "g") == [True, False, True, False]
    assert await store.transact(twice, "g") == [False, False, False, False]
    assert await store.transact(twice, "h") == [True, False, True, False]


async def test_of_many_events_the_new_ones_are_told(store: Store) -> None:
    assert await store.transact(first_times, []) == []
    assert await store.transact(first_times, ["old"]) == [True]
    again = ["new", "old", "new", "other"]
    assert await store.transact(first_times, again) == [True, False, False, True]


async def test_concurrent_deliveries_of_one_event_are_applied_once(store: Store) -> None:
    async def apply(tx: Transaction) -> bool:
        if await tx.first_times("g", ["e"]) == [False]:
            return False
        await add_one(tx, "t")
        return True

    results = await asyncio.gather(*(store.transact(apply) for _ in range(10)))
    assert sum(results) == 1
    assert (await store.require(Tally, "t")).count == 1


async def test_an_event_is_noted_with_its_effect_alone_and_harms_no_other(store: Store) -> None:
    async def apply(tx: Transaction, event: str, color: str) -> None:
        assert await tx.first_times("g", [event]) == [True]
        tx.put(Card(id=event, color=color))

    colors = ["red", "\ud800", "red", "\ud800", "red"]
    events = [f"e{number}" for number in range(len(colors))]
    outcomes = await asyncio.gather(
        *(store.transact(apply, *each) for each in zip(events, colors, strict=True)),
        return_exceptions=True,
    )
    assert [isinstance(each, ValueError) for each in outcomes] == [c != "red" for c in colors]
    assert await store.transact(first_times, events) == [color != "red" for color in colors]


async def test_a_cancelled_delivery_is_noted_with_its_effect_and_harms_no_other(
    stores: OpenStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.turns._TURN_SECONDS", 0)
    store = await stores.open()

    async def apply(tx: Transaction, event: str) -> None:
        if await tx.first_times("g", [event]) == [True]:
            for number in range(60):  # three turns
                tx.put(Card(id=f"{event}-{number}"))

    events = [f"e{number}" for number in range(24)]
    for number, event in enumerate(events):
        # The writer waits for the first one, and takes the other two together.
        before, task, after = (
            asyncio.create_task(store.transact(apply, name))
            for name in (f"{event}-before", event, f"{event}-after")
        )
        for _ in range(number % 12):
            await asyncio.sleep(0)
        task.cancel()
        first, cancelled, last = await asyncio.gather(before, task, after, return_exceptions=True)
        assert cancelled is None or isinstance(cancelled, asyncio.CancelledError)
        assert first is None
        assert last is None
    await store.close()  # which finishes those on their way
    again = await stores.open()
    applied = [await again.get(Card, f"{event}-59") is not None for event in events]
    assert await again.transact(first_times, events) == [not each for each in applied]
    assert 0 < sum(applied) < len(events)


async def test_no_handler_fails_for_taking_an_old_event_for_new(store: Store) -> None:
    async def apply(tx: Transaction) -> bool:
        (new,) = await tx.first_times("g", ["e"])
        if new:
            if await tx.get(Card, "c") is not None:
                raise RuleViolationError("It was applied before.")
            tx.put(Card(id="c"))
        return new

    assert await store.transact(apply)
    assert not await store.transact(apply)


async def test_no_commit_fails_for_taking_an_old_event_for_new(store: Store) -> None:
    async def apply(tx: Transaction) -> bool:
        (new,) = await tx.first_times("g", ["e"])
        if new:
            tx.put(Card(id=new_event_id(), email="one@card"))
        return new

    assert await store.transact(apply)
    assert not await store.transact(apply)
    assert await store.count(Card) == 1


async def test_the_refusal_of_a_new_event_is_raised_as_it_is(store: Store) -> None:
    async def refuse(tx: Transaction) -> None:
        assert await tx.first_times("g", ["e"]) == [True]
        raise RuleViolationError("Not this one.")

    for _ in range(2):
        with pytest.raises(RuleViolationError, match="Not this one"):
            await store.transact(refuse)


async def test_what_is_got_at_once_is_what_would_be_read(store: Store) -> None:
    await store.transact(put_cards, Card(id="a", rank=1), Card(id="b"), Card(id="c"), Card(id="d"))

    async def batch(tx: Transaction) -> None:
        tx.put((await tx.require(Card, "c")).changed(rank=7))
        tx.delete(await tx.require(Card, "d"))
        many = await tx.get_many(Card, ["a", "b", "c", "d", "none", "a"])
        assert {name: card.rank for name, card in many.items()} == {"a": 1, "b": None, "c": 7}
        assert await tx.get(Card, "none") is None
        with pytest.raises(NotFoundError):
            await tx.require(Card, "none")
        card = await tx.require(Card, "a")
        assert (card.version, card.rank) == (1, 1)
        assert tx.put(card.changed(rank=2)) == await tx.get(Card, "a")
        tx.delete(await tx.require(Card, "b"))
        assert await tx.get(Card, "b") is None
        assert (await tx.require(Card, "c")).id == "c"

    await store.transact(batch)
    assert await ids(store, {}) == ["a", "c"]


@pytest.mark.parametrize("name", ["a'b", '"\\', "é 😀", "a\0b", "\\u0000"])
async def test_an_id_of_any_characters_is_found_among_many(store: Store, name: str) -> None:
    await store.transact(put_cards, Card(id=name, rank=1), Card(id="a"))

    async def batch(tx: Transaction) -> None:
        assert (await tx.get_many(Card, ["none", name, "b"])).keys() == {name}

    await store.transact(batch)


async def test_of_no_ids_there_are_no_documents(store: Store) -> None:
    async def nothing(tx: Transaction) -> None:
        assert await tx.get_many(Card, []) == {}
        assert await tx.get(Card, "c") is None

    await store.transact(nothing)


async def test_a_stale_document_of_many_runs_the_handler_again(store: Store) -> None:
    await store.transact(add_one, "t")
    runs = 0

    async def slow(tx: Transaction) -> int:
        nonlocal runs
        runs += 1
        await tx.get_many(Tally, ["t"])
        if runs == 1:
            await store.transact(add_one, "t")
        return await add_one(tx, "t")

    assert await store.transact(slow) == 3
    assert runs == 2


async def test_clearing_forgets_documents_and_one_group_s_inbox(store: Store) -> None:
    async def seen(tx: Transaction, group: str) -> bool:
        return await tx.first_times(group, ["e"]) == [False]

    await store.transact(put_cards, Card(id="c", tags=("x",)))
    await store.transact(add_one, "t", 1)
    await store.transact(seen, "g")
    await store.transact(seen, "h")
    await store.clear([Card], inbox_group="g")
    assert await ids(store, {"tags": Contains("x")}) == []
    assert await store.get(Card, "c") is None
    assert (await store.require(Tally, "t")).count == 1
    assert len(await store.outbox.pending(9)) == 1
    assert not await store.transact(seen, "g")
    assert await store.transact(seen, "h")


# Leases --------------------------------------------------------------------------------------


async def test_a_lease_is_held_from_the_first_hold_to_its_release(store: Store) -> None:
    lease = store.lease("relay")
    assert (lease.held(), lease.epoch, await lease.note()) == (False, 0, "")
    assert await lease.hold()
    assert (lease.held(), lease.epoch) == (True, 1)
    assert await lease.hold("until noon")
    assert await lease.hold()
    assert (lease.epoch, await lease.note()) == (1, "until noon")
    assert await store.lease("relay").note() == "until noon"
    assert await store.lease("scheduler").note() == ""
    await lease.release()
    assert not lease.held()
    assert await lease.hold()
    assert lease.held()


async def test_records_are_marked_under_a_lease(store: Store) -> None:
    lease = store.lease("relay")
    assert await lease.hold()
    await store.transact(add_one, "t", 3)
    records = await store.outbox.pending(9)
    await store.outbox.mark_sent([record.position for record in records[:2]], lease=lease)
    assert await store.outbox.pending(9) == records[2:]
    assert lease.held()


async def test_a_lease_is_released_after_the_store_is_closed_without_an_error(
    stores: OpenStores,
) -> None:
    store = await stores.open()
    lease = store.lease("relay")
    assert await lease.hold()
    await store.close()
    await lease.release()


# Failures ------------------------------------------------------------------------------------


async def test_a_reopened_store_has_kept_all(stores: OpenStores) -> None:
    store = await stores.open()
    await store.transact(put_cards, Card(id="c", due=START, tags=("x",)))
    await store.transact(add_one, "t", 2)
    before = await store.get(Card, "c"), await store.outbox.pending(9)
    await store.close()
    again = await stores.open()
    assert (await again.get(Card, "c"), await again.outbox.pending(9)) == before
    await again.transact(add_one, "t", 1)
    assert [envelope.aggregateversion for envelope in await waiting(again)] == [1, 2, 3]


async def test_a_closed_store_says_so(store: Store) -> None:
    assert await store.ping()
    await store.close()
    await store.close()
    assert not await store.ping()
    for call in (
        lambda: store.get(Card, "c"),
        lambda: store.find(Card),
        lambda: store.count(Card),
        lambda: store.transact(put_cards, Card(id="c")),
        lambda: store.clear(KINDS),
    ):
        with pytest.raises(StoreUnavailableError):
            await call()
    with pytest.raises(StoreUnavailableError):
        _ = store.outbox


async def test_a_handler_that_outlives_its_store_is_refused_and_does_not_hang(
    store: Store,
) -> None:
    async def slow(tx: Transaction) -> None:
        tx.put(Card(id="c"))
        await store.close()

    with pytest.raises(StoreUnavailableError):
        await asyncio.wait_for(store.transact(slow), 10)


async def test_closing_finishes_the_commits_under_way(stores: OpenStores) -> None:
    store = await stores.open()
    handled = asyncio.Event()

    async def put(tx: Transaction, number: int) -> None:
        tx.put(Card(id=f"c{number}"))
        handled.set()

    work = [asyncio.create_task(store.transact(put, number)) for number in range(20)]
    await handled.wait()
    await store.close()
    results = await asyncio.gather(*work, return_exceptions=True)
    done = {f"c{n}" for n, result in enumerate(results) if not isinstance(result, BaseException)}
    again = await stores.open()
    assert {card.id for card in await again.find(Card)} == done
    assert done


async def test_a_full_disk_refuses_whole_transactions_and_heals(
    stores: OpenStores, store: Store
) -> None:
    async def much(tx: Transaction, number: int) -> None:
        await add_one(tx, "t", 1)
        tx.put(Card(id=f"c{number}", color="x" * 20_000))

    await store.transact(much, 0)
    await stores.fill_up(store)
    for number in range(1, 4):
        with pytest.raises(StoreUnavailableError):
            await store.transact(much, number)
    assert (await store.require(Tally, "t")).count == 1
    assert [card.id for card in await store.find(Card)] == ["c0"]
    assert len(await store.outbox.pending(9)) == 1
    await stores.make_room(store)
    await store.transact(much, 4)
    assert [envelope.aggregateversion for envelope in await waiting(store)] == [1, 2]


async def test_a_store_that_cannot_be_opened_says_so(stores: OpenStores) -> None:
    for unusable in stores.unusable():
        with pytest.raises(StoreUnavailableError):
            await unusable.open()


CHILD = """
import asyncio, sys
from shared.clock import ManualClock
from tests.contract.stores import START, add_one, stores_at

async def main():
    store = await stores_at(sys.argv[1], ManualClock(START)).open()
    for _ in range(5):
        print(await store.transact(add_one, "t", 1), flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize(("point", "surplus"), [("before", 0), ("after", 1)])
async def test_a_killed_process_leaves_the_last_commit_whole(
    stores: OpenStores, point: str, surplus: int
) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        stores.address,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "UPWARD_FAILPOINT": f"store.{point}_commit:3"},
    )
    output, _ = await child.communicate()
    assert child.returncode == -signal.SIGKILL
    answered = len(output.split())
    assert answered == 2
    await stores.end_transactions()
    store = await stores.open()
    assert (await store.require(Tally, "t")).count == answered + surplus
    assert len(await store.outbox.pending(9)) == answered + surplus
