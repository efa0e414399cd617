"""The embedded store: one SQLite file a service, written by one thread with group commit."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from shared import metrics
from shared.clock import Clock, format_instant
from shared.errors import StaleWriteError, StoreUnavailableError
from shared.store.conditions import many_fields
from shared.store.port import (
    NO_CONDITIONS,
    Document,
    Index,
    Lease,
    OutboxDepth,
    OutboxRecord,
    Scalar,
    Transaction,
    Where,
)
from shared.store.sqlite_queries import Reads, column_of, items_table, table
from shared.store.sqlite_transaction import apply_commit, note_events
from shared.store.sqlite_writer import Writer, connect
from shared.store.transaction import (
    ATTEMPTS,
    AskAgainError,
    BufferedTransaction,
    Commit,
    Origin,
    pause_before_rerun,
)

D = TypeVar("D", bound=Document)
T = TypeVar("T")
P = ParamSpec("P")

_IDLE_SNAPSHOTS = 8

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB,
    headers TEXT NOT NULL,
    emitted_at TEXT NOT NULL,
    committed_at TEXT NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS outbox_pending ON outbox (position) WHERE sent = 0;
CREATE TABLE IF NOT EXISTS streams (
    subject TEXT PRIMARY KEY, version INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inbox (
    consumer_group TEXT NOT NULL, event_id TEXT NOT NULL, PRIMARY KEY (consumer_group, event_id)
) WITHOUT ROWID;
"""


class _NotEncodedError(Exception):
    """A document of the transaction could not be written as JSON, or its caller was cancelled."""


class SqliteOutbox:
    """The outbox table of one store."""

    def __init__(self, reader: sqlite3.Connection, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer
        self._committed = asyncio.Event()

    def notify(self) -> None:
        """Wake who waits for a commit."""
        self._committed.set()

    async def pending(self, limit: int, *, after: int = 0) -> list[OutboxRecord]:
        """Return unsent records in commit order, those beyond position `after`."""
        # Cleared before the read: a commit after it is seen by the next wait, never missed.
        self._committed.clear()
        try:
            rows = self._reader.execute(
                "SELECT position, event_id, topic, key, value, headers FROM outbox"
                " WHERE sent = 0 AND position > ? ORDER BY position LIMIT ?",
                (after, limit),
            ).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"The outbox did not answer: {error}") from error
        return [
            OutboxRecord(
                position=position,
                event_id=event_id,
                topic=topic,
                key=key,
                value=value,
                headers=tuple((name, text) for name, text in json.loads(headers)),
            )
            for position, event_id, topic, key, value, headers in rows
        ]

    async def mark_sent(
        self,
        positions: Sequence[int],
        *,
        lease: Lease | None = None,  # noqa: ARG002
    ) -> None:
        """Remember that the bus has acknowledged these; nobody else could have taken the lease."""
        rows = [(position,) for position in positions]
        await self._writer.submit(
            lambda c: c.executemany("UPDATE outbox SET sent = 1 WHERE position = ?", rows).rowcount
        )

    async def wait(self, timeout: float) -> None:
        """Return when something was committed, or after `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._committed.wait(), timeout)

    async def depth(self) -> OutboxDepth:
        """Return how much waits."""
        try:
            ((pending, oldest),) = self._reader.execute(
                # Positions are in commit order: the first is the oldest, without looking at all.
                "SELECT (SELECT count(*) FROM outbox WHERE sent = 0), (SELECT committed_at"
                " FROM outbox WHERE sent = 0 ORDER BY position LIMIT 1)"
            ).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"The outbox did not answer: {error}") from error
        return OutboxDepth(pending, datetime.fromisoformat(oldest) if oldest else None)

    async def replay(self, *, topic: str | None = None, since: datetime | None = None) -> int:
        """Mark sent records as unsent again; return how many."""
        clauses, parameters = ["sent = 1"], []
        if topic is not None:
            clauses.append("topic = ?")
            parameters.append(topic)
        if since is not None:
            clauses.append("emitted_at >= ?")
            parameters.append(format_instant(since))
        sql = f"UPDATE outbox SET sent = 0 WHERE {' AND '.join(clauses)}"  # noqa: S608
        count = await self._writer.submit(lambda c: c.execute(sql, parameters).rowcount)
        self.notify()
        return count


class SqliteLease:
    """A lease on a file that one process has to itself: there is nobody to lose it to."""

    def __init__(self) -> None:
        self.epoch = 0
        self._held = False
        self._note = ""

    def held(self) -> bool:
        """Return whether it was taken and not released."""
        return self._held

    async def hold(self, note: str | None = None) -> bool:
        """Take it, leaving a note."""
        self.epoch, self._held = 1, True
        if note is not None:
            self._note = note
        return True

    async def note(self) -> str:
        """Return what this process noted last."""
        return self._note

    async def release(self) -> None:
        """Give it up."""
        self._held = False


class SqliteStore:
    """The embedded adapter of the store port.

    Reads run on the loop's thread: from a local file in WAL mode they take microseconds and never
    wait for the writer. A transaction reads one snapshot and hands its writes to the writer thread,
    so no lock is held while a handler runs.
    """

    # What many events change is read and written once. Half as many take up to a tenth more of a
    # reporting backlog's time and 25 MB less; half as many again no less time. While so many come
    # from the bus others wait 60 ms for their turn, and 30 for half as many.
    events_at_once = 8000

    def __init__(self, path: Path, *, service: str, region: str, clock: Clock) -> None:
        self.path = path
        self.service = service
        self._origin = Origin(f"/upward/{region}/{service}", region, clock)
        self._snapshots: list[sqlite3.Connection] = []
        self._leases: dict[str, SqliteLease] = {}
        self._opened: _Opened | None = None

    @property
    def _open(self) -> "_Opened":
        if self._opened is None:
            raise StoreUnavailableError("The store is closed.")
        return self._opened

    @property
    def outbox(self) -> SqliteOutbox:
        """The committed events."""
        return self._open.outbox

    def lease(self, name: str) -> SqliteLease:
        """Return the lease of this name: one object a name, so that all see its note."""
        return self._leases.setdefault(name, SqliteLease())

    async def open(self, kinds: Sequence[type[Document]]) -> None:
        """Open the file and create what is missing in it. Raises StoreUnavailableError."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as opening:
                reader = opening.enter_context(contextlib.closing(connect(self.path)))
                writing = opening.enter_context(contextlib.closing(connect(self.path)))
                reader.executescript(_SCHEMA)
                for kind in kinds:
                    _create(reader, kind)
                opening.pop_all()
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailableError(f"Can't open {self.path}: {error}") from error
        writer = Writer(writing, self.path.stem)
        self._opened = _Opened(reader, Reads(reader), writer, SqliteOutbox(reader, writer))

    async def close(self) -> None:
        """Finish commits under way and close the file; safe to call twice."""
        if self._opened is None:
            return
        opened, self._opened = self._opened, None
        await opened.writer.close()
        for connection in (opened.reader, *self._snapshots):
            connection.close()
        self._snapshots.clear()

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
        """Return whether the writer gets its turn on the file; never raises."""
        if self._opened is None or not self._opened.writer.alive:
            return False
        try:
            await asyncio.wait_for(self._opened.writer.submit(lambda c: c.execute("SELECT 1")), 5)
        except (StoreUnavailableError, sqlite3.Error, TimeoutError):
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

        The first attempt takes events for new without a look at the inbox, for nearly all are. If
        it fails, be it at the commit, which writes their ids, the next one looks.
        """
        for attempt in range(ATTEMPTS):
            try:
                return await self._attempt(attempt == 0, handler, *args, **kwargs)
            except AskAgainError:
                continue
            except StaleWriteError:
                metrics.STORE_CONFLICTS.labels(self.service).inc()
                if attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(pause_before_rerun(attempt))
        raise AssertionError  # the loop returns or raises

    async def _attempt(
        self,
        assume_new: bool,
        handler: Callable[Concatenate[Transaction, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        opened = self._open
        with self._snapshot(opened) as snapshot:
            reads = Reads(snapshot)
            transaction = BufferedTransaction(self._origin, reads, assume_new=assume_new)
            with transaction.asking_again():
                result = await handler(transaction, *args, **kwargs)
        if transaction.commit:
            with transaction.asking_again():
                await self._commit(opened.writer, transaction.commit)
        if transaction.commit.outgoing:
            opened.outbox.notify()
        return result

    @staticmethod
    async def _commit(writer: Writer, commit: Commit) -> None:
        encoded: Future[None] = Future()

        def run(connection: sqlite3.Connection) -> None:
            note_events(connection, commit)
            encoded.result()
            apply_commit(connection, commit)

        # A batch's thousands of ids are written without a look at anything of Python's: meanwhile
        # the bodies are made. Other commits wait for both, some ten milliseconds for the largest.
        written = writer.hand_over(run)
        try:
            await commit.encode()
            encoded.set_result(None)
        except BaseException:
            # Not the error itself: of a cancelled task it would end what others write beside this.
            encoded.set_exception(_NotEncodedError())
            written.add_done_callback(asyncio.Future.exception)
            raise
        await asyncio.shield(written)

    @contextlib.contextmanager
    def _snapshot(self, opened: "_Opened") -> Iterator[sqlite3.Connection]:
        snapshot: sqlite3.Connection | None = None
        try:
            snapshot = self._snapshots.pop() if self._snapshots else connect(self.path)
            snapshot.execute("BEGIN")
            # Without a read SQLite would choose the snapshot only at the handler's first one.
            snapshot.execute("SELECT 1 FROM outbox LIMIT 1").fetchall()
        except sqlite3.Error as error:
            if snapshot is not None:
                snapshot.close()
            raise StoreUnavailableError(f"The store did not answer: {error}") from error
        try:
            yield snapshot
        finally:
            snapshot.rollback()
            if self._opened is opened and len(self._snapshots) < _IDLE_SNAPSHOTS:
                self._snapshots.append(snapshot)
            else:
                snapshot.close()

    async def clear(
        self, kinds: Sequence[type[Document]], *, inbox_group: str | None = None
    ) -> None:
        """Delete all documents of these kinds, and a group's inbox."""

        def run(connection: sqlite3.Connection) -> None:
            for kind in kinds:
                connection.execute(f"DELETE FROM {table(kind)}")  # noqa: S608
                for name in many_fields(kind):
                    connection.execute(f"DELETE FROM {items_table(kind, name)}")  # noqa: S608
            if inbox_group is not None:
                connection.execute("DELETE FROM inbox WHERE consumer_group = ?", (inbox_group,))

        await self._open.writer.submit(run)


@dataclass
class _Opened:
    reader: sqlite3.Connection
    reads: Reads
    writer: Writer
    outbox: SqliteOutbox


def _create(connection: sqlite3.Connection, kind: type[Document]) -> None:
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {table(kind)}"
        " (id TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL)"
    )
    for index in kind.indexes:
        _create_index(connection, kind, index)


def _create_index(connection: sqlite3.Connection, kind: type[Document], index: Index) -> None:
    if index.many:
        items = items_table(kind, index.fields[0])
        if not connection.execute(f"PRAGMA table_info({items})").fetchall():
            connection.executescript(
                # As one step: a table without the items of the documents before it would hide them.
                f"BEGIN; CREATE TABLE {items} (item TEXT NOT NULL, id TEXT NOT NULL,"  # noqa: S608
                " PRIMARY KEY (item, id)) WITHOUT ROWID;"
                f" CREATE INDEX {items_table(kind, index.fields[0] + '_of')} ON {items} (id);"
                f" INSERT OR IGNORE INTO {items} SELECT json_each.value, d.id"
                f" FROM {table(kind)} AS d, json_each(d.body, '$.{index.fields[0]}'); COMMIT"
            )
        return
    name = "_".join((kind.collection, *index.fields)).replace(".", "_")
    columns = [column_of(item) for item in index.fields]
    if not index.unique and index.fields[-1] != "id":
        columns.append("id")
    connection.execute(
        f'CREATE {"UNIQUE " if index.unique else ""}INDEX IF NOT EXISTS "ix_{name}"'
        f" ON {table(kind)} ({', '.join(columns)})"
    )
