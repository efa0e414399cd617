"""Writing what a transaction wants written, in SQLite."""

import json
import sqlite3
from datetime import UTC, datetime

from shared.clock import format_instant
from shared.errors import StaleWriteError, UniqueViolationError
from shared.store.conditions import many_fields
from shared.store.port import Document
from shared.store.sqlite_queries import as_list, items_table, table
from shared.store.transaction import Commit, body_of

Row = tuple[str | int, ...]


def note_events(connection: sqlite3.Connection, commit: Commit) -> None:
    """Write the ids of the events that a transaction applies, inside the writer's own transaction.

    Raises StaleWriteError if one of them was applied meanwhile.
    """
    try:
        for group, event_ids in commit.inbox.items():
            connection.execute(
                # Ids begin with their time: in their order they go to the end of the table.
                "INSERT INTO inbox SELECT ?, value FROM json_each(?)",
                (group, as_list(sorted(event_ids))),
            )
    except sqlite3.IntegrityError as error:
        raise StaleWriteError("another delivery of the same event was applied meanwhile") from error


def apply_commit(connection: sqlite3.Connection, commit: Commit) -> None:
    """Write all else that a transaction wants written, inside the writer's own transaction.

    The bodies are made. Raises StaleWriteError and UniqueViolationError.
    """
    for kind in dict.fromkeys(key[0] for key in (*commit.deletes, *commit.puts)):
        _write_kind(connection, commit, kind)
    for kind in dict.fromkeys(kind for kind, _ in commit.adds):
        _write_kind(connection, _added(connection, commit, kind), kind)
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


def _added(connection: sqlite3.Connection, commit: Commit, kind: type[Document]) -> Commit:
    """Return what is to be written after additions to what is stored now."""
    query = f"SELECT body FROM {table(kind)} WHERE id = ?"  # noqa: S608
    sums = Commit()
    for key, more in commit.adds.items():
        if key[0] is not kind:
            continue
        row = connection.execute(query, (more.id,)).fetchone()
        known = type(more).model_validate_json(row[0]) if row else more.changed(counts={})
        document = known.plus(more).changed(version=known.version + 1)
        sums.puts[key], sums.bodies[key] = document, body_of(document)
        sums.bases[key] = known.version
    return sums


def _write_kind(connection: sqlite3.Connection, commit: Commit, kind: type[Document]) -> None:
    target = table(kind)
    deletes: list[Row] = [
        (key[1], version) for key, version in commit.deletes.items() if key[0] is kind
    ]
    updates: list[Row] = []
    inserts: list[Row] = []
    for key, document in commit.puts.items():
        if key[0] is kind:
            if base := commit.bases[key]:
                updates.append((document.version, commit.bodies[key], key[1], base))
            else:
                inserts.append((key[1], document.version, commit.bodies[key]))
    try:
        # In this order a unique value is free before another document takes it.
        for statement, rows in (
            (f"DELETE FROM {target} WHERE id = ? AND version = ?", deletes),  # noqa: S608
            (f"UPDATE {target} SET version = ?, body = ? WHERE id = ? AND version = ?", updates),  # noqa: S608
            (f"INSERT INTO {target} VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING", inserts),  # noqa: S608
        ):
            if rows and connection.executemany(statement, rows).rowcount != len(rows):
                raise StaleWriteError(f"some of {kind.collection} changed meanwhile")
    except sqlite3.IntegrityError as error:
        detail = f"another {kind.__name__.lower()} already has the same value"
        raise UniqueViolationError(detail) from error
    for name in many_fields(kind):
        items = items_table(kind, name)
        old = [(document_id,) for document_id, _ in deletes]
        old += [(document_id,) for _, _, document_id, _ in updates]
        connection.executemany(f"DELETE FROM {items} WHERE id = ?", old)  # noqa: S608
        connection.executemany(
            f"INSERT OR IGNORE INTO {items} VALUES (?, ?)",  # noqa: S608
            [
                (item, document_id)
                for (put_kind, document_id), document in commit.puts.items()
                if put_kind is kind
                for item in getattr(document, name)
            ],
        )
