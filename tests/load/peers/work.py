"""The work that each peer does: check a pulse, and count it once in its bucket."""

import json
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import pymongo
from pymongo import UpdateOne
from pymongo.client_session import ClientSession

from shared.events.feedback import FeedbackSubmitted
from shared.events.topics import FEEDBACK

TOPIC = FEEDBACK
Item = tuple[str, str]
"""An event's id and the bucket that it counts in."""


def read(headers: Iterable[tuple[str, bytes | str]], value: bytes) -> Item:
    """Validate a record. Raises ValidationError, and KeyError without an id."""
    event = FeedbackSubmitted.model_validate_json(value)
    event_id = dict(headers)["ce_id"]
    return event_id if isinstance(event_id, str) else event_id.decode(), bucket_of(event)


def bucket_of(event: FeedbackSubmitted) -> str:
    """Return the bucket of a pulse: its program, department and month."""
    return f"{event.program_id}/{event.department}/{event.submitted_on:%Y-%m}"


class Ledger(Protocol):
    """Buckets and the ids that were counted in them."""

    def apply(self, items: Sequence[Item]) -> None:
        """Count what was not counted yet, all or nothing."""


class SqliteLedger:
    """A ledger in an SQLite file, as durable as Upward's."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
            "CREATE TABLE IF NOT EXISTS inbox (id TEXT PRIMARY KEY) WITHOUT ROWID;"
            "CREATE TABLE IF NOT EXISTS buckets (id TEXT PRIMARY KEY, count INTEGER NOT NULL)"
        )

    def apply(self, items: Sequence[Item]) -> None:
        run = self._connection.execute
        counts = Counter[str]()
        run("BEGIN IMMEDIATE")
        for event_id, bucket in items:
            counts[bucket] += run("INSERT OR IGNORE INTO inbox VALUES (?)", (event_id,)).rowcount
        self._connection.executemany(
            "INSERT INTO buckets VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET count = count + excluded.count",
            list(counts.items()),
        )
        run("COMMIT")


class MongoLedger:
    """A ledger in MongoDB, by one transaction a batch."""

    def __init__(self, uri: str, database: str) -> None:
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri)
        self._database = self._client[database]

    def apply(self, items: Sequence[Item]) -> None:
        with self._client.start_session() as session:
            session.with_transaction(lambda current: self._write(items, current))

    def _write(self, items: Sequence[Item], session: ClientSession) -> None:
        inbox, buckets = self._database["inbox"], self._database["buckets"]
        wanted = dict(items)
        known = {row["_id"] for row in inbox.find({"_id": {"$in": list(wanted)}}, session=session)}
        new = {event_id: bucket for event_id, bucket in wanted.items() if event_id not in known}
        if new:
            inbox.insert_many([{"_id": event_id} for event_id in new], session=session)
            counts = Counter(new.values())
            buckets.bulk_write(
                [
                    UpdateOne({"_id": bucket}, {"$inc": {"count": count}}, upsert=True)
                    for bucket, count in counts.items()
                ],
                session=session,
            )


class Task:
    """What the harness asked for on the command line, and how far it is."""

    def __init__(self) -> None:
        self.kafka, self.group, self.store, expected, batch = sys.argv[1:6]
        self.expected = int(expected)
        self.batch = int(batch)
        """How much those that work in batches take at once: as much as Upward does."""
        self.done = 0
        self._first = 0
        self._begun = self._ended = (0.0, 0.0)

    @property
    def mongodb(self) -> tuple[str, str] | None:
        """The server's URI and the database, where the store is not a file."""
        uri, _, database = self.store.rpartition("|")
        return (uri, database) if uri else None

    def ledger(self) -> Ledger:
        """Open the store."""
        return SqliteLedger(self.store) if self.mongodb is None else MongoLedger(*self.mongodb)

    def count(self, number: int) -> bool:
        """Note that so many records more are stored; return whether those were the last.

        The clock runs from the end of the first ones.
        """
        self.done += number
        self._ended = (time.monotonic(), time.process_time())
        if not self._first:
            self._first, self._begun = self.done, self._ended
        return self.done >= self.expected

    def report(self) -> None:
        """Write the result as the last line of standard output."""
        result = {
            "events": self.done - self._first,
            "seconds": self._ended[0] - self._begun[0],
            "cpu_seconds": self._ended[1] - self._begun[1],
        }
        sys.stdout.write(f"\n{json.dumps(result)}\n")
