"""A transaction on SQLite documents: what it reads, what it wants written, and the writing."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from shared.clock import Clock, format_instant
from shared.errors import StaleWriteError, TooLargeError, UniqueViolationError
from shared.events.envelope import Envelope, Event, data_schema
from shared.events.topics import MAX_EVENT_BYTES
from shared.ids import new_event_id
from shared.store.port import NO_CONDITIONS, Document, Scalar, Where
from shared.store.sqlite_queries import (
    Reads,
    items_table,
    many_fields,
    meets,
    parameter,
    sort_key,
    table,
)
from shared.tracing import current_trace

D = TypeVar("D", bound=Document)

_AGGREGATE_VERSION = "ce_aggregateversion"


@dataclass(frozen=True)
class Origin:
    """What the envelopes of a store's events have in common."""

    source: str
    region: str
    clock: Clock


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
class Commit:
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


class SqliteTransaction(Reads):
    """One attempt: reads from a snapshot, writes kept until the commit."""

    def __init__(self, origin: Origin, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._origin = origin
        self.commit = Commit()

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
            if isinstance(doc, kind) and meets(doc.model_dump(mode="json"), where)
        ]
        found.sort(key=lambda doc: sort_key(doc, order_by), reverse=descending)
        if after is not None:
            value = parameter(after[0])
            mark = (value is not None, value if value is not None else 0, after[1])
            if order_by == "id":
                mark = (True, after[1], after[1])
            found = [
                doc
                for doc in found
                if (sort_key(doc, order_by) < mark) == descending
                and sort_key(doc, order_by) != mark
            ]
        return found[:limit]

    async def count(self, kind: type[D], where: Where = NO_CONDITIONS) -> int:
        total = await super().count(kind, where)
        touched = [key[1] for key in (*self.commit.puts, *self.commit.deletes) if key[0] is kind]
        for document_id in touched:
            before = await super().get(kind, document_id)
            if before is not None and meets(before.model_dump(mode="json"), where):
                total -= 1
            after = self.commit.puts.get((kind, document_id))
            if after is not None and meets(after.model_dump(mode="json"), where):
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
            source=self._origin.source,
            type=event.type(),
            subject=event.subject,
            time=self._origin.clock.now(),
            dataschema=data_schema(event.type()),
            program=event.program_id,
            region=self._origin.region,
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
                emitted_at=format_instant(self._origin.clock.now()),
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


def apply_commit(connection: sqlite3.Connection, commit: Commit) -> None:
    """Write all that a transaction wants written, inside the writer's own transaction.

    Raises StaleWriteError and UniqueViolationError.
    """
    for (kind, document_id), version in commit.deletes.items():
        gone = connection.execute(
            f"DELETE FROM {table(kind)} WHERE id = ? AND version = ?",  # noqa: S608
            (document_id, version),
        )
        if not gone.rowcount:
            raise StaleWriteError(f"{kind.collection} {document_id} changed meanwhile")
        for name in many_fields(kind):
            connection.execute(
                f"DELETE FROM {items_table(kind, name)} WHERE id = ?",  # noqa: S608
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
    target = table(kind)
    try:
        if base == 0:
            written = connection.execute(
                f"INSERT INTO {target} VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING",  # noqa: S608
                (document.id, document.version, body),
            )
        else:
            written = connection.execute(
                f"UPDATE {target} SET version = ?, body = ? WHERE id = ? AND version = ?",  # noqa: S608
                (document.version, body, document.id, base),
            )
    except sqlite3.IntegrityError as error:
        detail = f"another {kind.__name__.lower()} already has the same value"
        raise UniqueViolationError(detail) from error
    if not written.rowcount:
        raise StaleWriteError(f"{kind.collection} {document.id} changed meanwhile")
    for name in many_fields(kind):
        items = items_table(kind, name)
        connection.execute(f"DELETE FROM {items} WHERE id = ?", (document.id,))  # noqa: S608
        connection.executemany(
            f"INSERT OR IGNORE INTO {items} VALUES (?, ?)",  # noqa: S608
            [(item, document.id) for item in getattr(document, name)],
        )
