"""What happens to matching between two steps: crashes, changes and commits at the same moment."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.matching import commits, handlers, previews, rounds
from services.matching.domain.pair import Pair
from services.matching.domain.pool import PoolMember
from services.matching.domain.preview import Preview
from services.matching.domain.program import Program
from services.matching.domain.round import Round, RoundPart, RoundProgress
from services.matching.engine.model import Result
from services.matching.engine.solve import solve
from services.matching.engine.task import Order, Task
from services.matching.engine.watch import Progress
from services.matching.jobs import jobs
from services.matching.previews import PreviewRunner
from services.matching.repository import DOCUMENTS, every
from services.matching.rounds import RoundRunner
from services.matching.solver import Heard, SolverError, solve_apart
from shared.clock import ManualClock
from shared.errors import UpwardError
from shared.events.envelope import Event
from shared.events.pairs import PairPaused, PairProposed, PairRotated, RoundCompleted
from shared.events.participants import (
    Enrolled,
    OrgChanged,
    OrgFacts,
    ParticipantEvent,
    ParticipantState,
    Paused,
    ProfileChanged,
    Resumed,
    TrainingCompleted,
    Withdrawn,
)
from shared.events.programs import ProgramClosed, ProgramPublished
from shared.http.auth import Principal
from shared.scheduling import Job
from shared.store.port import Transaction
from shared.store.sqlite import SqliteStore
from tests.unit.matching.builders import NOW, enrolled, published

LATER = NOW + timedelta(days=7 + 180)
DAY = timedelta(days=1)
OFFICE = Principal("office", frozenset({"coordinator"}), frozenset({"program"}))
Solver = Callable[[Task, Heard], Awaitable[Result]]


async def solve_here(task: Task, _heard: Heard) -> Result:
    return solve(task.pool(), task.order.policy, task.order.seed)


def senior(name: str, **fields: Any) -> Enrolled:
    return enrolled(name, role="mentee", **fields)


def moved(name: str, department: str, program_id: str = "program") -> OrgChanged:
    facts = OrgFacts(
        level=6 if name.startswith("m") else 2, department=department, manager_chain=()
    )
    return OrgChanged(
        program_id=program_id,
        participant_id=name,
        person_id=f"person-{name}",
        previous=facts,
        current=facts,
    )


class Service:
    """Matching's handlers, jobs and rounds on a store of their own: each step when a test says."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch | None = None) -> None:
        self.clock = ManualClock(NOW)
        self.store = SqliteStore(
            path / "matching.db", service="matching", region="local", clock=self.clock
        )
        self.runner = RoundRunner(self.store, self.clock)
        self._patch = patch
        self._versions: dict[str, int] = {}

    async def follow(self, *events: Event) -> None:
        """Take events as the consumer would, versions counting up."""
        for event in events:
            version = self._versions[event.subject] = self._versions.get(event.subject, 0) + 1
            await self.store.transact(follow, event, version)

    async def request(self, program_id: str = "program") -> Round:
        office = Principal("office", frozenset({"coordinator"}), frozenset({program_id}))
        now = self.clock.now()
        return await self.store.transact(handlers.request_round, office, now, program_id, None)

    async def solve_with(self, solver: Solver) -> None:
        """Run all open rounds with another solver."""
        assert self._patch is not None
        self._patch.setattr(rounds, "solve_apart", solver)
        await self.runner.run_rounds(self.clock.now())

    async def run(self) -> None:
        await self.solve_with(solve_here)

    async def run_twice_at_once(self, solver: Solver = solve_here) -> None:
        """Run all open rounds as two replicas would that both think it is theirs to do."""
        other = RoundRunner(self.store, self.clock)
        await asyncio.gather(self.solve_with(solver), other.run_rounds(self.clock.now()))

    async def heard(self) -> list[Any]:
        """Wait until there is progress."""
        for _ in range(1000):
            if found := await self.all(RoundProgress):
                return found
            await asyncio.sleep(0.01)
        raise TimeoutError

    async def preview(self, seed: int) -> Preview:
        return await self.store.transact(
            handlers.request_preview, OFFICE, NOW, "program", seed, {}, with_what_if=False
        )

    async def pair_up(self, program_id: str = "program") -> list[Pair]:
        """Run a round and let everybody accept."""
        await self.request(program_id)
        await self.run()
        for pair in await self.all(Pair, program_id=program_id, status="proposed"):
            for side in (pair.mentor, *pair.mentees):
                caller = Principal(side.person_id, frozenset({"participant"}))
                await self.store.transact(handlers.accept_pair, caller, self.clock.now(), pair.id)
        return await self.all(Pair, program_id=program_id, status="active")

    async def lengthen(self, pair: Pair) -> None:
        """Let the pair's term end a day later than that of its round."""

        async def change(tx: Transaction) -> None:
            tx.put((await tx.require(Pair, pair.id)).changed(ends_at=LATER + DAY))

        await self.store.transact(change)

    async def all(self, kind: type[Any], /, **where: Any) -> list[Any]:
        return [document async for document in every(self.store, kind, where)]

    async def only(self, kind: type[Any], /, **where: Any) -> Any:
        (found,) = await self.all(kind, **where)
        return found

    async def told(self, kind: type[Event]) -> list[dict[str, Any]]:
        """Return the data of every event of a type, in commit order."""
        records = await self.store.outbox.pending(10_000)
        return [
            orjson.loads(record.value or b"")
            for record in records
            if dict(record.headers)["ce_type"] == kind.type()
        ]

    def job(self, name: str) -> Job:
        return next(job for job in jobs(self.store) if getattr(job, "__name__", "") == name)


async def follow(tx: Transaction, event: Event, version: int) -> None:
    if isinstance(event, ProgramPublished | ProgramClosed):
        await handlers.follow_program(tx, event, NOW)
    else:
        assert isinstance(event, ParticipantState | ParticipantEvent)
        await handlers.follow_participant(tx, event, version, NOW)


async def killed(*_: object) -> None:
    raise asyncio.CancelledError


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    made = Service(tmp_path, monkeypatch)
    await made.store.open(DOCUMENTS)
    yield made
    await made.store.close()


@pytest.fixture
async def two(service: Service) -> Service:
    """A program with two mentors and two mentees."""
    await service.follow(published(), enrolled("m1"), enrolled("m2"), senior("s1"), senior("s2"))
    return service


# -- rounds ---------------------------------------------------------------------------------------


async def test_a_round_cut_off_leaves_no_half_and_each_proposal_exists_once(two: Service) -> None:
    solving = asyncio.Event()

    async def endless(_task: Task, _heard: Heard) -> Result:
        solving.set()
        await asyncio.Event().wait()
        raise AssertionError

    opened = await two.request()
    running = asyncio.create_task(two.solve_with(endless))
    await solving.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await two.only(Round)).status == "running"
    assert await two.all(Pair) == []

    await two.run()
    await two.run()
    done = await two.only(Round)
    assert (done.id, done.status) == (opened.id, "completed")
    assert len(await two.told(PairProposed)) == len(await two.all(Pair)) == 2
    assert len(await two.told(RoundCompleted)) == 1


async def test_a_cancelled_solver_process_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[asyncio.subprocess.Process] = []
    running = asyncio.Event()

    async def sleeper(*_: object, **options: Any) -> asyncio.subprocess.Process:
        process = await create("/bin/sleep", "600", **options)
        started.append(process)
        running.set()
        return process

    create = asyncio.create_subprocess_exec
    monkeypatch.setattr(asyncio, "create_subprocess_exec", sleeper)
    policy = Program(id="program", published=published()).policy(NOW)
    task = Task(Order(policy=policy, seed=1), ())
    solving = asyncio.create_task(solve_apart(task, lambda _: None))
    await running.wait()
    solving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await solving
    assert started[0].returncode == -9


async def test_a_round_that_another_replica_finished_is_not_told_twice(two: Service) -> None:
    async def overtaken(task: Task, heard: Heard) -> Result:
        await two.run()
        return await solve_here(task, heard)

    await two.request()
    await two.solve_with(overtaken)
    assert len(await two.told(RoundCompleted)) == 1
    assert len(await two.told(PairProposed)) == 2


async def test_a_round_that_two_replicas_solve_at_once_has_one_result(two: Service) -> None:
    both = asyncio.Barrier(2)

    async def at_once(task: Task, heard: Heard) -> Result:
        await both.wait()
        return await solve_here(task, heard)

    await two.request()
    await two.run_twice_at_once(at_once)
    assert (await two.only(Round)).status == "completed"
    assert len(await two.all(Pair)) == len(await two.told(PairProposed)) == 2
    assert len(await two.told(RoundCompleted)) == 1
    assert await two.all(RoundPart) == []


async def test_a_result_that_two_replicas_commit_at_once_is_proposed_once(
    two: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_PAIRS_AT_ONCE", 1)
    await two.request()
    # One attempt leaves its parts behind, the next one is killed when it has a result.
    for killed_at in ("_settle", "commit_part"):
        with monkeypatch.context() as patch:
            patch.setattr(rounds, killed_at, killed)
            with pytest.raises(asyncio.CancelledError):
                await two.run()
    assert (await two.only(Round)).status == "committing"
    assert len(await two.all(RoundPart)) == 4

    await two.run_twice_at_once()
    assert (await two.only(Round)).status == "completed"
    assert len(await two.all(Pair)) == len(await two.told(PairProposed)) == 2
    assert len(await two.told(RoundCompleted)) == 1
    assert await two.all(RoundPart) == []


async def test_who_changed_while_a_round_was_solved_is_not_proposed_and_the_figures_say_so(
    two: Service,
) -> None:
    async def meanwhile(task: Task, heard: Heard) -> Result:
        await two.follow(moved("m1", "department of s1"))
        return await solve_here(task, heard)

    await two.request()
    await two.solve_with(meanwhile)
    pair = await two.only(Pair)
    assert pair.mentor.participant_id == "m2"
    (done,) = await two.told(RoundCompleted)
    assert (done["proposed"], done["matched"]) == (1, {"mentors": 1, "mentees": 1})
    assert done["pool"] == {"mentors": 2, "mentees": 2}
    assert done["unmatched"] == {"no_partner_left": 2}
    assert done["objective"] == pair.score
    assert done["bound"] > pair.score
    assert done["gap"] == pytest.approx(1 - pair.score / done["bound"])
    assert (await two.store.require(PoolMember, "m1")).waiting_code("mentor") == "next_round"


async def test_a_round_begins_again_when_its_program_changes_and_its_points_add_up(
    two: Service,
) -> None:
    async def meanwhile(task: Task, heard: Heard) -> Result:
        if not await two.all(Program, **{"published.version": 2}):
            await two.follow(published(version=2, weights={"language": 900}))
        return await solve_here(task, heard)

    await two.request()
    await two.solve_with(meanwhile)
    pairs = await two.all(Pair)
    assert [pair.score for pair in pairs] == [900, 900]
    for pair in pairs:
        assert [(term.term, term.points) for term in pair.rationale] == [("language", 900)]


async def test_a_round_whose_program_closes_meanwhile_proposes_nothing(two: Service) -> None:
    async def meanwhile(task: Task, heard: Heard) -> Result:
        await two.follow(ProgramClosed(program_id="program", version=1))
        return await solve_here(task, heard)

    await two.request()
    await two.solve_with(meanwhile)
    assert await two.all(Pair) == []
    (done,) = await two.told(RoundCompleted)
    assert (done["proposed"], done["objective"], done["gap"]) == (0, 0, 1)
    assert (await two.only(Program)).open_round_id is None


async def test_a_round_that_fails_frees_its_program_and_keeps_up_no_other(two: Service) -> None:
    await two.follow(published(program_id="other"))
    await two.request()
    await two.request("other")

    async def broken(task: Task, heard: Heard) -> Result:
        if task.lines:
            raise SolverError("out of memory")
        return await solve_here(task, heard)

    await two.solve_with(broken)
    states = {found.program_id: (found.status, found.failure) for found in await two.all(Round)}
    assert states == {"program": ("failed", "solver_failed"), "other": ("completed", None)}
    assert len(await two.pair_up()) == 2


async def test_a_result_that_is_cut_off_between_its_parts_goes_on_where_it_stood(
    two: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_PAIRS_AT_ONCE", 1)
    await two.follow(senior("s3"))
    commit_part, solved = commits.commit_part, 0

    async def counted(task: Task, heard: Heard) -> Result:
        nonlocal solved
        solved += 1
        return await solve_here(task, heard)

    async def cut_off(tx: Transaction, part_id: str, now: datetime) -> None:
        if await two.all(Pair):
            raise asyncio.CancelledError
        await commit_part(tx, part_id, now)

    await two.request()
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "commit_part", cut_off)
        with pytest.raises(asyncio.CancelledError):
            await two.solve_with(counted)
    begun = await two.only(Round)
    assert (begun.status, begun.committed.proposed) == ("committing", 1)
    assert not await two.told(RoundCompleted)

    await two.solve_with(counted)
    assert solved == 1
    assert len(await two.all(Pair)) == len(await two.told(PairProposed)) == 2
    (done,) = await two.told(RoundCompleted)
    assert (done["proposed"], done["unmatched"]) == (2, {"no_partner_left": 1})
    assert await two.all(RoundPart) == []
    assert len([one for one in await two.all(PoolMember) if one.unmatched]) == 1


async def test_a_part_that_can_not_be_committed_is_lost_alone(
    two: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_PAIRS_AT_ONCE", 2)
    await two.follow(
        enrolled("unknown", level=None), enrolled("m3"), *(senior(f"s{n}") for n in (3, 4))
    )
    lost = set[str]()

    async def mistaken(task: Task, heard: Heard) -> Result:
        """Pair somebody whom nobody can propose, in a part with a pair that could be."""
        found = await solve_here(task, heard)
        (left,) = found.unmatched.keys() - {"unknown"}
        wrong = replace(found.pairs[0], mentor_id="unknown", mentee_ids=(left,))
        first, *others = found.pairs
        lost.update(("unknown", left, first.mentor_id, *first.mentee_ids))
        return replace(found, pairs=(first, wrong, *others), unmatched={})

    await two.request()
    await two.solve_with(mistaken)
    (done,) = await two.told(RoundCompleted)
    assert (done["proposed"], done["unmatched"]) == (2, {"no_partner_left": 4})
    pairs = await two.all(Pair)
    assert len(pairs) == len(await two.told(PairProposed)) == 2
    assert {who for pair in pairs for who in pair.participant_ids}.isdisjoint(lost)
    waiting = {one.id: one.unmatched for one in await two.all(PoolMember) if one.unmatched}
    assert waiting == dict.fromkeys(lost, "no_partner_left")
    assert await two.all(RoundPart) == []
    (ended,) = await two.all(Round)
    assert ended.left is None

    # Nothing comes again, and the program is free.
    await two.run()
    await two.request()
    await two.run()
    assert [found.status for found in await two.all(Round)] == ["completed"] * 2
    assert len(await two.told(PairProposed)) == 3


async def test_who_is_in_pairs_of_both_roles_gets_both_from_whatever_parts(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_PAIRS_AT_ONCE", 1)
    await service.follow(
        published(),
        enrolled("m1"),
        enrolled("m2", role="both", level=4),
        senior("s1"),
    )
    await service.request()
    await service.run()
    (done,) = await service.told(RoundCompleted)
    pairs = {pair.mentor.participant_id for pair in await service.all(Pair)}
    assert pairs == {"m1", "m2"}
    assert (done["proposed"], done["unmatched"]) == (2, {})


async def test_why_somebody_waited_until_now_is_no_change_between_parts(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_PAIRS_AT_ONCE", 1)
    await service.follow(published(), enrolled("m2", role="both", level=4))
    await service.request()
    await service.run()
    assert (await service.only(PoolMember)).explained is not None
    await service.follow(enrolled("m1"), senior("s1"))
    await service.request()
    await service.run()
    *_, done = await service.told(RoundCompleted)
    assert (done["proposed"], done["unmatched"]) == (2, {})


async def test_who_lost_one_of_two_partners_is_not_counted_as_unmatched(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_PAIRS_AT_ONCE", 1)
    await service.follow(
        published(), enrolled("m1"), enrolled("m2", role="both", level=4), senior("s1")
    )

    async def meanwhile(task: Task, heard: Heard) -> Result:
        await service.follow(
            Paused(program_id="program", participant_id="s1", person_id="ps1", at=NOW)
        )
        return await solve_here(task, heard)

    await service.request()
    await service.solve_with(meanwhile)
    (done,) = await service.told(RoundCompleted)
    # The one who paused waits in the figures of a round that knew nothing of it.
    assert (done["proposed"], done["unmatched"]) == (1, {"no_partner_left": 1})
    assert (await service.only(Pair)).mentor.participant_id == "m1"


async def test_an_attempt_that_comes_too_late_leaves_nothing(two: Service) -> None:
    async def overtaken(task: Task, heard: Heard) -> Result:
        await two.run()
        return await solve_here(task, heard)

    await two.request()
    await two.solve_with(overtaken)
    assert await two.all(RoundPart) == []


async def test_a_round_that_is_called_off_ends_its_solver_and_frees_the_program(
    two: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_LOOK_SECONDS", 0.01)
    ended = asyncio.Event()

    async def endless(_task: Task, heard: Heard) -> Result:
        heard(Progress("bidding", 0.6, 0.01))
        try:
            return await asyncio.Event().wait()  # type: ignore[return-value]  # it never does
        finally:
            ended.set()

    opened = await two.request()
    running = asyncio.create_task(two.solve_with(endless))
    (told,) = await two.heard()
    assert (told.id, told.progress.stage, told.progress.done) == (opened.id, "bidding", 0.6)

    await two.store.transact(handlers.cancel_round, OFFICE, NOW, opened.id)
    async with asyncio.timeout(10):
        await running
    assert ended.is_set()
    assert (await two.only(Round)).status == "canceled"
    assert await two.all(RoundProgress) == []
    assert await two.all(Pair) == []
    assert len(await two.pair_up()) == 2


@pytest.mark.parametrize("status", ["completed", "failed", "canceled"])
async def test_nothing_is_kept_of_an_ended_round_but_itself(
    two: Service, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setattr(rounds, "_LOOK_SECONDS", 0.01)

    async def told(task: Task, heard: Heard) -> Result:
        heard(Progress("bidding", 0.6, 0.01))
        await two.heard()
        return await solve_here(task, heard)

    async def broken(_task: Task, _heard: Heard) -> Result:
        raise SolverError("It ended.")

    opened = await two.request()
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "_settle", killed)
        with pytest.raises(asyncio.CancelledError):
            await two.solve_with(told)
    assert len(await two.all(RoundPart)) == len(await two.all(RoundProgress)) == 1

    if status == "canceled":
        await two.store.transact(handlers.cancel_round, OFFICE, NOW, opened.id)
    await two.solve_with(broken if status == "failed" else solve_here)
    assert (await two.only(Round)).status == status
    assert await two.all(RoundPart) == await two.all(RoundProgress) == []
    assert (await two.only(Program)).open_round_id is None


async def test_what_an_open_round_has_found_is_not_swept_away(
    two: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two.request()
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "commit_part", killed)
        with pytest.raises(asyncio.CancelledError):
            await two.run()
    await two.runner._sweep()
    assert len(await two.all(RoundPart)) == 1
    await two.run()
    assert len(await two.all(Pair)) == 2


async def test_a_round_that_is_called_off_as_it_tells_its_first_progress_keeps_none(
    two: Service,
) -> None:
    opened = await two.request()
    begun = await two.store.transact(rounds._begin, opened.id, NOW)
    assert begun is not None
    reading, release = asyncio.Event(), asyncio.Event()

    async def slowly(tx: Transaction) -> bool:
        reading.set()
        await release.wait()
        return await rounds._go_on(tx, begun, Progress("bidding", 0.6, 0.01))

    telling = asyncio.create_task(two.store.transact(slowly))
    await reading.wait()
    await two.store.transact(handlers.cancel_round, OFFICE, NOW, opened.id)
    release.set()
    assert not await telling
    assert await two.all(RoundProgress) == []


async def test_rounds_asked_for_at_the_same_moment_open_one(two: Service) -> None:
    answers = await asyncio.gather(*(two.request() for _ in range(8)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, UpwardError)]
    assert [error.code for error in refused] == ["round_open"] * 7
    assert len(await two.all(Round)) == 1


async def test_two_rounds_of_the_same_moment_are_two(two: Service) -> None:
    for _ in range(2):
        await two.request()
        await two.run()
    assert [found.status for found in await two.all(Round)] == ["completed"] * 2


# -- previews -------------------------------------------------------------------------------------


async def test_a_preview_that_two_replicas_make_at_once_is_kept_once(
    two: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = asyncio.Barrier(2)

    async def at_once(task: Task, heard: Heard) -> Result:
        await both.wait()
        return await solve_here(task, heard)

    monkeypatch.setattr(previews, "solve_apart", at_once)
    asked = await two.preview(seed=1)
    runners = [PreviewRunner(two.store, two.clock) for _ in range(2)]
    await asyncio.gather(*(runner.run_previews(NOW) for runner in runners))
    made = await two.only(Preview)
    assert (made.status, made.version) == ("completed", asked.version + 1)
    assert made.figures.proposed == 2


async def test_a_preview_that_comes_too_late_does_not_answer_for_a_newer_one(
    two: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = PreviewRunner(two.store, two.clock)

    async def overtaken(task: Task, heard: Heard) -> Result:
        monkeypatch.setattr(previews, "solve_apart", solve_here)
        await PreviewRunner(two.store, two.clock).run_previews(NOW)
        await two.preview(seed=2)
        return await solve_here(task, heard)

    monkeypatch.setattr(previews, "solve_apart", overtaken)
    await two.preview(seed=1)
    await runner.run_previews(NOW)
    waiting = await two.only(Preview)
    assert (waiting.seed, waiting.status) == (2, "requested")
    await runner.run_previews(NOW)
    assert (await two.only(Preview)).status == "completed"


# -- terms ----------------------------------------------------------------------------------------


async def test_a_rotation_begins_once_all_pairs_of_the_term_are_in_it(two: Service) -> None:
    first, second = await two.pair_up()
    two.clock.set(LATER)
    await two.store.transact(handlers.end_term, first.id, LATER)
    await two.run()
    rotation = await two.only(Round, kind="rotation")
    assert rotation.status == "requested"

    await two.job("end_terms")(LATER)
    await two.run()
    rotation = await two.only(Round, kind="rotation")
    assert rotation.figures.pool.model_dump() == {"mentors": 2, "mentees": 2}
    told = await two.told(PairRotated)
    assert {event["pair_id"] for event in told} == {first.id, second.id}
    assert {event["next_round_id"] for event in told} == {rotation.id}
    new = {
        (pair.mentor.person_id, pair.mentees[0].person_id)
        for pair in await two.all(Pair, status="proposed")
    }
    old = {(pair.mentor.person_id, pair.mentees[0].person_id) for pair in (first, second)}
    assert len(new) == 2
    assert not new & old


async def test_terms_that_end_while_a_round_is_open_wait_and_keep_up_no_other_program(
    two: Service,
) -> None:
    await two.follow(
        published(program_id="other"),
        enrolled("mx", program_id="other"),
        senior("sx", program_id="other"),
    )
    waiting = await two.pair_up()
    (free,) = await two.pair_up("other")
    two.clock.set(LATER)
    opened = await two.request()
    await two.job("end_terms")(LATER)
    assert [event["pair_id"] for event in await two.told(PairRotated)] == [free.id]

    await two.run()
    await two.job("end_terms")(LATER)
    await two.run()
    rotated = [event for event in await two.told(PairRotated) if event["program_id"] == "program"]
    assert {event["pair_id"] for event in rotated} == {pair.id for pair in waiting}
    assert opened.id not in {event["next_round_id"] for event in rotated}


async def test_a_rotation_cut_off_goes_on_though_more_terms_have_ended(two: Service) -> None:
    first, second = await two.pair_up()
    await two.lengthen(second)
    two.clock.set(LATER)
    await two.job("end_terms")(LATER)

    async def cut_off(_task: Task, _heard: Heard) -> Result:
        two.clock.set(LATER + DAY)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await two.solve_with(cut_off)
    assert (await two.only(Round, kind="rotation")).status == "running"
    await two.job("end_terms")(two.clock.now())
    await two.run()
    await two.job("end_terms")(two.clock.now())
    await two.run()
    told = {event["pair_id"]: event["next_round_id"] for event in await two.told(PairRotated)}
    assert told.keys() == {first.id, second.id}
    assert len(set(told.values())) == 2
    assert {found.status for found in await two.all(Round)} == {"completed"}


async def test_a_pair_does_not_join_a_rotation_that_begins_at_the_same_moment(
    two: Service,
) -> None:
    first, second = await two.pair_up()
    await two.lengthen(second)
    two.clock.set(LATER)
    await two.job("end_terms")(LATER)
    reading, release = asyncio.Event(), asyncio.Event()

    async def slowly(tx: Transaction) -> None:
        reading.set()
        await release.wait()
        await handlers.end_term(tx, second.id, LATER + DAY)

    joining = asyncio.create_task(two.store.transact(slowly))
    await reading.wait()
    await two.run()
    release.set()
    await joining
    told = {event["pair_id"]: event["next_round_id"] for event in await two.told(PairRotated)}
    assert told.keys() == {first.id, second.id}
    assert len(set(told.values())) == 2


async def test_a_pair_that_can_not_be_ended_keeps_up_no_other(two: Service) -> None:
    broken, sound = sorted(await two.pair_up(), key=lambda pair: pair.id)

    async def lose_a_member(tx: Transaction) -> None:
        tx.delete(await tx.require(PoolMember, broken.mentor.participant_id))

    await two.store.transact(lose_a_member)
    two.clock.set(LATER)
    with pytest.raises(ExceptionGroup) as failures:
        await two.job("end_terms")(LATER)
    assert len(failures.value.exceptions) == 1
    assert [event["pair_id"] for event in await two.told(PairRotated)] == [sound.id]


# -- events ---------------------------------------------------------------------------------------


async def test_two_members_who_move_together_at_the_same_moment_pause_their_pair(
    two: Service,
) -> None:
    pair = (await two.pair_up())[0]
    both_began = asyncio.Barrier(2)
    first_time = set[str]()

    async def at_once(tx: Transaction, event: OrgChanged) -> None:
        if event.subject not in first_time:
            first_time.add(event.subject)
            await both_began.wait()
        await handlers.follow_participant(tx, event, 2, NOW)

    await asyncio.gather(
        *(two.store.transact(at_once, moved(name, "the same")) for name in pair.participant_ids)
    )
    paused = await two.store.require(Pair, pair.id)
    assert (paused.status, paused.pause_reason) == ("paused", "same_department")
    assert [event["pair_id"] for event in await two.told(PairPaused)] == [pair.id]


def _history(name: str) -> list[tuple[int, Event]]:
    """Return everything that can happen to a participant who is trained after enrolling."""
    facts: dict[str, Any] = {
        "participant_id": name,
        "person_id": f"person-{name}",
        "program_id": "program",
    }
    state = enrolled(name, ready=False, ready_at=None)
    trained = state.model_dump() | {"ready": True, "ready_at": NOW}
    events: list[Event] = [
        state,
        TrainingCompleted(**facts, module="start", ready=True, ready_at=NOW),
        moved(name, "elsewhere"),
        Paused(**facts, at=NOW),
        ProfileChanged.model_validate(trained | {"languages": ("fr",)}),
        Resumed(**facts, at=NOW),
        Withdrawn(**facts, at=NOW),
        Enrolled.model_validate(trained | {"languages": ("de",)}),
    ]
    return list(enumerate(events, start=1))


IN_ORDER: list[tuple[int, Event]] = [
    (1, published()),
    (2, published(version=2, title="again")),
    *_history("m1"),
    *_history("m2")[:6],
]


@settings(max_examples=15, deadline=None)
@given(st.permutations(IN_ORDER), st.lists(st.sampled_from(IN_ORDER), max_size=5))
def test_the_pool_is_the_same_whatever_order_events_arrive_in_and_however_often(
    shuffled: list[tuple[int, Event]], again: list[tuple[int, Event]]
) -> None:
    async def state(events: list[tuple[int, Event]]) -> dict[str, object]:
        with tempfile.TemporaryDirectory() as folder:
            made = Service(Path(folder))
            await made.store.open(DOCUMENTS)
            for version, event in events:
                await made.store.transact(follow, event, version)
            found = [*await made.all(PoolMember), *await made.all(Program)]
            await made.store.close()
        return {document.id: document.model_dump(exclude={"version"}) for document in found}

    assert asyncio.run(state(shuffled + again)) == asyncio.run(state(IN_ORDER))
