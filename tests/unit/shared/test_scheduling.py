"""Jobs: each runs though another fails, and time counts as done only when all did."""

import asyncio
from datetime import datetime

import pytest

from shared import scheduling
from shared.clock import ManualClock
from shared.scheduling import Job, Scheduler
from tests.contract.stores import START


class SharedLease:
    """A lease that a test gives to one of several holders."""

    epoch = 1

    def __init__(self, notes: list[str], *, ours: bool = True) -> None:
        self.ours = ours
        self.holds = 0
        self.held_often = asyncio.Event()
        self._notes = notes

    def held(self) -> bool:
        return self.ours

    async def hold(self, note: str | None = None) -> bool:
        self.holds += 1
        if self.holds > 3:
            self.held_often.set()
        if self.ours and note is not None:
            self._notes.append(note)
        return self.ours

    async def note(self) -> str:
        return self._notes[-1] if self._notes else ""

    async def release(self) -> None:
        self.ours = False


def scheduler_of(*jobs: Job, lease: SharedLease | None = None) -> Scheduler:
    return Scheduler("enrollment", ManualClock(START), lease or SharedLease([]), jobs)


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

    lease = SharedLease([])
    scheduler = scheduler_of(failing, fine, lease=lease)
    before = await scheduler.done_until()
    await scheduler.tick()
    assert (done, await scheduler.done_until()) == ([START], before)
    errors.append(error)
    scheduler.start()
    await asyncio.wait_for(again.wait(), 5)
    assert scheduler.alive()
    await scheduler.stop()
    assert await scheduler.done_until() == START
    assert not scheduler.alive()


async def test_the_lease_is_held_while_a_job_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "_KEEP_SECONDS", 0.001)
    lease = SharedLease([])

    async def long(_now: datetime) -> None:
        await asyncio.wait_for(lease.held_often.wait(), 5)

    await scheduler_of(long, lease=lease).tick()
    held = lease.holds
    await asyncio.sleep(0.02)
    assert lease.holds == held


async def test_stopping_finishes_the_job_under_way() -> None:
    begun, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(_now: datetime) -> None:
        begun.set()
        await go.wait()
        ended.set()

    scheduler = scheduler_of(slow)
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

    ticking = asyncio.create_task(scheduler_of(endless).tick())
    await begun.wait()
    ticking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ticking


async def test_of_several_replicas_only_the_holder_runs_jobs_and_all_know_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[str] = []

    def replica(name: str, lease: SharedLease) -> Scheduler:
        async def job(_now: datetime) -> None:
            ran.append(f"{name} job")

        async def chore(_now: datetime) -> None:
            ran.append(f"{name} chore")

        return Scheduler("enrollment", ManualClock(START), lease, [job], [chore])

    notes: list[str] = []
    leases = SharedLease(notes), SharedLease(notes, ours=False)
    one, other = replica("one", leases[0]), replica("other", leases[1])
    await other.tick()
    await one.tick()
    assert ran == ["other chore", "one chore", "one job"]
    assert await other.done_until() == await one.done_until() == START
    leases[0].ours, leases[1].ours = False, True
    monkeypatch.setattr("shared.scheduling._ASK_SECONDS", 0)
    await one.tick()
    await other.tick()
    assert ran[3:] == ["one chore", "other chore", "other job"]


async def test_a_stopped_scheduler_gives_its_lease_up() -> None:
    lease = SharedLease([])
    scheduler = scheduler_of(lease=lease)
    scheduler.start()
    await scheduler.stop()
    assert not lease.held()
