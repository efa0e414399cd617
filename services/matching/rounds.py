"""Running rounds: a snapshot of the pool, a process that solves it, one commit of the result."""

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from services.matching.domain.pair import Pair, propose
from services.matching.domain.pool import PoolMember
from services.matching.domain.program import Program
from services.matching.domain.round import Round
from services.matching.engine.model import FoundPair, Result, UnmatchedCode, snapshot_id
from services.matching.engine.task import RESULT, Task
from services.matching.jobs import for_each
from services.matching.repository import LIVING_STATUSES, every, pool, require_program
from shared import metrics
from shared.clock import Clock, monotonic
from shared.errors import StaleWriteError, UnavailableError, UpwardError
from shared.events.pairs import RoleCounts
from shared.logging import get_logger
from shared.store.port import AtMost, In, Store, Transaction, Where


class SolverError(UpwardError):
    """The process that solves rounds failed."""

    code = "solver_failed"


@dataclass(frozen=True)
class _Snapshot:
    """A pool as a round found it: the task, and what must still be so when it is solved."""

    id: str
    task: Task
    configuration: int
    versions: Mapping[str, int]


class RoundRunner:
    """Runs the rounds that were requested, and again those that a crash cut off.

    A round's proposals and its result commit together: there is never half a round. One that is
    begun again works on the pool of now.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._log = get_logger("matching")

    async def run_rounds(self, _now: datetime) -> None:
        """Run every open round whose time has come, one after the other."""
        await for_each(
            every(
                self._store,
                Round,
                {"status": In(("requested", "running"))},
                order_by="requested_at",
            ),
            self._run,
        )

    async def _run(self, opened: Round) -> None:
        """Run a round to its end; one that can't be run fails, so that the next one may."""
        started = monotonic()
        try:
            done = False
            while not done:
                snapshot = await self._store.transact(_begin, opened.id, self._clock.now())
                if snapshot is None:
                    return
                result = await solve_apart(snapshot.task)
                done = await self._store.transact(
                    _finish, opened.id, result, snapshot, self._clock.now()
                )
        except (UnavailableError, StaleWriteError):
            raise
        except Exception as error:
            self._log.error("round_failed", round_id=opened.id, exc_info=error)
            code = error.code if isinstance(error, UpwardError) else UpwardError.code
            await self._store.transact(_fail, opened.id, code, self._clock.now())
            return
        metrics.ROUND_SECONDS.labels(opened.kind).observe(monotonic() - started)


async def solve_apart(task: Task) -> Result:
    """Solve in a process of its own, so that the event loop goes on. Raises SolverError."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "services.matching.engine",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Ctrl-C is for us, who let the round finish: it must not look like a solver that failed.
        start_new_session=True,
    )
    try:
        answer, complaint = await process.communicate(task.model_dump_json().encode())
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        raise SolverError(f"The solver ended with {process.returncode}: {last}")
    return RESULT.validate_json(answer)


async def _begin(tx: Transaction, round_id: str, now: datetime) -> _Snapshot | None:
    """Take the snapshot; None where there is nothing to run, or not yet."""
    opened = await tx.require(Round, round_id)
    if opened.status not in {"requested", "running"} or await _still_gathers(tx, opened, now):
        return None
    program = await require_program(tx, opened.program_id)
    members = [
        member
        async for member in pool(tx, program.id)
        if member.available("mentor") or member.available("mentee")
    ]
    task = Task(
        pool=tuple(member.candidate(program, now) for member in members),
        policy=program.policy(now),
        seed=opened.seed,
    )
    snapshot = snapshot_id(task.pool, task.policy)
    started = opened.start(snapshot, now)
    if started is not opened:
        tx.put(started)
    versions = {member.id: member.version for member in members}
    return _Snapshot(snapshot, task, program.config.version, versions)


async def _still_gathers(tx: Transaction, opened: Round, now: datetime) -> bool:
    """Return whether a rotation waits for pairs whose term is over; once begun, it takes none."""
    if opened.kind != "rotation" or opened.status != "requested":
        return False
    ending: Where = {"program_id": opened.program_id, "status": LIVING_STATUSES}
    return await tx.count(Pair, {**ending, "ends_at": AtMost(now)}) > 0


async def _finish(
    tx: Transaction, round_id: str, result: Result, snapshot: _Snapshot, now: datetime
) -> bool:
    """Commit the result; False where the program changed, so that it is to be found anew."""
    opened = await tx.require(Round, round_id)
    if opened.status != "running" or opened.snapshot != snapshot.id:
        return True  # another process took the round over
    program = await require_program(tx, opened.program_id)
    members = {member.id: member async for member in pool(tx, program.id)}
    # Who changed meanwhile is not proposed on what they were: they wait for the next round.
    moved = {
        participant_id
        for participant_id, version in snapshot.versions.items()
        if participant_id not in members or members[participant_id].version != version
    }
    if program.is_over(now):
        moved = set(snapshot.versions)
    elif (
        program.config.version != snapshot.configuration
        or program.policy(now) != snapshot.task.policy
    ):
        return False
    result = without(result, moved)
    for found in result.pairs:
        _propose(tx, opened, program, members, found, now)
        # Rationales of a large round take a while: let others have their turn.
        await asyncio.sleep(0)
    for participant_id, code in result.unmatched.items():
        if participant_id not in moved and members[participant_id].unmatched != code:
            tx.put(members[participant_id].missed(code))
    completed = tx.put(opened.complete(result, now))
    await _close(tx, opened)
    tx.emit(completed.as_completed())
    return True


async def _fail(tx: Transaction, round_id: str, code: str, now: datetime) -> None:
    opened = await tx.require(Round, round_id)
    if opened.status in {"requested", "running"}:
        tx.put(opened.fail(code, now))
        await _close(tx, opened)


async def _close(tx: Transaction, opened: Round) -> None:
    program = await tx.require(Program, opened.program_id)
    tx.put(program.finish_round(opened.id))


def _propose(
    tx: Transaction,
    opened: Round,
    program: Program,
    members: dict[str, PoolMember],
    found: FoundPair,
    now: datetime,
) -> None:
    pair = propose(
        opened.pair_id(found.mentor_id),
        found,
        members[found.mentor_id],
        [members[mentee_id] for mentee_id in found.mentee_ids],
        program,
        round_id=opened.id,
        origin=opened.kind,
        now=now,
    )
    for participant_id in pair.participant_ids:
        member = members[participant_id]
        members[participant_id] = tx.put(member.take_seat(pair.role_of(participant_id), pair.id))
    tx.put(pair)
    tx.emit(pair.as_proposed())


def without(result: Result, moved: set[str]) -> Result:
    """Return the result less the pairs with a member who changed while it was being found.

    The bound stays that of the whole pool, so the gap says what this cost; what a random pair can
    expect stays that of the pool, too.
    """
    kept = tuple(pair for pair in result.pairs if moved.isdisjoint(_members(pair)))
    if len(kept) == len(result.pairs):
        return result
    matched = {participant_id for pair in kept for participant_id in _members(pair)}
    everybody = {participant_id for pair in result.pairs for participant_id in _members(pair)}
    lost: dict[str, UnmatchedCode] = dict.fromkeys(everybody - matched, "no_partner_left")
    objective = sum(pair.score for pair in kept)
    mentees = sum(len(pair.mentee_ids) for pair in kept)
    difference = sum(pair.terms["difference"] for pair in kept)
    return replace(
        result,
        pairs=kept,
        unmatched=dict(sorted((result.unmatched | lost).items())),
        matched=RoleCounts(mentors=len(kept), mentees=mentees),
        objective=objective,
        gap=1 - objective / result.bound if result.bound else 0.0,
        mean_dissimilarity=difference / mentees if mentees else None,
    )


def _members(pair: FoundPair) -> tuple[str, ...]:
    return (pair.mentor_id, *pair.mentee_ids)
