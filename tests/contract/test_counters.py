"""What every store must do with counters: adding without reading comes to the same as with."""

import asyncio
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import UniqueViolationError
from shared.store.port import Store, Transaction
from tests.contract.stores import KINDS, OpenStores, Votes


async def add(tx: Transaction, *votes: Votes) -> None:
    for each in votes:
        tx.add(each)


def cast(votes_id: str = "v", motion: str | None = None, **counts: int) -> Votes:
    return Votes(id=votes_id, motion=motion, counts=counts)


async def test_what_is_added_is_the_sum_and_the_first_says_the_rest(store: Store) -> None:
    await store.transact(add, cast(motion="lunch", yes=2, no=1))
    await store.transact(add, cast(motion="dinner", yes=3, blank=1), cast(no=4), cast("w", yes=1))

    votes = await store.require(Votes, "v")
    assert votes.counts == {"yes": 5, "no": 5, "blank": 1}
    assert (votes.motion, votes.version) == ("lunch", 2)
    assert (await store.require(Votes, "w")).counts == {"yes": 1}


async def test_of_twenty_concurrent_additions_none_is_lost(store: Store) -> None:
    await asyncio.gather(*(store.transact(add, cast(yes=1, no=-1)) for _ in range(20)))
    assert (await store.require(Votes, "v")).counts == {"yes": 20, "no": -20}


async def test_a_counter_of_zero_is_as_good_as_none(store: Store) -> None:
    await store.transact(add, cast(yes=2, no=1))
    await store.transact(add, cast(yes=-2, blank=0))
    assert (await store.require(Votes, "v")).counts == {"no": 1}


async def test_sums_are_exact_beyond_32_bits(store: Store) -> None:
    for _ in range(3):
        await store.transact(add, cast(sum=2**31 - 1, more=2**61))
    assert (await store.require(Votes, "v")).counts == {"sum": 3 * (2**31 - 1), "more": 3 * 2**61}


async def test_nothing_is_added_when_the_handler_raises(store: Store) -> None:
    async def fail(tx: Transaction) -> None:
        tx.add(cast(yes=1))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.transact(fail)
    assert await store.get(Votes, "v") is None


async def test_counters_that_were_read_before_are_added_like_new_ones(store: Store) -> None:
    await store.transact(add, cast(yes=1))
    before = await store.require(Votes, "v")
    await store.transact(add, cast(no=1))

    async def double(tx: Transaction) -> dict[str, int]:
        tx.add(before)
        return (await tx.require(Votes, "v")).counts

    assert await store.transact(double) == {"yes": 2, "no": 1}


async def test_a_document_changed_by_an_addition_meanwhile_is_stale(store: Store) -> None:
    await store.transact(add, cast(yes=1))
    runs = 0

    async def double(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        votes = await tx.require(Votes, "v")
        if runs == 1:
            await store.transact(add, cast(yes=5))
        tx.put(votes.plus(votes))

    await store.transact(double)
    assert (await store.require(Votes, "v")).counts == {"yes": 12}
    assert runs == 2


async def test_a_unique_value_of_counters_belongs_to_one_document(store: Store) -> None:
    await store.transact(add, cast(motion="lunch", yes=1))
    with pytest.raises(UniqueViolationError):
        await store.transact(add, cast("w", motion="lunch", yes=1))
    assert await store.get(Votes, "w") is None


@pytest.mark.parametrize("name", ["", "a.b", "$a", "a\0"])
async def test_a_name_that_an_update_would_misread_is_refused(store: Store, name: str) -> None:
    async def put(tx: Transaction, votes: Votes) -> None:
        tx.put(votes)

    for write in (add, put):
        with pytest.raises(ValueError, match="can't have a counter"):
            await store.transact(write, Votes(id="v", counts={name: 1}))

    async def put_changed(tx: Transaction, votes: Votes) -> None:
        tx.put(votes, counts={name: 1})

    with pytest.raises(ValueError, match="can't have a counter"):
        await store.transact(put_changed, Votes(id="v"))
    assert await store.get(Votes, "v") is None


# Against plain Python ------------------------------------------------------------------------

Step = tuple[Literal["add", "put", "delete", "get", "find"], str, dict[str, int]]
STEPS = st.tuples(
    st.sampled_from(["add", "add", "put", "delete", "get", "find"]),
    st.sampled_from("ab"),
    st.dictionaries(st.sampled_from(["x", "y:1"]), st.integers(-2, 2), max_size=2),
)


@dataclass
class Plain:
    """The documents as a dictionary of what counts in them."""

    votes: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, votes_id: str, amounts: dict[str, int]) -> None:
        known = self.votes.get(votes_id, {})
        sums = {name: known.get(name, 0) + amounts.get(name, 0) for name in {**known, **amounts}}
        self.put(votes_id, sums)

    def put(self, votes_id: str, counts: dict[str, int]) -> None:
        self.votes[votes_id] = {name: count for name, count in counts.items() if count}

    async def agrees(self, reader: Store | Transaction) -> None:
        found = await reader.find(Votes)
        assert [votes.id for votes in found] == sorted(self.votes)
        assert {votes.id: votes.counts for votes in found} == self.votes
        assert await reader.count(Votes) == len(self.votes)


async def take(tx: Transaction, plain: Plain, step: Step) -> None:
    """Do the step in both."""
    what, votes_id, amounts = step
    match what:
        case "add":
            tx.add(Votes(id=votes_id, counts=amounts))
            plain.add(votes_id, amounts)
        case "put":
            stored = await tx.get(Votes, votes_id)
            tx.put((stored or Votes(id=votes_id)).changed(counts=amounts))
            plain.put(votes_id, amounts)
        case "delete":
            if (known := (await tx.get_many(Votes, [votes_id])).get(votes_id)) is not None:
                tx.delete(known)
            assert (known is not None) == (plain.votes.pop(votes_id, None) is not None)
        case "get":
            known = await tx.get(Votes, votes_id)
            assert (known.counts if known else None) == plain.votes.get(votes_id)
        case "find":
            await plain.agrees(tx)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(STEPS, min_size=1, max_size=6), max_size=4))
def test_additions_among_other_writes_come_to_what_plain_python_says(
    stores: OpenStores, transactions: list[list[Step]]
) -> None:
    async def run() -> None:
        store = await stores.open()
        try:
            await store.clear(KINDS)
            plain = Plain()
            for steps in transactions:

                async def all_steps(tx: Transaction, steps: list[Step] = steps) -> None:
                    for step in steps:
                        await take(tx, plain, step)

                await store.transact(all_steps)
                await plain.agrees(store)
        finally:
            await store.close()

    asyncio.run(run())
