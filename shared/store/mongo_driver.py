"""The MongoDB driver, behind the few calls that the store needs; nothing else imports motor."""

import asyncio
import contextlib
import itertools
import re
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, TypeVar

import pymongo
from bson.errors import InvalidDocument
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorClientSession
from pymongo import ReturnDocument
from pymongo.errors import (
    BulkWriteError,
    CollectionInvalid,
    ConnectionFailure,
    DocumentTooLarge,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.operations import DeleteMany, DeleteOne, InsertOne, ReplaceOne, UpdateMany, UpdateOne
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from shared import metrics
from shared.clock import monotonic
from shared.errors import (
    StaleWriteError,
    StoreUnavailableError,
    TooLargeError,
    UniqueViolationError,
)
from shared.failpoints import failpoint
from shared.store.transaction import ATTEMPTS, AskAgainError, pause_before_rerun

T = TypeVar("T")

Row = dict[str, Any]
"""A stored document, as the driver gives and takes it."""
Filter = Mapping[str, Any]
Pipeline = Sequence[Mapping[str, Any]]
Order = Sequence[tuple[str, int]]
Write = InsertOne[Row] | ReplaceOne[Row] | UpdateOne | UpdateMany | DeleteOne | DeleteMany

# One operation, and the whole of a commit: past it, whoever waits is better told.
_OPERATION_SECONDS = 10.0
_SELECTION_MS = 5_000
# How long one look for changes waits at the server: a thread of the driver waits with it.
_AWAIT_MS = 1_000
_PING_SECONDS = 5.0
_CLOSE_SECONDS = 1.0
# All runs of one handler together: less than what HTTP clients and pods wait.
_RERUN_SECONDS = 20.0
# What one process keeps open; more of its operations wait for their turn.
_CONNECTIONS = 32

_DUPLICATE_KEY = 11000
_TOO_LARGE = {10334, 17419, 17420}
# Wrong requests (BadValue, FailedToParse, TypeMismatch): a defect, which no waiting heals.
_DEFECTS = {2, 9, 14}
_DRIVER_OPTIONS = re.compile(r" \(configured timeouts:[^)]*\)")
_TRANSIENT = "TransientTransactionError"
_UNKNOWN_COMMIT = "UnknownTransactionCommitResult"


class InterruptedTransactionError(StoreUnavailableError):
    """The server went away under a transaction before its commit: it may be run again."""


@dataclass(frozen=True)
class Written:
    """How many stored documents the writes found."""

    matched: int
    modified: int
    deleted: int


def _unavailable(error: PyMongoError) -> StoreUnavailableError:
    if isinstance(error, OperationFailure):
        # Its text may quote a value.
        return StoreUnavailableError(f"The store refused: code {error.code}.")
    # The first of several lines' worth; the rest is the driver's view of its options and servers.
    reason = _DRIVER_OPTIONS.sub("", str(error)).partition(", Timeout:")[0][:300]
    return StoreUnavailableError(f"The store did not answer: {reason}")


def _code_of(error: Exception) -> tuple[int | None, Mapping[str, Any]]:
    """Return the server's error code, and what it tells about a duplicate key."""
    if isinstance(error, BulkWriteError):
        first: Row = next(iter(error.details.get("writeErrors", ())), {})
        return first.get("code"), first.get("keyPattern", {})
    if isinstance(error, OperationFailure):
        return error.code, (error.details or {}).get("keyPattern", {})
    return None, {}


def translated(error: Exception) -> Exception:
    """Return the error that the port promises in place of the driver's, which may quote data."""
    code, key_pattern = _code_of(error)
    if isinstance(error, DocumentTooLarge) or code in _TOO_LARGE:
        return TooLargeError("The document is larger than the store takes.")
    if code == _DUPLICATE_KEY:
        if "_id" in key_pattern:
            return StaleWriteError("Somebody else wrote the same meanwhile.")
        return UniqueViolationError("another document already has the same value")
    if not isinstance(error, PyMongoError) or code in _DEFECTS:
        return ValueError(f"The store can't take this: {type(error).__name__}, code {code}")
    if error.has_error_label(_TRANSIENT) and not isinstance(error, ServerSelectionTimeoutError):
        if isinstance(error, ConnectionFailure):
            return InterruptedTransactionError(_unavailable(error).detail)
        return StaleWriteError("Somebody else wrote the same meanwhile.")
    return _unavailable(error)


@contextlib.contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except (PyMongoError, InvalidDocument) as error:
        # A refusal's own text quotes documents, which no log may hold.
        raise translated(error) from error if isinstance(error, ConnectionFailure) else None


class Database:
    """One database on a replica set; reads see what a majority has, and writes wait for one.

    Every call raises StoreUnavailableError when the servers don't answer in time.
    """

    def __init__(self, uri: str, name: str, *, service: str) -> None:
        """Raises StoreUnavailableError for a URI that can't be read."""
        self._service = service
        self._tasks: set[asyncio.Task[Any]] = set()
        with _translating():
            self._client: AsyncIOMotorClient[Row] = AsyncIOMotorClient(
                uri,
                appname=f"upward-{service}",
                w="majority",
                readConcernLevel="majority",
                readPreference="primary",
                retryReads=True,
                retryWrites=True,
                serverSelectionTimeoutMS=_SELECTION_MS,
                maxPoolSize=_CONNECTIONS,
            )
            self._database = self._client[name]

    async def close(self) -> None:
        """Finish the commits under way and disconnect."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        # It tells the servers about its sessions: a courtesy, which a dead server must not prolong.
        with pymongo.timeout(_CLOSE_SECONDS):
            await asyncio.to_thread(self._client.close)

    def track(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run this to its end, whoever is cancelled meanwhile; `close` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def ping(self) -> None:
        """Ask the primary for a sign of life."""
        with _translating(), pymongo.timeout(_PING_SECONDS):
            await self._client.admin.command("ping")

    async def find(
        self,
        collection: str,
        where: Filter,
        *,
        sort: Order = (),
        limit: int = 0,
        fields: Sequence[str] | None = None,
        session: "Session | None" = None,
    ) -> list[Row]:
        """Return the documents that match, all of them without a limit."""

        async def run(handle: AsyncIOMotorClientSession | None) -> list[Row]:
            cursor = self._database[collection].find(
                where,
                fields,
                sort=list(sort) or None,
                limit=limit,
                # As one batch: the default first one holds 101.
                batch_size=limit,
                session=handle,
            )
            return await cursor.to_list(None)

        return await self._run(run, session)

    async def aggregate(
        self, collection: str, pipeline: Pipeline, *, session: "Session | None" = None
    ) -> list[Row]:
        """Return what the pipeline makes of the collection."""

        async def run(handle: AsyncIOMotorClientSession | None) -> list[Row]:
            cursor = self._database[collection].aggregate(pipeline, session=handle)
            return await cursor.to_list(None)

        return await self._run(run, session)

    async def insertions(self, collection: str) -> AsyncIterator[None]:
        """Yield whenever somebody has inserted something; nothing of before is told."""
        with _translating():
            async with self._database[collection].watch(
                [{"$match": {"operationType": "insert"}}, {"$project": {"_id": 1}}],
                max_await_time_ms=_AWAIT_MS,
            ) as stream:
                async for _ in stream:
                    yield

    async def count(
        self, collection: str, where: Filter, *, session: "Session | None" = None
    ) -> int:
        """Return how many documents match."""

        async def run(handle: AsyncIOMotorClientSession | None) -> int:
            return await self._database[collection].count_documents(where, session=handle)

        return await self._run(run, session)

    async def find_and_update(
        self,
        collection: str,
        where: Filter,
        pipeline: Pipeline,
        *,
        upsert: bool = False,
        session: "Session | None" = None,
    ) -> Row | None:
        """Change one document and return it as it is then; None if none matched."""

        async def run(handle: AsyncIOMotorClientSession | None) -> Row | None:
            return await self._database[collection].find_one_and_update(
                where,
                list(pipeline),
                upsert=upsert,
                return_document=ReturnDocument.AFTER,
                session=handle,
            )

        return await self._run(run, session)

    async def write(
        self, collection: str, writes: Sequence[Write], *, session: "Session | None" = None
    ) -> Written:
        """Write in order; those of one sort next to each other go as one request.

        Raises StaleWriteError for an id that exists, UniqueViolationError, and TooLargeError.
        """

        async def run(handle: AsyncIOMotorClientSession | None) -> Written:
            done = await self._database[collection].bulk_write(list(writes), session=handle)
            return Written(done.matched_count, done.modified_count, done.deleted_count)

        return await self._run(run, session)

    async def _run(
        self,
        operation: Callable[[AsyncIOMotorClientSession | None], Awaitable[T]],
        session: "Session | None",
    ) -> T:
        if session is not None:
            return await session.run(operation)
        with _translating(), pymongo.timeout(_OPERATION_SECONDS):
            return await operation(None)

    async def delete_all(self, collection: str, where: Filter) -> None:
        """Delete what matches, however long it takes: many transactions, not one."""
        with _translating():
            await self._database[collection].delete_many(where)

    async def indexes(self) -> dict[str, set[str]]:
        """Return the names of the indexes of every collection."""
        with _translating(), pymongo.timeout(_OPERATION_SECONDS):
            names = await self._database.list_collection_names()
            return {name: set(await self._database[name].index_information()) for name in names}

    async def create_collection(self, collection: str) -> None:
        """Create the collection, unless somebody was quicker."""
        with _translating(), contextlib.suppress(CollectionInvalid):
            await self._database.create_collection(collection)

    async def create_index(
        self, collection: str, name: str, keys: Order, *, unique: bool, partial: Filter | None
    ) -> None:
        """Create the index, however long it takes; nothing happens where it is already.

        Raises UniqueViolationError when stored documents share a value.
        """
        options: dict[str, Any] = {}
        if partial is not None:
            options["partialFilterExpression"] = partial
        with _translating():
            await self._database[collection].create_index(
                list(keys), None, name=name, unique=unique, **options
            )

    async def transact(self, attempt: Callable[["Session"], Awaitable[T]]) -> T:
        """Run the attempt in a session of its own until no other writer is in its way.

        Only the first one may raise AskAgainError. Raises what the attempt raises; StaleWriteError,
        or StoreUnavailableError where the servers kept changing, after the last one.
        """
        started = monotonic()
        for number in range(ATTEMPTS):
            session = Session(self)
            try:
                return await attempt(session)
            except AskAgainError:
                continue
            except (StaleWriteError, InterruptedTransactionError) as error:
                if isinstance(error, StaleWriteError):
                    metrics.STORE_CONFLICTS.labels(self._service).inc()
                if number == ATTEMPTS - 1 or monotonic() - started > _RERUN_SECONDS:
                    raise
            finally:
                session.leave()
            await asyncio.sleep(pause_before_rerun(number))
        raise AssertionError  # the loop returns or raises

    async def start_session(self) -> AsyncIOMotorClientSession:
        """Return a session in a transaction; the servers hear of it at its first operation."""
        session = await self._client.start_session()
        session.start_transaction(
            read_concern=ReadConcern("snapshot"),
            write_concern=WriteConcern("majority"),
            read_preference=pymongo.ReadPreference.PRIMARY,
        )
        return session


class Session:
    """One attempt of a transaction. Its snapshot is that of its first operation.

    The driver's operations run in threads, which no cancellation stops: a session is ended only
    when its last one is over, and a commit goes on whatever becomes of its caller.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._handle: AsyncIOMotorClientSession | None = None
        self._turn = asyncio.Lock()
        self._last: asyncio.Future[Any] | None = None
        self._committing = False

    async def run(self, operation: Callable[[AsyncIOMotorClientSession | None], Awaitable[T]]) -> T:
        """Run one operation, after those before it."""

        async def in_session() -> T:
            if self._handle is None:
                self._handle = await self._database.start_session()
            return await operation(self._handle)

        with _translating(), pymongo.timeout(_OPERATION_SECONDS):
            async with self._turn:
                if self._committing:
                    return await in_session()  # in a task that nobody cancels
                self._last = last = asyncio.ensure_future(in_session())
                return await asyncio.shield(last)

    async def commit(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write, then commit, and return what `write` returns.

        All or nothing, and that to its end even if the caller is cancelled meanwhile.
        Raises what `write` raises, StaleWriteError, and StoreUnavailableError: after one about the
        commit itself it is unknown whether it was done.
        """
        self._committing = True
        return await asyncio.shield(self._database.track(self._commit(write)))

    def leave(self) -> None:
        """End the session in the background, giving up what is not committed."""
        if not self._committing and self._last is not None:
            self._database.track(self._end())

    async def _commit(self, write: Callable[[], Awaitable[T]]) -> T:
        try:
            with pymongo.timeout(_OPERATION_SECONDS):
                written = await write()
                failpoint("store.before_commit")
                await self._send_commit()
                failpoint("store.after_commit")
        except BaseException:
            # Before the next attempt, which would run into what this one has written.
            await self._end()
            raise
        self._database.track(self._end())
        return written

    async def _send_commit(self) -> None:
        handle = self._handle
        if handle is None:
            return  # there was nothing to write
        started = monotonic()
        for attempt in itertools.count():
            try:
                await handle.commit_transaction()
            except PyMongoError as error:
                if not error.has_error_label(_UNKNOWN_COMMIT):
                    raise translated(error) from None
                if monotonic() - started > _OPERATION_SECONDS:
                    detail = f"Whether the store has committed is unknown. {_unavailable(error)}"
                    raise StoreUnavailableError(detail) from error
            else:
                return
            await asyncio.sleep(pause_before_rerun(attempt))

    async def _end(self) -> None:
        if self._last is not None:
            await asyncio.wait({self._last})
        if self._handle is not None:
            # A transaction that could not be aborted ends by the servers' own limit.
            with contextlib.suppress(PyMongoError), pymongo.timeout(_PING_SECONDS):
                await self._handle.end_session()
