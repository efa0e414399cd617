"""Creating what a service needs in MongoDB, at deploy and not in requests."""

from faststream.kafka import KafkaBroker

from deploy.builders import BUILDERS
from deploy.cluster.settings import MongoSettings, load
from shared.clock import Clock, SystemClock
from shared.http.auth import TokenVerifier
from shared.http.jwks import FixedKeys
from shared.store.mongo import MongoStore
from shared.store.port import Document


class Unstarted:
    """A platform to build services on that never start: their databases need MongoDB alone."""

    session_timeout_seconds = 0.0

    def __init__(self, mongo: MongoSettings) -> None:
        self.clock: Clock = SystemClock()
        self.verifier = TokenVerifier("none", FixedKeys({}))
        self._mongo = mongo

    def documents(self, service: str) -> tuple[type[Document], ...]:
        """Return the kinds of documents that the service keeps."""
        return BUILDERS[service](self).documents

    def store(self, service: str) -> MongoStore:
        """Return the service's own store, not yet open."""
        return MongoStore(
            self._mongo.uri.get_secret_value(),
            database=f"{self._mongo.database_prefix}{service}",
            service=service,
            region="none",
            clock=self.clock,
        )

    def broker(self, _service: str) -> KafkaBroker:
        """Return a broker connection that is nobody's."""
        return KafkaBroker(logger=None)

    def secret(self, _service: str, _name: str) -> bytes:
        """Return no secret: nothing is made with it."""
        return b""


async def migrate(service: str) -> list[str]:
    """Create missing collections and indexes; return what was done, in words.

    Raises InvalidInputError for a bad setting and StoreUnavailableError.
    """
    platform = Unstarted(load(MongoSettings))
    store = platform.store(service)
    try:
        steps = await store.migrate(platform.documents(service))
    finally:
        await store.close()
    return [f"{service}: {step}" for step in steps]
