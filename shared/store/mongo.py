"""The cluster's store: one MongoDB database a service, on a replica set."""

import contextlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from pymongo.operations import UpdateOne

from shared.clock import Clock
from shared.errors import StaleWriteError, StoreUnavailableError
from shared.store.mongo_commit import apply_commit
from shared.store.mongo_driver import Database, Session
from shared.store.mongo_lease import MongoLease
from shared.store.mongo_migration import apply_step, differences
from shared.store.mongo_outbox import MongoOutbox
from shared.store.mongo_queries import INBOX, LEASES, MongoReads, inbox_of
from shared.store.port import NO_CONDITIONS, Document, Scalar, Transaction, Where
from shared.store.transaction import BufferedTransaction, Commit, Origin

D = TypeVar("D", bound=Document)
T = TypeVar("T")
P = ParamSpec("P")

_KEY = "secret key"


class MongoStore:
    """The cluster's adapter of the store port.

    A transaction's snapshot is that of its first read; its writes go to the server at the commit,
    a request for each collection. All options of the connection travel in the URI.
    """

    # MongoDB advises against transactions of more than a thousand changes, and replicas that change
    # the same documents wait for each other.
    events_at_once = 500

    def __init__(
        self,
        uri: str,
        *,
        database: str,
        service: str,
        region: str,
        clock: Clock,
        key_mark: str | None = None,
    ) -> None:
        """With the mark of a secret key, `open` sees that the database was begun with that key."""
        self.service = service
        self._key_mark = key_mark
        self._uri = uri
        self._name = database
        self._origin = Origin(f"/upward/{region}/{service}", region, clock)
        self._owner = f"{service}-{uuid.uuid4().hex}"
        self._opened: _Opened | None = None

    @property
    def _open(self) -> "_Opened":
        if self._opened is None:
            raise StoreUnavailableError("The store is closed.")
        return self._opened

    @property
    def outbox(self) -> MongoOutbox:
        """The committed events."""
        return self._open.outbox

    def lease(self, name: str) -> MongoLease:
        """Return the service's lease of this name; all of one store are one holder."""
        return MongoLease(name, self._owner, lambda: self._open.database)

    async def migrate(self, kinds: Sequence[type[Document]], *, dry_run: bool = False) -> list[str]:
        """Make the collections and indexes that are missing; return in words what was done.

        An index that nobody declares any more is named and kept: an older version may still run.
        With `dry_run`, nothing is done. The store need not be open. Raises StoreUnavailableError,
        and UniqueViolationError where stored documents share the value of a new unique index.
        """
        database = self._connect()
        try:
            steps = await differences(database, kinds)
            for step in steps:
                if not dry_run:
                    await apply_step(database, step)
        finally:
            await database.close()
        return [step.words for step in steps]

    def _connect(self) -> Database:
        return Database(self._uri, self._name, service=self.service)

    async def open(self, kinds: Sequence[type[Document]]) -> None:
        """Connect, and see that the database was migrated. Raises StoreUnavailableError."""
        database = self._connect()
        try:
            await database.ping()  # the quickest to say that nobody is there
            steps = await differences(database, kinds)
        except BaseException:
            await database.close()
            raise
        if missing := [step for step in steps if not step.obsolete]:
            await database.close()
            detail = f"Run `upward migrate` first: it would {missing[0].words}, among others."
            raise StoreUnavailableError(detail)
        try:
            await self._check_key(database)
        except BaseException:
            await database.close()
            raise
        self._opened = _Opened(database, MongoReads(database), MongoOutbox(database))

    async def _check_key(self, database: Database) -> None:
        """Raise StoreUnavailableError where another key made what is stored: its pseudonyms differ.

        The first process of a database leaves the mark.
        """
        if self._key_mark is None:
            return
        mark = UpdateOne({"_id": _KEY}, {"$setOnInsert": {"mark": self._key_mark}}, upsert=True)
        # Of two processes that are the first, one is told that the other was.
        with contextlib.suppress(StaleWriteError):
            await database.write(LEASES, [mark])
        await _compare(database, self._key_mark)

    async def compare_key(self, mark: str) -> None:
        """As `open` looks at the key, but leaving no mark where there is none yet.

        Raises StoreUnavailableError where the database was begun with another key.
        """
        await _compare(self._open.database, mark)

    async def close(self) -> None:
        """Finish commits under way and disconnect; safe to call twice."""
        if self._opened is None:
            return
        opened, self._opened = self._opened, None
        await opened.outbox.close()
        await opened.database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def ping(self) -> bool:
        """Return whether the primary answers; never raises."""
        try:
            await self._open.database.ping()
        except StoreUnavailableError:
            return False
        return True

    async def get(self, kind: type[D], document_id: str) -> D | None:
        """Return the document, or None."""
        return await self._open.reads.get(kind, document_id)

    async def require(self, kind: type[D], document_id: str) -> D:
        """Return the document; raise NotFoundError without one."""
        return await self._open.reads.require(kind, document_id)

    async def find(
        self,
        kind: type[D],
        where: Where = NO_CONDITIONS,
        *,
        order_by: str = "id",
        descending: bool = False,
        after: tuple[Scalar, str] | None = None,
        limit: int = 1000,
    ) -> list[D]:
        """Return the documents that meet all conditions, in order."""
        return await self._open.reads.find(
            kind, where, order_by=order_by, descending=descending, after=after, limit=limit
        )

    async def count(self, kind: type[D], where: Where = NO_CONDITIONS) -> int:
        """Return how many documents meet all conditions."""
        return await self._open.reads.count(kind, where)

    async def transact(
        self,
        handler: Callable[Concatenate[Transaction, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run the handler and commit; on a stale write run it again, with jittered back-off.

        Whether it committed is unknown after a StoreUnavailableError about the commit: what makes
        a repetition harmless is the caller's own key or the inbox.

        The first attempt takes events for new without a look at the inbox, for nearly all are. If
        it fails, be it at the commit, which writes their ids, the next one looks.
        """
        opened = self._open
        first = True

        async def attempt(session: Session) -> T:
            nonlocal first
            reads = MongoReads(opened.database, session)
            transaction = BufferedTransaction(self._origin, reads, assume_new=first)
            first = False
            with transaction.asking_again():
                result = await handler(transaction, *args, **kwargs)
                if commit := transaction.commit:
                    await self._commit(opened, session, commit)
            if commit.outgoing:
                opened.outbox.notify()
            return result

        return await opened.database.transact(attempt)

    async def _commit(self, opened: "_Opened", session: Session, commit: Commit) -> None:
        await commit.encode()
        if self._opened is not opened:
            raise StoreUnavailableError("The store is closed.")
        await session.commit(lambda: apply_commit(opened.database, session, commit))

    async def clear(
        self, kinds: Sequence[type[Document]], *, inbox_group: str | None = None
    ) -> None:
        """Delete all documents of these kinds, and a group's inbox.

        Not as one transaction, which the server would not take of so much: after an error, again.
        """
        database = self._open.database
        for kind in kinds:
            await database.delete_all(kind.collection, {})
        if inbox_group is not None:
            await database.delete_all(INBOX, inbox_of(inbox_group))


@dataclass
class _Opened:
    database: Database
    reads: MongoReads
    outbox: MongoOutbox


async def _compare(database: Database, mark: str) -> None:
    for stored in await database.find(LEASES, {"_id": _KEY}):
        if stored["mark"] != mark:
            detail = "This database was begun with another secret key: people would be there twice."
            raise StoreUnavailableError(detail)
