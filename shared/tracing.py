"""What links a command to the events it causes: correlation, causation, W3C trace context."""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

# Later versions may append fields. All zeros mean no trace, version ff is forbidden.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)


@dataclass(frozen=True)
class Trace:
    """The links that the work under way passes on to the events it emits."""

    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None


_NO_TRACE = Trace()
_current: ContextVar[Trace] = ContextVar("upward_trace", default=_NO_TRACE)


def current_trace() -> Trace:
    """Return the links of the work under way; empty outside of any."""
    return _current.get()


@contextmanager
def traced(trace: Trace) -> Iterator[None]:
    """Run the block with these links."""
    token = _current.set(trace)
    try:
        yield
    finally:
        _current.reset(token)


def next_traceparent(received: str | None) -> str:
    """Return the trace context of a new span: of the received trace if valid, else of a new one.

    Source: W3C Trace Context, level 1, of which we write version 00.
    """
    match = _TRACEPARENT.fullmatch(received or "")
    if match is None or (match.string.startswith("00") and match["more"]):
        trace_id, flags = secrets.token_hex(16), "01"
    else:
        trace_id, flags = match["trace"], match["flags"]
    return f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"
