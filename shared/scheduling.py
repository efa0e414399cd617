"""Work that time brings: each service's jobs, run again and again by the service's clock."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from shared import cancellation, metrics
from shared.clock import Clock, format_instant, monotonic
from shared.errors import UnavailableError
from shared.logging import get_logger
from shared.store.port import Lease

Job = Callable[[datetime], Awaitable[None]]
"""Does everything that is due at the given moment; run again, it finds nothing left to do."""

_INTERVAL_SECONDS = 0.5
# How often a look at the clock tells whether the interval has passed by it: simulated time jumps.
_LOOK_SECONDS = 0.02
_STOP_SECONDS = 6.0
# By the service's clock: how far the jobs' progress may go on before all replicas are told.
_TELL_SECONDS = 5.0
# How often a replica that may not run jobs asks whether it may now.
_ASK_SECONDS = 3.0
_KEEP_SECONDS = 3.0
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Scheduler:
    """Runs a service's jobs one after the other, twice a second by the machine or the service.

    Of all replicas the holder of the lease runs `jobs`; every one runs its own `chores`. Two
    holders at once, as after a pause longer than the lease, do no harm: a job is a transaction
    that finds nothing left to do.
    """

    def __init__(
        self,
        service: str,
        clock: Clock,
        lease: Lease,
        jobs: Sequence[Job],
        chores: Sequence[Job] = (),
    ) -> None:
        self._service = service
        self._clock = clock
        self._lease = lease
        self._jobs = tuple(jobs)
        self._chores = tuple(chores)
        self._told = _LONG_AGO
        self._refused_at = -_ASK_SECONDS
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._log = get_logger(service)

    def start(self) -> None:
        """Start in the background."""
        self._stopping.clear()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Finish the job under way if it ends in time, then stop; a job is safe to cut off."""
        self._stopping.set()
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._task, _STOP_SECONDS)
            self._task = None
            await self._lease.release()

    def alive(self) -> bool:
        """Return whether the scheduler is at work."""
        return self._task is not None and not self._task.done()

    async def done_until(self) -> datetime:
        """Return up to when all that was due is done, by whichever replica did it.

        Raises StoreUnavailableError.
        """
        note = await self._lease.note()
        return datetime.fromisoformat(note) if note else _LONG_AGO

    async def tick(self) -> None:
        """Run every chore once, and every job if this replica holds the lease."""
        now = self._clock.now()
        await self._run_all(self._chores, now)
        if monotonic() - self._refused_at < _ASK_SECONDS:
            return
        try:
            if not await self._lease.hold():
                self._refused_at = monotonic()
                return
            keeping = asyncio.create_task(self._keep_lease())
            try:
                done = await self._run_all(self._jobs, now)
            finally:
                keeping.cancel()
            if not done:
                return
            # Whoever set a simulated clock waits to be told of this very moment.
            stands = self._clock.now() == now > self._told
            if stands or (now - self._told).total_seconds() >= _TELL_SECONDS:
                await self._lease.hold(format_instant(now))
                self._told = now
        except UnavailableError as error:
            self._log.warning("scheduler_waits", error=error.detail)

    async def _keep_lease(self) -> None:
        """Hold the lease while jobs run that take longer than it lasts: a company's round."""
        while True:
            await asyncio.sleep(_KEEP_SECONDS)
            # Without it the jobs go on: two holders do no harm.
            with contextlib.suppress(UnavailableError):
                await self._lease.hold()

    async def _run_all(self, jobs: Sequence[Job], now: datetime) -> bool:
        failed = False
        for job in jobs:
            try:
                await job(now)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and cancellation.ordered():
                    raise
                # The next tick tries again; what the job could not do is still due then.
                failed = True
                name = getattr(job, "__name__", type(job).__name__)
                metrics.JOB_FAILURES.labels(self._service, name).inc()
                self._log.error("job_failed", job=name, exc_info=error)
        return not failed

    async def _run(self) -> None:
        while not self._stopping.is_set():
            ticked, clock = monotonic(), self._clock.now()
            await self.tick()
            while (
                monotonic() - ticked < _INTERVAL_SECONDS
                and (self._clock.now() - clock).total_seconds() < _INTERVAL_SECONDS
            ):
                try:
                    await asyncio.wait_for(self._stopping.wait(), _LOOK_SECONDS)
                    return
                except TimeoutError:
                    continue
