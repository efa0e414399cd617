"""The embedded store: one SQLite file a service, written by one thread with group commit."""

import asyncio
import contextlib
import json
import queue
import random
import re
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from shared import metrics
from shared.clock import Clock, format_instant
from shared.errors import (
    StaleWriteError,
    StoreUnavailableError,
    TooLargeError,
    UniqueViolationError,
    raise_not_found,
)
from shared.events.envelope import Envelope, Event, data_schema
from shared.events.topics import MAX_EVENT_BYTES
from shared.failpoints import failpoint
from shared.ids import new_event_id
from shared.store.port import (
    NO_CONDITIONS,
    AtMost,
    Contains,
    Document,
    In,
    Index,
    MoreThan,
    OutboxDepth,
    OutboxRecord,
    Scalar,
    Transaction,
    Where,
)
from shared.tracing import current_trace

D = TypeVar("D", bound=Document)
T = TypeVar("T")
P = ParamSpec("P")

_ATTEMPTS = 30
_IDLE_SNAPSHOTS = 8
_FIELD = re.compile(r"^[a-z][a-z0-9_.]*$")
_AGGREGATE_VERSION = "ce_aggregateversion"

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


# The fault of one statement: a value that can't be bound, a constraint. All other errors of SQLite
# say that the file or its disk is in trouble, which heals.
_STATEMENT_ERRORS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
    sqlite3.ProgrammingError,
)


def _connect(path: Path) -> sqlite3.Connection:
    # One thread at a time uses a connection; the module's own check would forbid handing it over.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL: a commit that was answered survives a power cut, not only a crash of the process.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -16384")
    return connection


@dataclass
class _Outgoing:
    topic: str
    key: str
    value: bytes | None
    headers: list[tuple[str, str]]
    event_id: str
    emitted_at: str
    subject: str | None  # None: a raw record, outside of any aggregate's version sequence


@dataclass
class _Commit:
    """What a transaction wants written; applied as a whole or not at all."""

    puts: dict[tuple[type[Document], str], Document] = field(default_factory=dict)
    deletes: dict[tuple[type[Document], str], int] = field(default_factory=dict)
    # The version each written document had when this transaction began: 0 for a new one.
    bases: dict[tuple[type[Document], str], int] = field(default_factory=dict)
    inbox: dict[tuple[str, str], None] = field(default_factory=dict)
    outgoing: list[_Outgoing] = field(default_factory=list)
    bodies: dict[tuple[type[Document], str], str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.puts or self.deletes or self.inbox or self.outgoing)

    def encode(self) -> None:
        """Make the bodies. Raises ValueError for a document that could not be read back."""
        for key, document in self.puts.items():
            self.bodies[key] = document.model_dump_json(warnings="error")


@dataclass
class _Job:
    run: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop

    def finish(self, result: Any, error: BaseException | None) -> None:
        def settle() -> None:
            if not self.done.done():
                if error is None:
                    self.done.set_result(result)
                else:
                    self.done.set_exception(error)

        # A closed loop has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(settle)


class _Writer:
    """The one thread that writes: it commits together whatever waits, with one sync to disk."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"store-{name}", daemon=True)
        self._thread.start()

    async def submit(self, run: Callable[[sqlite3.Connection], T]) -> T:
        # Behind the end mark nobody would ever take it from the queue.
        if self._closed or not self.alive:
            raise StoreUnavailableError("The store is closed.")
        loop = asyncio.get_running_loop()
        job = _Job(run, loop.create_future(), loop)
        self._queue.put(job)
        # A cancelled caller must not leave a half-known outcome: the commit goes on regardless.
        result: T = await asyncio.shield(job.done)
        return result

    async def close(self) -> None:
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _work(self) -> None:
        connection = self._connection
        try:
            while (first := self._queue.get()) is not None:
                group, last = [first], False
                while not self._queue.empty():
                    job = self._queue.get()
                    if job is None:
                        last = True
                        break
                    group.append(job)
                self._commit(connection, group)
                if last:
                    break
        finally:
            connection.close()

    @staticmethod
    def _commit(connection: sqlite3.Connection, group: list[_Job]) -> None:
        outcomes: list[tuple[_Job, Any, BaseException | None]] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in group:
                connection.execute("SAVEPOINT job")
                try:
                    outcomes.append((job, job.run(connection), None))
                except Exception as error:
                    if isinstance(error, sqlite3.Error) and not isinstance(
                        error, _STATEMENT_ERRORS
                    ):
                        raise
                    # What one job can't write is no reason to refuse those that came with it.
                    connection.execute("ROLLBACK TO job")
                    outcomes.append((job, None, error))
                connection.execute("RELEASE job")
            failpoint("store.before_commit")
            connection.execute("COMMIT")
            failpoint("store.after_commit")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            unavailable = StoreUnavailableError(f"The store did not commit: {error}")
            outcomes = [(job, None, unavailable) for job in group]
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            outcomes = [(job, None, error) for job in group]
        for job, result, failure in outcomes:
            job.finish(result, failure)


def _parameter(value: Scalar | date) -> str | int | float | None:
    if isinstance(value, datetime):
        return format_instant(value)
    if isinstance(value, date):
        return value.isoformat()
    return value


def _column(name: str) -> str:
    if not _FIELD.match(name):
        msg = f"{name!r} is not a document field"
        raise ValueError(msg)
    return name if name in {"id", "version"} else f"json_extract(body, '$.{name}')"


def _table(kind: type[Document]) -> str:
    return f'"d_{kind.collection}"'


def _items_table(kind: type[Document], name: str) -> str:
    return f'"m_{kind.collection}_{name}"'


def _many_fields(kind: type[Document]) -> list[str]:
    return [index.fields[0] for index in kind.indexes if index.many]


def _where(kind: type[Document], where: Where) -> tuple[list[str], list[str | int | float | None]]:
    clauses: list[str] = []
    parameters: list[str | int | float | None] = []
    for name, condition in where.items():
        column = _column(name)
        match condition:
            case In(values):
                known = [_parameter(value) for value in values if value is not None]
                clause = f"{column} IN ({', '.join('?' * len(known))})"
                if None in values:
                    clause = f"({clause} OR {column} IS NULL)"
                clauses.append(clause)
                parameters += known
            case AtMost(value):
                clauses.append(f"{column} <= ?")
                parameters.append(_parameter(value))
            case MoreThan(value):
                clauses.append(f"{column} > ?")
                parameters.append(_parameter(value))
            case Contains(value):
                if name not in _many_fields(kind):
                    msg = f"{kind.__name__} declares no index of the items of {name!r}"
                    raise ValueError(msg)
                table = _items_table(kind, name)
                clauses.append(f"id IN (SELECT id FROM {table} WHERE item = ?)")  # noqa: S608
                parameters.append(value)
            case None:
                clauses.append(f"{column} IS NULL")
            case _:
                clauses.append(f"{column} = ?")
                parameters.append(_parameter(condition))
    return clauses, parameters


def _field_of(body: dict[str, Any], name: str) -> Any:
    value: Any = body
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _meets(body: dict[str, Any], where: Where) -> bool:
    for name, condition in where.items():
        value = _field_of(body, name)
        match condition:
            case In(values):
                met = value in [_parameter(item) for item in values]
            case AtMost(bound):
                met = value is not None and value <= _parameter(bound)
            case MoreThan(bound):
                met = value is not None and value > _parameter(bound)
            case Contains(item):
                met = value is not None and item in value
            case _:
                met = value == _parameter(condition)
        if not met:
            return False
    return True


def _sort_key(document: Document, order_by: str) -> tuple[bool, Any, str]:
    value = _field_of(document.model_dump(mode="json"), order_by)
    return (value is not None, value if value is not None else 0, document.id)


class _Reads:
    """Queries on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def _query(self, sql: str, parameters: Sequence[str | int | float | None]) -> list[Any]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except _STATEMENT_ERRORS:
            raise
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"The store did not answer: {error}") from error

    async def get(self, kind: type[D], document_id: str) -> D | None:
        rows = self._query(
            f"SELECT body FROM {_table(kind)} WHERE id = ?",  # noqa: S608
            (document_id,),
        )
        return kind.model_validate_json(rows[0][0]) if rows else None

    async def require(self, kind: type[D], document_id: str) -> D:
        document = await self.get(kind, document_id)
        if document is None:
            raise_not_found(kind.__name__.lower(), document_id)
        return document

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
        clauses, parameters = _where(kind, where)
        column = _column(order_by)
        if after is not None:
            clause, more = _after(column, after, descending=descending)
            clauses.append(clause)
            parameters += more
        direction = "DESC" if descending else "ASC"
        sql = f"SELECT body FROM {_table(kind)}"  # noqa: S608
        if clauses:
            sql += " WHERE " + " AND ".join(clauses)
        order = f"id {direction}" if column == "id" else f"{column} {direction}, id {direction}"
        sql += f" ORDER BY {order} LIMIT {int(limit)}"
        return [kind.model_validate_json(body) for (body,) in self._query(sql, parameters)]

    async def count(self, kind: type[D], where: Where = NO_CONDITIONS) -> int:
        clauses, parameters = _where(kind, where)
        sql = f"SELECT count(*) FROM {_table(kind)}"  # noqa: S608
        if clauses:
            sql += " WHERE " + " AND ".join(clauses)
        return int(self._query(sql, parameters)[0][0])


def _after(
    column: str, after: tuple[Scalar, str], *, descending: bool
) -> tuple[str, list[str | int | float | None]]:
    value, document_id = _parameter(after[0]), after[1]
    beyond = "<" if descending else ">"
    if column == "id":
        return f"id {beyond} ?", [document_id]
    if value is None and descending:
        return f"({column} IS NULL AND id < ?)", [document_id]
    if value is None:
        return f"({column} IS NOT NULL OR id > ?)", [document_id]
    rest = f" OR {column} IS NULL" if descending else ""
    return (
        f"({column} {beyond} ? OR ({column} = ? AND id {beyond} ?){rest})",
        [value, value, document_id],
    )


class _SqliteTransaction(_Reads):
    """One attempt: reads from a snapshot, writes kept until the commit."""

    def __init__(self, store: "SqliteStore", connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._store = store
        self.commit = _Commit()

    async def get(self, kind: type[D], document_id: str) -> D | None:
        key = (kind, document_id)
        if key in self.commit.deletes:
            return None
        written = self.commit.puts.get(key)
        if isinstance(written, kind):
            return written
        return await super().get(kind, document_id)

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
        own = {key[1]: doc for key, doc in self.commit.puts.items() if key[0] is kind}
        gone = {key[1] for key in self.commit.deletes if key[0] is kind}
        stored = await super().find(
            kind,
            where,
            order_by=order_by,
            descending=descending,
            after=after,
            limit=limit + len(own) + len(gone),
        )
        if not own and not gone:
            return stored
        found = [doc for doc in stored if doc.id not in own and doc.id not in gone]
        found += [
            doc
            for doc in own.values()
            if isinstance(doc, kind) and _meets(doc.model_dump(mode="json"), where)
        ]
        found.sort(key=lambda doc: _sort_key(doc, order_by), reverse=descending)
        if after is not None:
            value = _parameter(after[0])
            mark = (value is not None, value if value is not None else 0, after[1])
            if order_by == "id":
                mark = (True, after[1], after[1])
            found = [
                doc
                for doc in found
                if (_sort_key(doc, order_by) < mark) == descending
                and _sort_key(doc, order_by) != mark
            ]
        return found[:limit]

    async def count(self, kind: type[D], where: Where = NO_CONDITIONS) -> int:
        total = await super().count(kind, where)
        touched = [key[1] for key in (*self.commit.puts, *self.commit.deletes) if key[0] is kind]
        for document_id in touched:
            before = await super().get(kind, document_id)
            if before is not None and _meets(before.model_dump(mode="json"), where):
                total -= 1
            after = self.commit.puts.get((kind, document_id))
            if after is not None and _meets(after.model_dump(mode="json"), where):
                total += 1
        return total

    def put(self, document: D) -> D:
        key = (type(document), document.id)
        base = self.commit.bases.setdefault(key, document.version)
        self.commit.deletes.pop(key, None)
        # What is deleted and made anew in one transaction goes on counting.
        stored = document.changed(version=max(base, document.version) + 1)
        self.commit.puts[key] = stored
        return stored

    def delete(self, document: Document) -> None:
        key = (type(document), document.id)
        base = self.commit.bases.setdefault(key, document.version)
        self.commit.puts.pop(key, None)
        if base:
            self.commit.deletes[key] = base

    def emit(self, event: Event, *, unlinked: bool = False) -> None:
        trace = current_trace()
        value = event.model_dump_json().encode()
        if len(value) > MAX_EVENT_BYTES:
            detail = f"{event.type()} of {event.subject} has {len(value)} bytes, too many to tell."
            raise TooLargeError(detail)
        envelope = Envelope(
            id=new_event_id(),
            source=self._store.source,
            type=event.type(),
            subject=event.subject,
            time=self._store.clock.now(),
            dataschema=data_schema(event.type()),
            program=event.program_id,
            region=self._store.region,
            aggregateversion=1,  # the commit puts the real one in its place
            causationid=None if unlinked else trace.causation_id,
            correlationid=None if unlinked else trace.correlation_id,
            traceparent=None if unlinked else trace.traceparent,
        )
        headers = envelope.to_headers()
        del headers[_AGGREGATE_VERSION]
        self.commit.outgoing.append(
            _Outgoing(
                topic=event.topic,
                key=event.subject,
                value=value,
                headers=list(headers.items()),
                event_id=envelope.id,
                emitted_at=format_instant(envelope.time),
                subject=event.subject,
            )
        )

    def emit_raw(
        self, topic: str, key: str, value: bytes | None, headers: Sequence[tuple[str, str]]
    ) -> None:
        self.commit.outgoing.append(
            _Outgoing(
                topic=topic,
                key=key,
                value=value,
                headers=list(headers),
                event_id=new_event_id(),
                emitted_at=format_instant(self._store.clock.now()),
                subject=None,
            )
        )

    async def first_time(self, group: str, event_id: str) -> bool:
        if (group, event_id) in self.commit.inbox:
            return False
        if self._query(
            "SELECT 1 FROM inbox WHERE consumer_group = ? AND event_id = ?", (group, event_id)
        ):
            return False
        self.commit.inbox[group, event_id] = None
        return True


def _apply(connection: sqlite3.Connection, commit: _Commit) -> None:
    for (kind, document_id), version in commit.deletes.items():
        gone = connection.execute(
            f"DELETE FROM {_table(kind)} WHERE id = ? AND version = ?",  # noqa: S608
            (document_id, version),
        )
        if not gone.rowcount:
            raise StaleWriteError(f"{kind.collection} {document_id} changed meanwhile")
        for name in _many_fields(kind):
            connection.execute(
                f"DELETE FROM {_items_table(kind, name)} WHERE id = ?",  # noqa: S608
                (document_id,),
            )
    for (kind, document_id), document in commit.puts.items():
        key = (kind, document_id)
        _write(connection, kind, document, commit.bodies[key], commit.bases[key])
    try:
        connection.executemany("INSERT INTO inbox VALUES (?, ?)", commit.inbox)
    except sqlite3.IntegrityError as error:
        raise StaleWriteError("another delivery of the same event was applied meanwhile") from error
    committed_at = format_instant(datetime.now(UTC))
    for outgoing in commit.outgoing:
        headers = outgoing.headers
        if outgoing.subject is not None:
            ((version,),) = connection.execute(
                "INSERT INTO streams VALUES (?, 1)"
                " ON CONFLICT (subject) DO UPDATE SET version = version + 1 RETURNING version",
                (outgoing.subject,),
            ).fetchall()
            headers = [*headers, (_AGGREGATE_VERSION, str(version))]
        connection.execute(
            "INSERT INTO outbox (event_id, topic, key, value, headers, emitted_at, committed_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                outgoing.event_id,
                outgoing.topic,
                outgoing.key,
                outgoing.value,
                json.dumps(headers, ensure_ascii=False),
                outgoing.emitted_at,
                committed_at,
            ),
        )


def _write(
    connection: sqlite3.Connection, kind: type[Document], document: Document, body: str, base: int
) -> None:
    table = _table(kind)
    try:
        if base == 0:
            written = connection.execute(
                f"INSERT INTO {table} VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING",  # noqa: S608
                (document.id, document.version, body),
            )
        else:
            written = connection.execute(
                f"UPDATE {table} SET version = ?, body = ? WHERE id = ? AND version = ?",  # noqa: S608
                (document.version, body, document.id, base),
            )
    except sqlite3.IntegrityError as error:
        detail = f"another {kind.__name__.lower()} already has the same value"
        raise UniqueViolationError(detail) from error
    if not written.rowcount:
        raise StaleWriteError(f"{kind.collection} {document.id} changed meanwhile")
    for name in _many_fields(kind):
        items = _items_table(kind, name)
        connection.execute(f"DELETE FROM {items} WHERE id = ?", (document.id,))  # noqa: S608
        connection.executemany(
            f"INSERT OR IGNORE INTO {items} VALUES (?, ?)",  # noqa: S608
            [(item, document.id) for item in getattr(document, name)],
        )


class SqliteOutbox:
    """The outbox table of one store."""

    def __init__(self, reader: sqlite3.Connection, writer: _Writer) -> None:
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

    async def mark_sent(self, positions: Sequence[int]) -> None:
        """Remember that the bus has acknowledged these."""
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


class SqliteStore:
    """The embedded adapter of the store port.

    Reads run on the loop's thread: from a local file in WAL mode they take microseconds and never
    wait for the writer. A transaction reads one snapshot and hands its writes to the writer thread,
    so no lock is held while a handler runs.
    """

    def __init__(self, path: Path, *, service: str, region: str, clock: Clock) -> None:
        self.path = path
        self.service = service
        self.region = region
        self.source = f"/upward/{region}/{service}"
        self.clock = clock
        self._snapshots: list[sqlite3.Connection] = []
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

    async def open(self, kinds: Sequence[type[Document]]) -> None:
        """Open the file and create what is missing in it. Raises StoreUnavailableError."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as opening:
                reader = opening.enter_context(contextlib.closing(_connect(self.path)))
                writing = opening.enter_context(contextlib.closing(_connect(self.path)))
                reader.executescript(_SCHEMA)
                for kind in kinds:
                    _create(reader, kind)
                opening.pop_all()
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailableError(f"Can't open {self.path}: {error}") from error
        writer = _Writer(writing, self.path.stem)
        self._opened = _Opened(reader, _Reads(reader), writer, SqliteOutbox(reader, writer))

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
        """Run the handler and commit; on a stale write run it again, with jittered back-off."""
        for attempt in range(_ATTEMPTS):
            try:
                return await self._attempt(handler, *args, **kwargs)
            except StaleWriteError:
                metrics.STORE_CONFLICTS.labels(self.service).inc()
                if attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(random.uniform(0, min(0.5, 0.002 * 2**attempt)))  # noqa: S311
        raise AssertionError  # the loop returns or raises

    async def _attempt(
        self,
        handler: Callable[Concatenate[Transaction, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        opened = self._open
        with self._snapshot(opened) as snapshot:
            transaction = _SqliteTransaction(self, snapshot)
            result = await handler(transaction, *args, **kwargs)
        if transaction.commit:
            transaction.commit.encode()
            await opened.writer.submit(lambda c: _apply(c, transaction.commit))
            if transaction.commit.outgoing:
                opened.outbox.notify()
        return result

    @contextlib.contextmanager
    def _snapshot(self, opened: "_Opened") -> Iterator[sqlite3.Connection]:
        try:
            snapshot = self._snapshots.pop() if self._snapshots else _connect(self.path)
            snapshot.execute("BEGIN")
            # Without a read SQLite would choose the snapshot only at the handler's first one.
            snapshot.execute("SELECT 1 FROM outbox LIMIT 1").fetchall()
        except sqlite3.Error as error:
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
                connection.execute(f"DELETE FROM {_table(kind)}")  # noqa: S608
                for name in _many_fields(kind):
                    connection.execute(f"DELETE FROM {_items_table(kind, name)}")  # noqa: S608
            if inbox_group is not None:
                connection.execute("DELETE FROM inbox WHERE consumer_group = ?", (inbox_group,))

        await self._open.writer.submit(run)


@dataclass
class _Opened:
    reader: sqlite3.Connection
    reads: _Reads
    writer: _Writer
    outbox: SqliteOutbox


def _create(connection: sqlite3.Connection, kind: type[Document]) -> None:
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {_table(kind)}"
        " (id TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL)"
    )
    for index in kind.indexes:
        _create_index(connection, kind, index)


def _create_index(connection: sqlite3.Connection, kind: type[Document], index: Index) -> None:
    if index.many:
        items = _items_table(kind, index.fields[0])
        if not connection.execute(f"PRAGMA table_info({items})").fetchall():
            connection.executescript(
                # As one step: a table without the items of the documents before it would hide them.
                f"BEGIN; CREATE TABLE {items} (item TEXT NOT NULL, id TEXT NOT NULL,"  # noqa: S608
                " PRIMARY KEY (item, id)) WITHOUT ROWID;"
                f" CREATE INDEX {_items_table(kind, index.fields[0] + '_of')} ON {items} (id);"
                f" INSERT OR IGNORE INTO {items} SELECT json_each.value, d.id"
                f" FROM {_table(kind)} AS d, json_each(d.body, '$.{index.fields[0]}'); COMMIT"
            )
        return
    name = "_".join((kind.collection, *index.fields)).replace(".", "_")
    columns = [_column(item) for item in index.fields]
    if not index.unique and index.fields[-1] != "id":
        columns.append("id")
    connection.execute(
        f'CREATE {"UNIQUE " if index.unique else ""}INDEX IF NOT EXISTS "ix_{name}"'
        f" ON {_table(kind)} ({', '.join(columns)})"
    )
