"""What a service refuses before it costs anything: large bodies, and more work than it can do."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import OverloadedError, TooLargeError
from shared.http.problems import from_error

DEFAULT_BODY_BYTES = 256 * 1024

MAX_IN_FLIGHT = 256
"""Requests that one process works on at once; those beyond wait at the caller, not in memory."""
MAX_OUTBOX = 100_000
"""Committed events that may wait for the bus before commands, which would add more, are refused."""
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class Admission:
    """How busy a service is: what decides whether one more request is taken."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.outbox_pending = 0

    @property
    def outbox_full(self) -> bool:
        """Whether so many events wait for the bus that none may be added."""
        return self.outbox_pending >= MAX_OUTBOX

    def refusal(self, method: str) -> OverloadedError | None:
        """Return why a request is not taken now, None if it is."""
        if self.in_flight >= MAX_IN_FLIGHT:
            return OverloadedError(f"{MAX_IN_FLIGHT} requests are being worked on.")
        if self.outbox_full and method not in _READS:
            return OverloadedError(f"{self.outbox_pending} events wait for the bus.")
        return None


class Admit:
    """ASGI middleware: 503 with Retry-After for what a busy service does not take.

    Paths outside of `prefix` (probes, metrics) and under `always` (what operators need most when
    it is busy) are always taken.
    """

    def __init__(self, app: ASGIApp, admission: Admission, prefix: str, always: str) -> None:
        self._app = app
        self._admission = admission
        self._prefix = prefix
        self._always = always

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or not scope["path"].startswith(self._prefix)
            or scope["path"].startswith(self._always)
        ):
            await self._app(scope, receive, send)
            return
        if (refusal := self._admission.refusal(scope["method"])) is not None:
            await from_error(refusal)(scope, receive, send)
            return
        self._admission.in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._admission.in_flight -= 1


class BodyLimit:
    """ASGI middleware: 413 for a body over the path's limit, declared or streamed."""

    def __init__(self, app: ASGIApp, limits: Mapping[str, int]) -> None:
        self._app = app
        self._limits = dict(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limits.get(scope["path"], DEFAULT_BODY_BYTES)
        error = TooLargeError(f"The body may have {limit} bytes at most.")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            await from_error(error)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                # The one kind that FastAPI lets through while it reads a body.
                raise HTTPException(error.status, error.detail)
            return message

        await self._app(scope, counted, send)
