"""Work that time brings: each service's jobs, run again and again by the service's clock."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from shared import cancellation, metrics
from shared.clock import Clock, monotonic
from shared.logging import get_logger

Job = Callable[[datetime], Awaitable[None]]
"""Does everything that is due at the given moment; run again, it finds nothing left to do."""

_INTERVAL_SECONDS = 0.5
# How often a look at the clock tells whether the interval has passed by it: simulated time jumps.
_LOOK_SECONDS = 0.02
_STOP_SECONDS = 20.0
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Scheduler:
    """Runs a service's jobs one after the other, twice a second by the machine or the service."""

    def __init__(self, service: str, clock: Clock, jobs: Sequence[Job]) -> None:
        self.done_until = _LONG_AGO
        self._service = service
        self._clock = clock
        self._jobs = tuple(jobs)
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

    def alive(self) -> bool:
        """Return whether the scheduler is at work."""
        return self._task is not None and not self._task.done()

    async def tick(self) -> None:
        """Run every job once. `done_until` moves on only when all succeeded."""
        now, failed = self._clock.now(), False
        for job in self._jobs:
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
        if not failed:
            self.done_until = now

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
