"""What only the cluster's store does: leases among processes, migration, the server's faults."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pymongo
import pytest

from shared import metrics
from shared.clock import ManualClock
from shared.errors import (
    LeaseLostError,
    StaleWriteError,
    StoreUnavailableError,
    TooLargeError,
    UniqueViolationError,
)
from shared.store import mongo_commit
from shared.store.mongo import MongoStore
from shared.store.port import Document, Index, OutboxRecord, Store, Transaction
from tests.contract.stores import (
    KINDS,
    START,
    Card,
    MongoStores,
    Tally,
    add_one,
    closed,
    put_cards,
)
from tests.support.servers import MongoServer

pytestmark = pytest.mark.cluster

_ABORTED = 251
_TIMED_OUT = 50


@pytest.fixture
async def stores(mongo: MongoServer) -> AsyncIterator[MongoStores]:
    adapter = MongoStores(mongo.uri, ManualClock(START))
    yield adapter
    await adapter.close()


@pytest.fixture
async def store(stores: MongoStores) -> MongoStore:
    return await stores.open()


@pytest.fixture
async def other(stores: MongoStores, store: MongoStore) -> MongoStore:
    return await stores.open()


def table(stores: MongoStores, name: str) -> "pymongo.collection.Collection[dict[str, Any]]":
    return stores.client[stores.database][name]


def keys(records: list[OutboxRecord]) -> list[str]:
    return [record.key for record in records]


async def test_a_database_that_another_secret_key_began_is_not_opened(
    mongo: MongoServer, stores: MongoStores, store: MongoStore
) -> None:
    def begun_with(mark: str) -> MongoStore:
        clock, name = ManualClock(START), stores.database
        return MongoStore(
            mongo.uri, database=name, service="matching", region="r", clock=clock, key_mark=mark
        )

    first = [begun_with("one") for _ in range(3)]
    await asyncio.gather(*(each.open(KINDS) for each in first))
    for each in first:
        await each.close()
    with pytest.raises(StoreUnavailableError, match="begun with another secret key"):
        await begun_with("two").open(KINDS)
    await store.compare_key("one")
    with pytest.raises(StoreUnavailableError, match="begun with another secret key"):
        await store.compare_key("two")


async def test_looking_at_the_secret_key_leaves_no_mark(
    stores: MongoStores, store: MongoStore
) -> None:
    await store.compare_key("one")
    await store.compare_key("two")
    assert not list(table(stores, "store.leases").find())


# Leases --------------------------------------------------------------------------------------


def expire(stores: MongoStores) -> None:
    table(stores, "store.leases").update_many({}, {"$set": {"expires": 0}})


async def test_two_processes_never_hold_one_lease_at_once(
    store: MongoStore, other: MongoStore
) -> None:
    leases = [opened.lease("relay") for opened in (store, other)]
    for _ in range(3):
        taken = await asyncio.gather(*(lease.hold() for lease in leases))
        assert sorted(taken) == [False, True]
        assert [lease.held() for lease in leases] == taken
    await leases[taken.index(True)].hold("noted")
    assert await leases[taken.index(False)].note() == "noted"
    assert await store.lease("scheduler").hold()


async def test_a_released_lease_is_taken_over_at_once_with_a_higher_epoch(
    store: MongoStore, other: MongoStore
) -> None:
    old, new = store.lease("relay"), other.lease("relay")
    assert await old.hold("here")
    await old.release()
    assert await new.hold()
    assert (old.epoch, new.epoch) == (1, 2)
    assert await new.note() == "here"
    assert not await old.hold()
    await old.release()  # it is not its own to release any more
    assert not await store.lease("relay").hold()


async def test_an_expired_lease_s_old_holder_can_neither_mark_nor_renew(
    stores: MongoStores, store: MongoStore, other: MongoStore
) -> None:
    old, new = store.lease("relay"), other.lease("relay")
    await store.transact(add_one, "t", 2)
    assert await old.hold()
    expire(stores)
    assert await new.hold()
    assert new.epoch == 2
    records = await store.outbox.pending(9)
    assert old.held()  # it slept, and knows nothing
    with pytest.raises(LeaseLostError):
        await store.outbox.mark_sent([records[0].position], lease=old)
    assert not old.held()
    assert await store.outbox.pending(9) == records
    assert not await old.hold()
    await other.outbox.mark_sent([records[0].position], lease=new)
    assert await store.outbox.pending(9) == records[1:]


async def test_a_lease_that_nobody_took_over_goes_on_in_its_epoch(
    stores: MongoStores, store: MongoStore
) -> None:
    lease = store.lease("relay")
    assert await lease.hold()
    expire(stores)
    await store.transact(add_one, "t", 1)
    (record,) = await store.outbox.pending(9)
    await store.outbox.mark_sent([record.position], lease=lease)
    assert lease.epoch == 1
    found = table(stores, "store.leases").find_one({"_id": "relay"})
    assert found is not None
    assert found["expires"] / 1000 > time.time() + 5


async def test_a_holder_stops_believing_before_the_lease_expires(
    stores: MongoStores, store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("shared.store.mongo_lease.monotonic", lambda: now)
    lease = store.lease("relay")
    assert await lease.hold()

    def expires() -> object:
        found = table(stores, "store.leases").find_one({"_id": "relay"})
        return found and found["expires"]

    first = expires()
    now += 4
    assert await lease.hold()
    assert expires() == first, "renewed before a third of its time"
    now += 2
    assert await lease.hold()
    assert expires() != first
    now += 9.5
    assert lease.held()
    now += 1
    assert not lease.held()


# Outbox --------------------------------------------------------------------------------------


async def test_no_event_overtakes_one_that_was_committed_behind_the_cursor(
    store: MongoStore, other: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for subject in ("a", "b"):
        await store.transact(add_one, subject, 1)
    first_page = await store.outbox.pending(2)
    after = first_page[-1].position
    assert keys(first_page) == ["a", "b"]
    # Another replica, whose clock is behind, tells of a new subject, and this one tells of it too.
    with monkeypatch.context() as behind:
        behind.setattr(mongo_commit, "_position_now", lambda: first_page[0].position + 1)
        await other.transact(add_one, "late", 1)
    await store.transact(add_one, "late", 1)
    await store.transact(add_one, "c", 1)
    assert keys(await store.outbox.pending(9, after=after)) == ["late", "c"][1:]
    # The page of one is all held back: what is behind it is found all the same.
    assert keys(await store.outbox.pending(1, after=after)) == ["c"]
    assert keys(await store.outbox.pending(9)) == ["a", "late", "b", "late", "c"]
    late = next(r for r in await store.outbox.pending(9) if r.key == "late")
    await store.outbox.mark_sent([late.position])
    assert keys(await store.outbox.pending(9, after=after)) == ["late", "c"]


@pytest.mark.parametrize("subjects", [("t",), ("t", "u", "v")])
async def test_positions_follow_the_commits_whatever_the_replicas_clocks_say(
    store: MongoStore,
    other: MongoStore,
    monkeypatch: pytest.MonkeyPatch,
    subjects: tuple[str, ...],
) -> None:
    async def tell(tx: Transaction) -> None:
        for subject in (*subjects, *subjects):
            tx.emit(closed(subject))

    await store.transact(tell)
    monkeypatch.setattr(mongo_commit, "_position_now", lambda: 5)
    await other.transact(tell)
    await store.transact(tell)
    records = await store.outbox.pending(100)
    assert keys(records) == [*subjects] * 6
    positions = [record.position for record in records]
    assert positions == sorted(set(positions))
    step = len(subjects) * 2
    assert positions[step:] == list(
        range(positions[step - 1] + 1, positions[step - 1] + 1 + 2 * step)
    )
    versions = [int(dict(r.headers)["ce_aggregateversion"]) for r in records if r.key == "t"]
    assert versions == [1, 2, 3, 4, 5, 6]


async def test_two_transactions_that_draw_one_position_both_commit(
    store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = iter([7, 7, 8])
    monkeypatch.setattr(mongo_commit, "_position_now", lambda: next(draws))
    await store.transact(add_one, "a", 1)
    await store.transact(add_one, "b", 1)
    assert [record.position for record in await store.outbox.pending(9)] == [7, 8]


async def test_a_replay_of_many_keeps_their_order(
    store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.mongo_outbox._REPLAY_BATCH", 2)
    await store.transact(add_one, "t", 5)
    records = await store.outbox.pending(9)
    await store.outbox.mark_sent([record.position for record in records])
    assert await store.outbox.replay() == 5
    assert await store.outbox.pending(9) == records


# Migration -----------------------------------------------------------------------------------


class Badge(Document):
    collection: ClassVar[str] = "badges"
    indexes: ClassVar[tuple[Index, ...]] = (Index(("code",), unique=True), Index(("site",)))

    code: str | None = None
    site: str = ""


class PlainBadge(Badge):
    indexes: ClassVar[tuple[Index, ...]] = ()


class NumberedBadge(Badge):
    indexes: ClassVar[tuple[Index, ...]] = (Index(("number",), unique=True),)

    number: int = 0


async def test_a_store_that_is_not_migrated_does_not_open(stores: MongoStores) -> None:
    store = stores.store()
    with pytest.raises(StoreUnavailableError, match="upward migrate"):
        await store.open(KINDS)
    assert stores.database not in stores.client.list_database_names()
    planned = await store.migrate(KINDS, dry_run=True)
    assert "create the index ux_email of cards" in planned
    assert await store.migrate(KINDS) == planned
    assert await store.migrate(KINDS) == []
    await store.open(KINDS)
    await store.close()
    with pytest.raises(StoreUnavailableError, match="collection badges"):
        await store.open([*KINDS, Badge])


async def test_an_index_that_is_no_longer_declared_is_told_and_kept(stores: MongoStores) -> None:
    store = stores.store()
    await store.migrate([Badge])
    told = await store.migrate([PlainBadge])
    assert [words.split(" is no longer")[0] for words in told] == [
        "the index ix_site of badges",
        "the index ux_code of badges",
    ]
    assert "ux_code" in table(stores, "badges").index_information()
    await store.open([PlainBadge])
    await store.close()


async def test_a_unique_index_over_values_that_are_shared_already_is_refused(
    stores: MongoStores,
) -> None:
    store = stores.store()
    await store.migrate([PlainBadge])
    table(stores, "badges").insert_many([{"_id": n, "code": "secret-code"} for n in range(2)])
    with pytest.raises(UniqueViolationError) as caught:
        await store.migrate([Badge])
    assert "secret-code" not in str(caught.value)


async def test_a_unique_index_is_of_text(stores: MongoStores) -> None:
    with pytest.raises(TypeError, match=r"NumberedBadge\.number"):
        await stores.store().migrate([NumberedBadge])


# Transactions --------------------------------------------------------------------------------


def conflicts() -> float:
    return float(metrics.STORE_CONFLICTS.labels("matching")._value.get())


async def test_a_transient_refusal_runs_the_handler_again(
    stores: MongoStores, store: MongoStore
) -> None:
    stores.fail(
        ["insert"], {"times": 2}, errorCode=_ABORTED, errorLabels=["TransientTransactionError"]
    )
    before, runs = conflicts(), 0

    async def handler(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await add_one(tx, "t", 1)

    await store.transact(handler)
    assert (runs, conflicts() - before) == (3, 2)
    assert (await store.require(Tally, "t")).count == 1
    assert len(await store.outbox.pending(9)) == 1


async def test_an_unknown_commit_is_sent_again_and_the_handler_is_not_run_again(
    stores: MongoStores, store: MongoStore
) -> None:
    unknown = ["UnknownTransactionCommitResult"]
    stores.fail(["commitTransaction"], {"times": 2}, errorCode=_TIMED_OUT, errorLabels=unknown)
    runs = 0

    async def handler(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await add_one(tx, "t", 1)

    await store.transact(handler)
    assert runs == 1
    assert (await store.require(Tally, "t")).count == 1


async def test_a_commit_that_stays_unknown_is_told_after_a_bounded_time(
    stores: MongoStores, store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.mongo_driver._OPERATION_SECONDS", 1.0)
    unknown = ["UnknownTransactionCommitResult"]
    stores.fail(["commitTransaction"], "alwaysOn", errorCode=_TIMED_OUT, errorLabels=unknown)
    try:
        with pytest.raises(StoreUnavailableError, match="unknown"):
            await asyncio.wait_for(store.transact(add_one, "t"), 10)
    finally:
        stores.heal()


async def test_a_connection_that_breaks_before_the_commit_runs_the_handler_again(
    stores: MongoStores, store: MongoStore
) -> None:
    stores.fail(["insert"], {"times": 1}, closeConnection=True)
    assert await store.transact(add_one, "t", 1) == 1
    assert len(await store.outbox.pending(9)) == 1


async def test_a_connection_that_breaks_at_the_commit_does_not_commit_twice(
    stores: MongoStores, store: MongoStore
) -> None:
    stores.fail(["commitTransaction"], {"times": 1}, closeConnection=True)
    assert await store.transact(add_one, "t", 1) == 1
    assert (await store.require(Tally, "t")).count == 1


async def test_a_handler_that_only_reads_leaves_no_transaction_behind(
    stores: MongoStores, store: MongoStore
) -> None:
    async def read(tx: Transaction) -> int:
        first, second = await asyncio.gather(tx.count(Card), tx.count(Tally))
        return first + second

    assert await store.transact(read) == 0
    await store.close()
    # An open one would make the server wait.
    with pymongo.timeout(5):
        stores.client.drop_database(stores.database)


async def test_a_handler_that_is_cancelled_while_it_reads_leaves_no_transaction_behind(
    stores: MongoStores, store: MongoStore
) -> None:
    async def read(tx: Transaction) -> None:
        while True:
            await tx.count(Card)

    for pause in (0, 0.001, 0.01, 0.03):
        task = asyncio.create_task(store.transact(read))
        await asyncio.sleep(pause)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await store.close()
    with pymongo.timeout(5):
        stores.client.drop_database(stores.database)


async def test_a_document_too_large_is_refused_and_not_tried_again(store: MongoStore) -> None:
    before = conflicts()
    with pytest.raises(TooLargeError):
        await store.transact(put_cards, Card(id="c", color="x" * 17_000_000))
    (card,) = await store.transact(put_cards, Card(id="c"))
    with pytest.raises(TooLargeError):
        await store.transact(put_cards, card.changed(color="x" * 17_000_000))
    assert conflicts() == before


async def test_an_error_tells_nothing_of_what_was_to_be_stored(store: MongoStore) -> None:
    await store.transact(put_cards, Card(id="a", email="secret@example.org"))
    with pytest.raises(UniqueViolationError) as caught:
        await store.transact(put_cards, Card(id="b", email="secret@example.org"))
    shown: BaseException | None = caught.value
    while shown is not None:
        assert "secret" not in str(shown)
        shown = None if shown.__suppress_context__ else shown.__context__ or shown.__cause__


async def test_a_server_that_pauses_is_waited_for(mongo: MongoServer, store: MongoStore) -> None:
    if not mongo.killable:
        pytest.skip("the server of MONGODB_URI is not ours to pause")
    assert await store.ping()
    mongo.pause()
    try:
        late = asyncio.create_task(store.transact(add_one, "t", 1))
        await asyncio.sleep(0.5)
        assert not late.done()
    finally:
        mongo.resume()
    assert await late == 1


async def test_a_server_that_comes_back_is_found_again(
    mongo: MongoServer, store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not mongo.killable:
        pytest.skip("the server of MONGODB_URI is not ours to kill")
    await store.transact(add_one, "t", 1)
    await asyncio.to_thread(mongo.kill)
    with monkeypatch.context() as impatient:
        impatient.setattr("shared.store.mongo_driver._PING_SECONDS", 0.5)
        impatient.setattr("shared.store.mongo_driver._OPERATION_SECONDS", 0.5)
        assert not await store.ping()
        for call in (store.get(Tally, "t"), store.transact(add_one, "t", 1)):
            with pytest.raises(StoreUnavailableError):
                await call
    await asyncio.to_thread(mongo.start)
    assert (await store.require(Tally, "t")).count == 1
    assert await store.transact(add_one, "t", 1) == 2


async def test_the_whole_of_a_conflict_is_bounded(
    stores: MongoStores, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.mongo_driver._RERUN_SECONDS", 0.3)
    stores.fail(
        ["insert"], "alwaysOn", errorCode=_ABORTED, errorLabels=["TransientTransactionError"]
    )
    try:
        with pytest.raises(StaleWriteError):
            await asyncio.wait_for(store.transact(add_one, "t"), 10)
    finally:
        stores.heal()


async def test_another_process_s_commit_wakes_a_waiting_relay(
    store: MongoStore, other: MongoStore
) -> None:
    await store.outbox.pending(1)
    waiting = asyncio.create_task(store.outbox.wait(60))
    async with asyncio.timeout(20):
        # Again and again: what is committed before the stream is open, no stream tells.
        while not waiting.done():
            await other.transact(add_one, "t", 1)
            await asyncio.wait({waiting}, timeout=0.2)


async def test_a_store_closes_while_it_listens_for_other_processes(store: MongoStore) -> None:
    await store.outbox.wait(0.1)
    await asyncio.wait_for(store.close(), 10)
