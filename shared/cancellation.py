"""Ordering a cancellation, and telling an ordered one from one that leaked out of a task."""

import asyncio
from typing import Any


def ordered() -> bool:
    """Return whether somebody asked the running task to stop.

    A CancelledError without an order leaked. Let through, it would end the task for good while
    everything around it believes that the task is at work.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def end(task: "asyncio.Task[Any] | None") -> None:
    """Cancel a task and wait until it is over; what it raises is for nobody."""
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
