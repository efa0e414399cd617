"""The embedded platform: all five services in one process, on SQLite files in one folder."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from fastapi import FastAPI
from faststream.kafka import KafkaBroker
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.builders import BUILDERS
from deploy.local.folder import DataFolder
from shared.clock import Clock, FileClock, SystemClock
from shared.events.topics import TOPICS
from shared.health import Health
from shared.http.app import health_router
from shared.http.auth import LocalIssuer, TokenVerifier
from shared.http.problems import install as install_problems
from shared.messaging.broker import EmbeddedKafkaBroker
from shared.messaging.consumer import SESSION_TIMEOUT_SECONDS
from shared.messaging.local_log import LocalLog
from shared.runtime import Service
from shared.store.port import Store
from shared.store.sqlite import SqliteStore

_REGION = "local"


class EmbeddedPlatform:
    """Builds, starts and stops services on a data folder; an async context manager.

    Simulated time is used where the folder has a clock file, the system's otherwise.
    """

    def __init__(self, folder: DataFolder, *, services: Sequence[str] | None = None) -> None:
        self.folder = folder
        self.clock: Clock = FileClock(folder.clock) if folder.clock.exists() else SystemClock()
        self.issuer = LocalIssuer(folder.issuer_key)
        self.verifier: TokenVerifier = self.issuer.verifier()
        self.session_timeout_seconds = SESSION_TIMEOUT_SECONDS
        self.log = LocalLog(folder.log)
        self._steps = AsyncExitStack()
        self.services = [BUILDERS[name](self) for name in services or BUILDERS]
        self.app: ASGIApp = _PlatformApp(self.services, self)

    def store(self, service: str) -> Store:
        """Return the service's own store, not yet open."""
        return SqliteStore(
            self.folder.store(service), service=service, region=_REGION, clock=self.clock
        )

    def broker(self, service: str) -> KafkaBroker:
        """Return a broker on the local log for the service, not yet started."""
        return EmbeddedKafkaBroker(
            self.log,
            client_id=f"upward-{service}",
            acks="all",
            graceful_timeout=25,
            logger=None,
        )

    def secret(self, service: str, name: str) -> bytes:
        """Return a stable secret of this service."""
        return self.folder.secret(service, name)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as steps:
            lock = self.folder.lock()
            steps.callback(lock.close)
            await self.log.open()
            steps.push_async_callback(self.log.close)
            topics = {name: topic.partitions for name, topic in TOPICS.items()}
            await self.log.create_topics(topics)
            # The last one started is the first to stop: pushed against the events' direction, so
            # that what one still publishes the next still takes.
            for service in reversed(self.services):
                steps.push_async_callback(service.stop)
            for service in self.services:
                await service.start()
            # All started: from here on the steps back are __aexit__'s.
            self._steps = steps.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._steps.aclose()

    def live(self) -> list[str]:
        """Return what only a restart would mend."""
        return [trouble for service in self.services for trouble in service.live()]

    async def ready(self) -> list[str]:
        """Return why the platform should get no traffic now."""
        found = await asyncio.gather(*(service.ready() for service in self.services))
        return [trouble for troubles in found for trouble in troubles]


class _PlatformApp:
    """One ASGI application that hands each path to the service it names."""

    def __init__(self, services: Sequence[Service], health: Health) -> None:
        self._services = {service.name: service.app for service in services}
        self._rest = FastAPI(
            title="Upward", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
        )
        install_problems(self._rest, "upward")
        self._rest.include_router(health_router(health))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._rest
        if scope["type"] == "http":
            first = scope["path"].split("/", 2)[1] if scope["path"].startswith("/") else ""
            app = self._services.get(first, self._rest)
        await app(scope, receive, send)
