"""The body limit: refuses a large body before anybody holds it in memory."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import TooLargeError
from shared.http.problems import from_error

DEFAULT_BODY_BYTES = 256 * 1024


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
