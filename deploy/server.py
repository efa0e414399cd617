"""Serving a platform over HTTP until a signal ends it."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Protocol, Self

import uvicorn
from starlette.types import ASGIApp

_GRACE_SECONDS = 8
# Longer than the pools of clients keep idle connections: else one is closed under a request.
_KEEP_ALIVE_SECONDS = 75


class Servable(Protocol):
    """A platform: started by entering it, stopped by leaving it, reached by its application."""

    @property
    def app(self) -> ASGIApp:
        """The HTTP application."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which would end the process before the services."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def serve(
    platform: Servable,
    *,
    host: str,
    port: int,
    until_stdin_closes: bool,
    started: Callable[[], None],
) -> None:
    """Run the platform and serve it until SIGTERM, SIGINT or, if asked, the end of standard input.

    `started` is called once requests are taken. At the end the HTTP server first stops taking
    requests and finishes those it has, then each service finishes its events. Raises what starting
    the platform raises; OSError where the port is taken.
    """
    listening = socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
    )
    server = _Server(
        uvicorn.Config(
            platform.app,
            log_level="warning",
            log_config=None,  # its lines are ours to write
            access_log=False,
            lifespan="off",
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )

    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    with listening:
        async with platform:
            if until_stdin_closes:
                loop.add_reader(sys.stdin.fileno(), _stop_at_end_of_stdin, loop, stop)
            started()
            await server.serve(sockets=[listening])


def _stop_at_end_of_stdin(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        loop.remove_reader(sys.stdin.fileno())
        stop()
