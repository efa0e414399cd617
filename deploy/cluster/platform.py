"""The cluster platform: one service a process, on Kafka and MongoDB, any number of replicas."""

import hashlib
import hmac
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from starlette.types import ASGIApp

from deploy.builders import BUILDERS
from deploy.cluster.settings import (
    AuthSettings,
    KafkaSettings,
    MongoSettings,
    ServiceSettings,
    check_all,
    load,
)
from shared.clock import Clock, FileClock, SystemClock
from shared.errors import UnavailableError
from shared.http.auth import TokenVerifier
from shared.http.jwks import JwkSet
from shared.messaging.watched import WatchedKafkaBroker
from shared.runtime import Service
from shared.store.mongo import MongoStore

_STOP_SECONDS = 12.0


class ClusterPlatform:
    """Builds, starts and stops one service from environment variables; an async context manager."""

    def __init__(self, service: str) -> None:
        """Read all settings. Raises InvalidInputError, naming the variables at fault."""
        check_all()
        self._settings = load(ServiceSettings)
        self._kafka = load(KafkaSettings)
        self._mongo = load(MongoSettings)
        auth = load(AuthSettings)
        self._keys = JwkSet(auth.jwks)
        self.session_timeout_seconds = self._kafka.session_timeout_seconds
        self.verifier = TokenVerifier(auth.issuer, self._keys, auth.audience)
        file = self._settings.clock_file
        self.clock: Clock = SystemClock() if file is None else FileClock(file)
        self._steps = AsyncExitStack()
        self.service: Service = BUILDERS[service](self)
        self.app: ASGIApp = self.service.app

    def store(self, service: str) -> MongoStore:
        """Return the service's own store, not yet open."""
        return MongoStore(
            self._mongo.uri.get_secret_value(),
            database=f"{self._mongo.database_prefix}{service}",
            service=service,
            region=self._settings.region,
            clock=self.clock,
            key_mark=key_mark(self._settings.secret_bytes, service),
        )

    def broker(self, service: str) -> WatchedKafkaBroker:
        """Return a broker connection for the service, not yet started."""
        return WatchedKafkaBroker(
            list(self._kafka.servers),
            client_id=f"upward-{service}",
            acks="all",
            # An idempotent producer's `send` and `stop` never end while brokers are away, and what
            # it saves, a second copy after a lost answer, consumers' inboxes drop anyway. Order is
            # kept without it: one batch a partition is in flight, one event a key.
            enable_idempotence=False,
            allow_auto_create_topics=False,
            request_timeout_ms=round(self._kafka.request_timeout_seconds * 1000),
            graceful_timeout=_STOP_SECONDS,
            security=self._kafka.security(),
            logger=None,
        )

    def secret(self, service: str, name: str) -> bytes:
        """Return a stable secret of this service, the same for all its replicas."""
        return derived_secret(self._settings.secret_bytes, service, name)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as steps:
            try:
                await self._keys.start()
            except UnavailableError as error:
                raise UnavailableError(f"UPWARD_AUTH_JWKS: {error.detail}") from error
            steps.push_async_callback(self._keys.stop)
            steps.push_async_callback(self.service.stop)
            await self.service.start()
            self._steps = steps.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._steps.aclose()


def derived_secret(key: bytes, service: str, name: str) -> bytes:
    """Return a secret of 32 bytes: HMAC-SHA-256 (RFC 2104) of its name under the platform's key."""
    return hmac.new(key, f"{service}:{name}".encode(), hashlib.sha256).digest()


def key_mark(key: bytes, service: str) -> str:
    """Return what a service's database keeps of the platform's key, to know it again."""
    return derived_secret(key, service, "mark").hex()
