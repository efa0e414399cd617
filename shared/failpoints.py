"""Named places where a fault test kills the process, as a power cut would, or cancels its task."""

import asyncio
import functools
import itertools
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

FAILPOINTS: tuple[str, ...] = (
    "store.before_commit",
    "store.after_commit",
    "relay.before_publish",
    "relay.after_publish",
    "relay.after_mark",
    "log.before_append",
    "log.after_append",
    "log.before_offsets",
    "log.after_offsets",
    "consumer.before_apply",
    "consumer.after_apply",
)
"""Every name that `failpoint` is called with; UPWARD_FAILPOINT must be one of them."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _cancel() -> None:
    # As a library does that lets a cancellation of its own out: nobody has ordered it.
    raise asyncio.CancelledError("a failpoint")


_ACTIONS: Mapping[str, Callable[[], None]] = {"kill": _kill, "cancel": _cancel}


class _Armed(NamedTuple):
    name: str
    last_hit: int
    act: Callable[[], None]
    hits: Iterator[int]


@functools.cache
def _armed() -> _Armed | None:
    setting = os.environ.get("UPWARD_FAILPOINT")
    if not setting:
        return None
    name, _, rest = setting.partition(":")
    count, _, action = rest.partition(":")
    if name not in FAILPOINTS:
        msg = f"UPWARD_FAILPOINT names {name!r}; the failpoints are {', '.join(FAILPOINTS)}"
        raise ValueError(msg)
    last_hit = int(count or 1)
    if last_hit < 1:
        msg = f"UPWARD_FAILPOINT asks for hit {last_hit}; the first is 1"
        raise ValueError(msg)
    act = _ACTIONS.get(action or "kill")
    if act is None:
        msg = f"UPWARD_FAILPOINT asks for {action!r}; there are {', '.join(_ACTIONS)}"
        raise ValueError(msg)
    return _Armed(name, last_hit, act, itertools.count(1))


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL if UPWARD_FAILPOINT is `name` or `name:N`, at hit N.

    With `name:N:cancel` it raises CancelledError there instead, which leaked. The environment is
    read at the first call of any failpoint; without UPWARD_FAILPOINT a call costs a cached look-up.
    Raises ValueError for a value that names no failpoint.
    """
    armed = _armed()
    if armed is not None and armed.name == name and next(armed.hits) == armed.last_hit:
        armed.act()
