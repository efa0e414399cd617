"""Writing what a transaction wants written, in SQLite."""

import json
import sqlite3
from datetime import UTC, datetime

from shared.clock import format_instant
from shared.errors import StaleWriteError, UniqueViolationError
from shared.store.conditions import many_fields
from shared.store.port import Document
from shared.store.sqlite_queries import items_table, table
from shared.store.transaction import Commit


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
            headers = outgoing.versioned(version)
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
