"""What time brings in matching: proposals expire, terms end, rolling programs go round."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from services.matching import handlers
from services.matching.domain.pair import Pair
from services.matching.domain.pool import Free
from services.matching.domain.program import Program
from services.matching.repository import LIVING_STATUSES, OPEN_STATUSES, every, free_in
from shared.errors import UnavailableError
from shared.scheduling import Job
from shared.store.port import AtMost, Store, Where

T = TypeVar("T")


def jobs(store: Store) -> tuple[Job, ...]:
    """Return the jobs; each does all that is due, every item in its own transaction."""

    async def expire_proposals(now: datetime) -> None:
        due: Where = {"status": "proposed", "expires_at": AtMost(now)}
        await for_each(
            every(store, Pair, due, order_by="expires_at"),
            lambda pair: store.transact(handlers.expire_proposal, pair.id, now),
        )

    async def end_closed_programs(now: datetime) -> None:
        await for_each(
            every(store, Program, {"closed": True}),
            lambda program: for_each(
                every(store, Pair, {"program_id": program.id, "status": OPEN_STATUSES}),
                lambda pair: store.transact(handlers.finish_pair, pair.id, now),
            ),
        )

    async def end_terms(now: datetime) -> None:
        due: Where = {"status": LIVING_STATUSES, "ends_at": AtMost(now)}
        await for_each(
            every(store, Pair, due, order_by="ends_at"),
            lambda pair: store.transact(handlers.end_term, pair.id, now),
        )

    async def request_rolling_round(program: Program, now: datetime) -> None:
        if program.rolls(now):
            # Outside of the transaction, for it takes as long as there are people.
            middle = program.policy(now).term_middle
            standings = {
                member.id: member.standing(middle) async for member in free_in(store, program.id)
            }
            free = await asyncio.to_thread(Free.of, program, standings)
            await store.transact(handlers.request_rolling_round, program.id, free, now)

    async def request_rolling_rounds(now: datetime) -> None:
        await for_each(
            every(store, Program, {"closed": False}),
            lambda program: request_rolling_round(program, now),
        )

    return expire_proposals, end_closed_programs, end_terms, request_rolling_rounds


async def for_each(items: AsyncIterator[T], do: Callable[[T], Awaitable[None]]) -> None:
    """Do it to every item: one that fails does not keep up the others.

    Raises UnavailableError at once, and an ExceptionGroup of all that failed at the end.
    """
    failures = []
    async for item in items:
        try:
            await do(item)
        except UnavailableError:
            raise
        except Exception as error:
            failures.append(error)
    if failures:
        raise ExceptionGroup("some items failed", failures)
