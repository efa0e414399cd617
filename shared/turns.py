"""Long loops that leave the event loop to others now and then."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from typing import TypeVar

from shared.clock import monotonic

T = TypeVar("T")

_AT_ONCE = 25  # events or documents: a look at the clock for each would take long itself
_TURN_SECONDS = 0.001


async def in_turns(items: Iterable[T], at_once: int = _AT_ONCE) -> AsyncIterator[tuple[T, ...]]:
    """Yield the items in parts of `at_once`; after a millisecond others have their turn.

    A batch or a page takes many milliseconds without anything to wait for, and would hold up the
    requests that the same process answers. It yields parts, for an `await` an item would take
    longer than much of what is done with one.
    """
    rest = iter(items)
    since = monotonic()
    while part := tuple(islice(rest, at_once)):
        yield part
        if monotonic() - since >= _TURN_SECONDS:
            await asyncio.sleep(0)
            since = monotonic()
