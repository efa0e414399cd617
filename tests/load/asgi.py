"""Requests straight into an ASGI application: no client and no socket blur what it takes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.types import ASGIApp, Message, Scope

from shared.clock import monotonic

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """A request that can be sent many times."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def of(
        cls,
        method: str,
        path: str,
        token: str,
        body: bytes = b"",
        media_type: str = "application/json",
        query: str = "",
    ) -> "Request":
        """Return a request with a bearer token."""
        headers = [
            (b"authorization", b"Bearer " + token.encode()),
            (b"content-type", media_type.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        return cls(method, path, query, body, tuple(headers))


@dataclass
class _Exchange:
    request: Request
    status: int = 0
    answer: bytearray = field(default_factory=bytearray)

    async def receive(self) -> Message:
        return {"type": "http.request", "body": self.request.body, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.answer += message.get("body", b"")


async def ask(app: ASGIApp, request: Request, wanted: int = 200) -> bytes:
    """Send a request and return the answer's body. Raises RuntimeError for another status."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query.encode(),
        "root_path": "",
        "headers": list(request.headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    exchange = _Exchange(request)
    await app(scope, exchange.receive, exchange.send)
    if exchange.status != wanted:
        msg = f"{request.method} {request.path}: {exchange.status} {exchange.answer[:500].decode()}"
        raise RuntimeError(msg)
    return bytes(exchange.answer)


async def at_once(calls: Sequence[Callable[[], Awaitable[T]]], workers: int) -> float:
    """Make all calls, `workers` of them at any time; return how many a second."""
    waiting = iter(calls)

    async def work() -> None:
        for call in waiting:
            await call()

    begun = monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work())
    return len(calls) / (monotonic() - begun)


async def at_a_rate(calls: Sequence[Callable[[], Awaitable[T]]], per_second: float) -> None:
    """Start each call at its own time, whether those before it are done or not.

    What stalls must not slow down the load that shows it.
    """
    begun = monotonic()

    async def call(number: int) -> None:
        await calls[number]()

    async with asyncio.TaskGroup() as group:
        for number in range(len(calls)):
            await asyncio.sleep(max(0.0, begun + number / per_second - monotonic()))
            group.create_task(call(number))
