"""Running rounds: the pool as it is, a process that solves it, its result written down in parts."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from services.matching.commits import commit_part, complete_round, lose_part
from services.matching.domain.pair import Pair
from services.matching.domain.pool import Standing, digest_of
from services.matching.domain.program import Program
from services.matching.domain.round import Round, RoundPart, RoundProgress
from services.matching.engine.model import Policy, Result, Snapshot
from services.matching.engine.task import Order, Task
from services.matching.engine.watch import Progress
from services.matching.handlers import end_round
from services.matching.jobs import for_each
from services.matching.repository import LIVING_STATUSES, every, free_in, require_program
from services.matching.solver import solve_apart
from shared import metrics
from shared.clock import Clock, monotonic
from shared.errors import StaleWriteError, UnavailableError, UpwardError, code_of
from shared.logging import get_logger
from shared.store.port import AtMost, In, Store, Transaction, Where

T = TypeVar("T")

LIMIT_SECONDS = 1800.0
"""After so long the best that a round has found is its result, whatever its gap."""

_PAIRS_AT_ONCE = 100
_WAITING_AT_ONCE = 500
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class PoolRead:
    """A program's pool as it was read: the candidates as JSON, the snapshot's id, and how
    everybody stood.
    """

    lines: list[bytes]
    snapshot: str
    standings: dict[str, Standing]


@dataclass(frozen=True)
class _Found:
    """A pool as a round found it: the task, and what must still be so when it is solved."""

    task: Task
    configuration: int
    pool: PoolRead


class RoundRunner:
    """Runs the rounds that were requested, and again those that a crash cut off.

    A round that was cut off while it was solved is begun again, on the pool of then. Its result is
    written down before any of it is proposed, so that one that was cut off later goes on where it
    stood: every proposal is made once.
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
                {"status": In(("requested", "running", "committing"))},
                order_by="requested_at",
            ),
            self._run,
        )
        await self._sweep()

    async def _run(self, opened: Round) -> None:
        """Run a round to its end; one that can't be run fails, so that the next one may."""
        started = monotonic()
        try:
            if opened.status != "committing" and not await self._solve(opened.id):
                return
            await self._commit(opened.id)
        except (UnavailableError, StaleWriteError):
            raise
        except Exception as error:
            self._log.error("round_failed", round_id=opened.id, exc_info=error)
            await self._store.transact(_fail, opened.id, code_of(error), self._clock.now())
            return
        metrics.ROUND_SECONDS.labels(opened.kind).observe(monotonic() - started)

    async def _solve(self, round_id: str) -> bool:
        """Find the round's result and write it down; return whether there is one to commit."""
        while True:
            now = self._clock.now()
            begun = await self._store.transact(_begin, round_id, now)
            if begun is None:
                return False
            found = await self._gather(begun, now)
            result = await self._watched(begun, found.task)
            if result is None:
                return False
            parts = await self._write_down(begun, found, result)
            waiting = {who: found.pool.standings[who] for who in result.unmatched}
            left = await asyncio.to_thread(digest_of, found.configuration, waiting)
            settled = await self._store.transact(
                _settle, begun, found, result, parts, left, self._clock.now()
            )
            # None where the program changed meanwhile: all is found anew.
            if settled is not None:
                return settled

    async def _gather(self, begun: Round, now: datetime) -> _Found:
        """Read the pool, page by page: who changes while others are read has another mark when the
        result is committed, as somebody who changes later has.
        """
        program = await require_program(self._store, begun.program_id)
        policy = program.policy(now)
        read = await read_pool(self._store, program, policy, now)
        order = Order(policy=policy, seed=begun.seed, seconds=LIMIT_SECONDS)
        return _Found(Task(order, read.lines), program.config.version, read)

    async def _watched(self, begun: Round, task: Task) -> Result | None:
        """Solve, and tell how far it is; None where the round was called off meanwhile."""
        heard: list[Progress] = []
        solving = asyncio.create_task(solve_apart(task, heard.append))
        try:
            while True:
                done, _ = await asyncio.wait({solving}, timeout=_LOOK_SECONDS)
                if done:
                    return await solving
                latest = heard[-1] if heard else None
                if not await self._store.transact(_go_on, begun, latest):
                    return None
        finally:
            solving.cancel()
            with contextlib.suppress(asyncio.CancelledError, UpwardError):
                await solving

    async def _write_down(self, begun: Round, found: _Found, result: Result) -> int:
        """Write the parts of a result, which nobody commits before it is settled; return how many.

        Stops where another attempt was begun meanwhile.
        """
        parts = 0
        for part in _parts(begun, found, result):
            if not await self._store.transact(_put_part, begun, part):
                break
            parts += 1
        return parts

    async def _commit(self, round_id: str) -> None:
        opened = await self._store.require(Round, round_id)
        for number in range(opened.parts):
            await self._commit_part(RoundPart.id_of(opened, number))
        await self._store.transact(complete_round, round_id, self._clock.now())

    async def _commit_part(self, part_id: str) -> None:
        """Commit a part; one that can't be is lost, so that it keeps up no other and no program."""
        try:
            await self._store.transact(commit_part, part_id, self._clock.now())
        except (UnavailableError, StaleWriteError):
            raise
        except Exception as error:
            self._log.error("round_part_lost", part_id=part_id, exc_info=error)
            await self._store.transact(lose_part, part_id)

    async def _sweep(self) -> None:
        """Forget the parts that ended rounds left: of attempts that were cut off or called off."""
        await for_each(
            every(self._store, RoundPart, at_once=1),
            lambda part: self._store.transact(_forget_part, part.id),
        )


def _parts(begun: Round, found: _Found, result: Result) -> Iterator[RoundPart]:
    pairs = [(some, ()) for some in _chunks(result.pairs, _PAIRS_AT_ONCE)]
    waiting = [((), some) for some in _chunks(tuple(result.unmatched.items()), _WAITING_AT_ONCE)]
    for number, (some_pairs, some_waiting) in enumerate([*pairs, *waiting]):
        people = [who for pair in some_pairs for who in pair.members]
        people += [who for who, _ in some_waiting]
        yield RoundPart(
            id=RoundPart.id_of(begun, number),
            round_id=begun.id,
            pairs=some_pairs,
            waiting=dict(some_waiting),
            explained={
                who: result.explained[who] for who, _ in some_waiting if who in result.explained
            },
            marks={who: found.pool.standings[who].mark for who in people},
        )


def _chunks(items: tuple[T, ...], size: int) -> Iterator[tuple[T, ...]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


async def _put_part(tx: Transaction, begun: Round, part: RoundPart) -> bool:
    if not _runs(await tx.require(Round, begun.id), begun):
        return False
    tx.put(part)
    return True


async def _forget_part(tx: Transaction, part_id: str) -> None:
    part = await tx.get(RoundPart, part_id)
    if part is not None and (await tx.require(Round, part.round_id)).ended:
        tx.delete(part)


async def read_pool(store: Store, program: Program, policy: Policy, now: datetime) -> PoolRead:
    """Read everybody who is free in a program, page by page."""
    snapshot, lines, standings = Snapshot(), list[bytes](), dict[str, Standing]()
    async for member in free_in(store, program.id):
        lines.append(snapshot.add(member.candidate(program, now)))
        standings[member.id] = member.standing(policy.term_middle)
    return PoolRead(lines, snapshot.id(policy), standings)


async def _begin(tx: Transaction, round_id: str, now: datetime) -> Round | None:
    """Begin the round; None where there is nothing to run, or not yet."""
    opened = await tx.require(Round, round_id)
    if opened.status not in {"requested", "running"} or await _still_gathers(tx, opened, now):
        return None
    return tx.put(opened.start(now))


async def _still_gathers(tx: Transaction, opened: Round, now: datetime) -> bool:
    """Return whether a rotation waits for pairs whose term is over; once begun, it takes none."""
    if opened.kind != "rotation" or opened.status != "requested":
        return False
    ending: Where = {"program_id": opened.program_id, "status": LIVING_STATUSES}
    return await tx.count(Pair, {**ending, "ends_at": AtMost(now)}) > 0


async def _go_on(tx: Transaction, begun: Round, progress: Progress | None) -> bool:
    """Keep how far the round is; return whether this attempt is still the one that runs."""
    opened = await tx.require(Round, begun.id)
    if not _runs(opened, begun):
        return False
    if progress is None:
        return True
    known = await tx.get(RoundProgress, begun.id)
    if known is None:
        tx.put(RoundProgress(id=begun.id, progress=progress))
        # Written with the first, so that the round can't end at the same moment without it.
        tx.put(opened)
    elif known.progress != progress:
        tx.put(known.changed(progress=progress))
    return True


def _runs(opened: Round, begun: Round) -> bool:
    return opened.status == "running" and opened.attempt == begun.attempt


async def _settle(
    tx: Transaction,
    begun: Round,
    found: _Found,
    result: Result,
    parts: int,
    left: str,
    now: datetime,
) -> bool | None:
    """Take the result; False where somebody else runs the round, None where it is found anew."""
    opened = await tx.require(Round, begun.id)
    if not _runs(opened, begun):
        return False
    program = await require_program(tx, opened.program_id)
    if not program.is_over(now) and (
        program.config.version != found.configuration
        or program.policy(now) != found.task.order.policy
    ):
        return None
    tx.put(opened.settle(found.pool.snapshot, result, parts=parts, left=left))
    return True


async def _fail(tx: Transaction, round_id: str, code: str, now: datetime) -> None:
    opened = await tx.require(Round, round_id)
    if opened.status in {"requested", "running"}:
        await end_round(tx, opened.fail(code, now))
