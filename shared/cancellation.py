"""Telling an ordered cancellation from one that leaked out of what a task awaited."""

import asyncio


def ordered() -> bool:
    """Return whether somebody asked the running task to stop.

    A CancelledError without an order leaked. Let through, it would end the task for good while
    everything around it believes that the task is at work.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
