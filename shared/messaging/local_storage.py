"""The local log's SQLite file: its schema and its readers."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from aiokafka import TopicPartition
from aiokafka.errors import (
    KafkaConfigurationError,
    KafkaConnectionError,
    UnknownTopicOrPartitionError,
)

Headers = tuple[tuple[str, bytes | None], ...]

SCHEMA_VERSION = 1
_SCHEMA = (
    """
    CREATE TABLE partition (
        id INTEGER PRIMARY KEY,
        topic TEXT NOT NULL,
        number INTEGER NOT NULL,
        UNIQUE (topic, number)
    )
    """,
    """
    CREATE TABLE record (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        partition INTEGER NOT NULL REFERENCES partition (id),
        offset INTEGER NOT NULL,
        timestamp_ms INTEGER NOT NULL,
        key BLOB,
        value BLOB,
        headers BLOB NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX record_offset ON record (partition, offset)",
    """
    CREATE TABLE committed (
        consumer_group TEXT NOT NULL,
        partition INTEGER NOT NULL REFERENCES partition (id),
        next_offset INTEGER NOT NULL,
        PRIMARY KEY (consumer_group, partition)
    ) WITHOUT ROWID
    """,
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_SELECT = """
SELECT r.position, p.topic, p.number, r.offset, r.timestamp_ms, r.key, r.value, r.headers
FROM record r JOIN partition p ON p.id = r.partition
"""
_BUSY_TIMEOUT_SECONDS = 5.0
# Appends of one process wake its consumers at once; only what another process wrote needs this.
POLL_SECONDS = 0.5


class NewRecord(NamedTuple):
    """What a producer appends. A value of None is a tombstone; headers keep their order."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int


class StoredRecord(NamedTuple):
    """A record of the log. `position` orders the records of all topics as they were committed."""

    position: int
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def pack_headers(headers: Headers) -> bytes:
    """Encode headers; latin-1 maps every byte to one character, so any value survives JSON."""
    return orjson.dumps(
        [(name, None if value is None else value.decode("latin-1")) for name, value in headers]
    )


def _unpack_headers(packed: bytes) -> Headers:
    return tuple(
        [
            (name, None if value is None else value.encode("latin-1"))
            for name, value in orjson.loads(packed)
        ]
    )


@contextlib.contextmanager
def kafka_errors() -> Iterator[None]:
    """Turn a SQLite error into the retriable KafkaConnectionError that a lost broker gives."""
    try:
        yield
    except sqlite3.Error as error:
        msg = f"the local log does not answer: {error}"
        raise KafkaConnectionError(msg) from error


class LogReader:
    """Reads a log file, also while another process writes it. Belongs to one thread.

    Each read sees all that was committed before it. Raises KafkaConnectionError when the file is
    missing or is no log.
    """

    def __init__(self, path: Path) -> None:
        with kafka_errors():
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro",
                uri=True,
                isolation_level=None,
                timeout=_BUSY_TIMEOUT_SECONDS,
            )
            # A file of a few bytes opens without complaint and fails at the first query only.
            self._connection.execute("SELECT COUNT(*) FROM partition").fetchone()
        self._ids: dict[TopicPartition, int] = {}

    def close(self) -> None:
        """Close the file; idempotent."""
        self._connection.close()

    def topics(self) -> dict[str, int]:
        """Return every topic with its number of partitions."""
        return dict(self._all("SELECT topic, COUNT(*) FROM partition GROUP BY topic"))

    def read(
        self, topic: str, partition: int, offset: int, limit: int, max_bytes: int | None = None
    ) -> list[StoredRecord]:
        """Return up to `limit` records of a partition from `offset` on, in order.

        Stops after the record that takes the sum of values past `max_bytes`. Raises
        UnknownTopicOrPartitionError.
        """
        number = self._id(TopicPartition(topic, partition))
        found: list[StoredRecord] = []
        size = 0
        with kafka_errors():
            rows = self._connection.execute(
                "SELECT position, offset, timestamp_ms, key, value, headers FROM record"
                " WHERE partition = ? AND offset >= ? ORDER BY offset LIMIT ?",
                (number, offset, limit),
            )
            for position, at, timestamp_ms, key, value, headers in rows:
                found.append(
                    StoredRecord(
                        position,
                        topic,
                        partition,
                        at,
                        timestamp_ms,
                        key,
                        value,
                        _unpack_headers(headers),
                    )
                )
                if max_bytes is not None:
                    size += len(value or b"")
                    if size > max_bytes:
                        break
            # An unfinished cursor would hold its snapshot and keep the WAL from being reset.
            rows.close()
        return found

    def export(self, after: int = 0, chunk: int = 1000) -> Iterator[StoredRecord]:
        """Yield every record past position `after`, in the order of the whole log."""
        while rows := self._all(
            _SELECT + "WHERE r.position > ? ORDER BY r.position LIMIT ?", (after, chunk)
        ):
            for row in rows:
                yield StoredRecord._make((*row[:-1], _unpack_headers(row[-1])))
                after = row[0]

    async def follow(self, after: int = 0) -> AsyncIterator[StoredRecord]:
        """Yield every record past position `after`, then wait for more; never ends by itself."""
        while True:
            for record in self.export(after):
                yield record
                after = record.position
            await asyncio.sleep(POLL_SECONDS)

    def last_position(self) -> int:
        """Return the position of the newest record, 0 in an empty log."""
        return int(self._all("SELECT COALESCE(MAX(position), 0) FROM record")[0][0])

    def beginning_offset(self, partition: TopicPartition) -> int:
        """Return the offset of the oldest record, or the end of an empty partition."""
        return self._edge(partition, "SELECT MIN(offset) FROM record WHERE partition = ?")

    def end_offset(self, partition: TopicPartition) -> int:
        """Return the offset that the next record will get."""
        return self._edge(partition, "SELECT MAX(offset) + 1 FROM record WHERE partition = ?")

    def committed(self, group: str, partition: TopicPartition) -> int | None:
        """Return the next offset that `group` wants of a partition, None without a commit."""
        rows = self._all(
            "SELECT next_offset FROM committed WHERE consumer_group = ? AND partition = ?",
            (group, self._id(partition)),
        )
        return int(rows[0][0]) if rows else None

    def _edge(self, partition: TopicPartition, statement: str) -> int:
        return int(self._all(statement, (self._id(partition),))[0][0] or 0)

    def _id(self, partition: TopicPartition) -> int:
        known = self._ids.get(partition)
        if known is None:
            rows = self._all(
                "SELECT id FROM partition WHERE topic = ? AND number = ?", tuple(partition)
            )
            if not rows:
                raise UnknownTopicOrPartitionError(f"{partition.topic}[{partition.partition}]")
            known = self._ids[partition] = int(rows[0][0])
        return known

    def _all(self, statement: str, parameters: tuple[object, ...] = ()) -> list[Any]:
        with kafka_errors():
            return self._connection.execute(statement, parameters).fetchall()


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open, and where needed create, a log so that what is committed survives a power cut.

    Raises sqlite3.Error, and KafkaConfigurationError for a file of a newer program.
    """
    connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_TIMEOUT_SECONDS)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        msg = f"the local log has schema {version}; this program knows {SCHEMA_VERSION}"
        raise KafkaConfigurationError(msg)
    if version < SCHEMA_VERSION:
        for statement in _SCHEMA:
            connection.execute(statement)
    connection.execute("COMMIT")
