"""The projection: whatever the order and however often, the same events give the same buckets."""

import asyncio
import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from services.reporting.domain import PersonFact
from services.reporting.kpis.bucket import WHOLE
from services.reporting.repository import DOCUMENTS, rebuild
from tests.unit.reporting.builders import PROGRAM, Said, Story, year
from tests.unit.reporting.projection import buckets_after, projection

SMALL = year(pairs=6, months=4)


@given(chance=st.randoms(use_true_random=False), batch=st.integers(1, 60))
@settings(max_examples=6, deadline=None)
def test_any_order_and_any_duplication_give_the_same_buckets(
    chance: random.Random, batch: int
) -> None:
    shuffled = [*SMALL.said, *chance.sample(SMALL.said, 20)]
    chance.shuffle(shuffled)

    async def run(folder: Path) -> None:
        expected = await buckets_after(folder / "in-order.db", SMALL.said)
        async with projection(folder / "shuffled.db") as running:
            await running.consume(shuffled, batch)
            assert await running.buckets() == expected

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


async def test_buckets_hold_no_more_than_what_the_facts_add(tmp_path: Path) -> None:
    # Withdrawn, unpaired and corrected facts leave nothing behind: no zero, no empty document.
    async with projection(tmp_path / "r.db") as running:
        story = Story()
        story.enroll("ann", "mentor")
        story.withdraw("ann")
        await running.consume(story.said)

        assert await running.buckets() == {}
        assert await running.store.count(PersonFact) == 0


async def test_a_corrected_department_moves_what_was_counted(tmp_path: Path) -> None:
    story = Story()
    first = story.propose("pr_1", "ann", "bob")
    moved = first.mentees[0].model_copy(update={"department": "Research", "region": "oceania"})
    story.pair(first.model_copy(update={"mentees": (moved,)}))
    async with projection(tmp_path / "r.db") as running:
        await running.consume(story.said, batch=1)
        found = await running.buckets()

    departments = {cell.value for _, cell in found if cell.kind == "department"}
    assert departments == {"Research"}
    assert {cell.value for _, cell in found if cell.kind == "region"} == {"oceania"}


async def test_sessions_count_where_their_pair_started_in_any_order_and_batch(
    tmp_path: Path,
) -> None:
    story = Story()
    first = story.propose("pr_1", "ann", "bob")
    moved = first.mentees[0].model_copy(update={"department": "Research"})
    story.hold("pr_1", 1)
    story.pair(first.model_copy(update={"mentees": (moved,)}))
    story.hold("pr_1", 2)
    for number, order in enumerate((story.said, story.said[::-1])):
        for batch in (1, 2, 4):
            async with projection(tmp_path / f"{number}-{batch}.db") as running:
                await running.consume(order, batch=batch)
                found = await running.buckets()
            held = {cell.value: counts.get("held") for (_, cell), counts in found.items()}
            assert held["Research"] == held[WHOLE.value] == 2


@given(chance=st.randoms(use_true_random=False), batch=st.integers(1, 40))
@settings(max_examples=6, deadline=None)
def test_replicas_at_work_at_once_give_the_buckets_of_one(
    chance: random.Random, batch: int
) -> None:
    # A pair and its sessions are on different topics, so with different replicas.
    by_topic: dict[str, list[Said]] = {}
    for each in SMALL.said:
        by_topic.setdefault(each.record.topic, []).append(each)
    shares = [[*share, *chance.sample(share, min(5, len(share)))] for share in by_topic.values()]
    shares += [chance.sample(share, len(share)) for share in shares]

    async def run(folder: Path) -> None:
        expected = await buckets_after(folder / "one.db", SMALL.said)
        async with projection(folder / "many.db") as running:
            await asyncio.gather(*(running.consume_as_replica(share, batch) for share in shares))
            assert await running.buckets() == expected
            assert await running.dead_letters() == []

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


async def test_programs_do_not_mix(tmp_path: Path) -> None:
    one, other = Story(program_id="one"), Story(program_id="other")
    for story in (one, other):
        story.enroll(f"ann-{story.program_id}", "mentor")
    async with projection(tmp_path / "r.db") as running:
        await running.consume([*one.said, *other.said])
        found = await running.buckets()

    assert {program for program, _ in found} == {"one", "other"}
    assert all(counts["participants:mentor"] == 1 for counts in found.values())


async def test_counts_of_parts_of_the_roster_are_not_the_eligible(tmp_path: Path) -> None:
    story = Story()
    story.count_roster(50, 20)
    part = story.said[0].event.model_copy(update={"department": "Finance", "employed": 7})
    story.go_on(1)
    story.say(part)
    async with projection(tmp_path / "r.db") as running:
        await running.consume(story.said)
        found = await running.buckets()

    assert found[PROGRAM, WHOLE]["eligible:mentor"] == 50


async def test_a_rebuild_gives_the_live_buckets(tmp_path: Path) -> None:
    story = year(pairs=12)
    async with projection(tmp_path / "r.db") as running:
        await running.consume(story.said)
        live = await running.buckets()

        await rebuild(running.store, running.consumer.group)
        assert [await running.store.count(kind) for kind in DOCUMENTS] == [0] * len(DOCUMENTS)

        await running.consume(story.said, batch=37)
        assert await running.buckets() == live


async def test_a_score_that_no_scale_has_is_a_dead_letter_and_its_neighbors_count(
    tmp_path: Path,
) -> None:
    story = Story()
    story.answer("good", story.side("ann"), "mentor", 4)
    story.answer("bad", story.side("bob"), "mentee", 77)
    story.answer("fine", story.side("eve"), "mentee", 5)
    async with projection(tmp_path / "r.db") as running:
        await running.consume(story.said)
        found = await running.buckets()

        assert len(await running.dead_letters()) == 1
    assert found[PROGRAM, WHOLE]["pulses"] == 2
