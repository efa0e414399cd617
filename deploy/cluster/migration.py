"""Creating what a service needs in MongoDB, at deploy and not in requests."""

from faststream.kafka import KafkaBroker

from deploy.builders import BUILDERS
from deploy.cluster.settings import MongoSettings, load
from shared.clock import Clock, SystemClock
from shared.http.auth import TokenVerifier
from shared.http.jwks import FixedKeys
from shared.store.mongo import MongoStore


class _Unstarted:
    """A platform to build services on that never start: who migrates needs MongoDB alone."""

    session_timeout_seconds = 0.0

    def __init__(self) -> None:
        self.clock: Clock = SystemClock()
        self.verifier = TokenVerifier("none", FixedKeys({}))
        self._mongo = load(MongoSettings)

    def store(self, service: str) -> MongoStore:
        return MongoStore(
            self._mongo.uri.get_secret_value(),
            database=f"{self._mongo.database_prefix}{service}",
            service=service,
            region="none",
            clock=self.clock,
        )

    def broker(self, _service: str) -> KafkaBroker:
        return KafkaBroker(logger=None)

    def secret(self, _service: str, _name: str) -> bytes:
        return b""


async def migrate(service: str) -> list[str]:
    """Create missing collections and indexes; return what was done, in words.

    Raises InvalidInputError for a bad setting and StoreUnavailableError.
    """
    platform = _Unstarted()
    store = platform.store(service)
    try:
        steps = await store.migrate(BUILDERS[service](platform).documents)
    finally:
        await store.close()
    return [f"{service}: {step}" for step in steps]
