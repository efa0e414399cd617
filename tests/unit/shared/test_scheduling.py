"""Jobs: each runs though another fails, and time counts as done only when all did."""

import asyncio
from datetime import datetime

import pytest

from shared.clock import ManualClock
from shared.scheduling import Scheduler
from tests.contract.stores import START


@pytest.mark.parametrize("error", [LookupError(), RecursionError(), asyncio.CancelledError()])
async def test_a_failing_job_stops_neither_the_others_nor_the_scheduler(
    error: BaseException,
) -> None:
    done: list[datetime] = []
    again = asyncio.Event()
    errors = [error]

    async def failing(_now: datetime) -> None:
        if errors:
            raise errors.pop()
        again.set()

    async def fine(now: datetime) -> None:
        done.append(now)

    scheduler = Scheduler("enrollment", ManualClock(START), [failing, fine])
    before = scheduler.done_until
    await scheduler.tick()
    assert (done, scheduler.done_until) == ([START], before)
    errors.append(error)
    scheduler.start()
    await asyncio.wait_for(again.wait(), 5)
    assert scheduler.alive()
    await scheduler.stop()
    assert scheduler.done_until == START
    assert not scheduler.alive()


async def test_stopping_finishes_the_job_under_way() -> None:
    begun, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(_now: datetime) -> None:
        begun.set()
        await go.wait()
        ended.set()

    scheduler = Scheduler("enrollment", ManualClock(START), [slow])
    scheduler.start()
    await begun.wait()
    stopping = asyncio.create_task(scheduler.stop())
    go.set()
    await stopping
    assert ended.is_set()


async def test_an_ordered_cancellation_ends_the_scheduler() -> None:
    begun = asyncio.Event()

    async def endless(_now: datetime) -> None:
        begun.set()
        await asyncio.Event().wait()

    ticking = asyncio.create_task(Scheduler("enrollment", ManualClock(START), [endless]).tick())
    await begun.wait()
    ticking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ticking
