"""The one thread that writes the local log: many requests to a commit."""

import asyncio
import contextlib
import functools
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiokafka import TopicPartition
from aiokafka.errors import KafkaConfigurationError, KafkaConnectionError, KafkaError

from shared.failpoints import failpoint
from shared.messaging.local_storage import NewRecord

_INSERT = "INSERT INTO record (partition, offset, timestamp_ms, key, value, headers) VALUES "
# A group takes what waits, up to this many requests, so that one commit stays well under a second.
_MAX_GROUP = 2000


@dataclass(slots=True)
class Append:
    """Append records to one partition, next to each other; answered with the first's offset."""

    partition: TopicPartition
    records: Sequence[tuple[NewRecord, bytes]]
    done: "asyncio.Future[int]"


@dataclass(slots=True)
class CommitOffsets:
    """Store a group's next offsets, all or none."""

    group: str
    offsets: Mapping[TopicPartition, int]
    done: "asyncio.Future[int]"


@dataclass(slots=True)
class CreateTopics:
    """Create the topics that do not exist; none at all asks only whether the file can be locked."""

    topics: Mapping[str, int]
    done: "asyncio.Future[int]"


Request = Append | CommitOffsets | CreateTopics


@dataclass(slots=True)
class Settled:
    """What became of a group of requests: every answer, or the one error that refused them all."""

    requests: Sequence[Request]
    answers: Sequence[int] = ()
    error: Exception | None = None
    ends: Mapping[TopicPartition, int] = field(default_factory=dict)
    last_position: int = 0


class LogWriter:
    """The thread that applies every write, many requests to a commit.

    While one commit waits for the disk the next group gathers, so that the cost of an fsync is
    shared by all who wait for it.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        loop: asyncio.AbstractEventLoop,
        settled: Callable[[Settled], None],
    ) -> None:
        """`settled` is called on `loop` after each commit, before the next group's."""
        self.opened: asyncio.Future[None] = loop.create_future()
        self.stopped: asyncio.Future[None] = loop.create_future()
        self._connect = connect
        self._loop = loop
        self._settled = settled
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._ids: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._data_version = -1
        self._thread = threading.Thread(target=self._run, name="local-log-writer", daemon=True)

    def start(self) -> None:
        """Start the thread; `opened` then tells that the file is ready, or why it is not."""
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request; requests are applied in the order of their submission."""
        self._requests.put(request)

    def stop(self) -> None:
        """Ask the thread to finish what is queued and close the file; `stopped` tells when."""
        self._requests.put(None)

    def _run(self) -> None:
        try:
            connection = self._connect()
        except Exception as error:
            self._tell(_fail, self.opened, as_kafka_error(error))
            return
        self._tell(self.opened.set_result, None)
        group: list[Request] = []
        while self._gather(group):
            try:
                outcome = self._commit(connection, group)
            except Exception as error:
                outcome = Settled(group, error=error)
            self._tell(self._settled, outcome)
            group = []
        # Leaves one file behind instead of two; whoever opens the log next could do it as well.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        self._tell(self.stopped.set_result, None)

    def _gather(self, group: list[Request]) -> bool:
        request = self._requests.get()
        with contextlib.suppress(queue.Empty):
            while request is not None:
                group.append(request)
                if len(group) == _MAX_GROUP:
                    return True
                request = self._requests.get_nowait()
        if request is None and group:
            self._requests.put(None)
        return bool(group)

    def _tell(self, callback: Callable[..., object], *arguments: object) -> None:
        # A loop that was closed without closing the log has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _commit(self, connection: sqlite3.Connection, group: Sequence[Request]) -> Settled:
        connection.execute("BEGIN IMMEDIATE")
        try:
            outcome = self._apply(connection, group)
            appends = any(isinstance(request, Append) for request in group)
            offsets = any(isinstance(request, CommitOffsets) for request in group)
            if appends:
                failpoint("log.before_append")
            if offsets:
                failpoint("log.before_offsets")
            connection.execute("COMMIT")
        except BaseException:
            self._data_version = -1
            # SQLite has rolled back by itself after some errors, a full disk among them.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if appends:
            failpoint("log.after_append")
        if offsets:
            failpoint("log.after_offsets")
        return outcome

    def _apply(self, connection: sqlite3.Connection, group: Sequence[Request]) -> Settled:
        others_wrote = self._reload_if_others_wrote(connection)
        answers: list[int] = []
        rows: list[object] = []
        ends: dict[TopicPartition, int] = {}
        for request in group:
            answer = 0
            match request:
                case Append(partition, records):
                    number = self._ids[partition]
                    answer = end = ends.get(partition) or self._ends.get(partition, 0)
                    for record, headers in records:
                        rows += (
                            number,
                            end,
                            record.timestamp_ms,
                            record.key,
                            record.value,
                            headers,
                        )
                        end += 1
                    ends[partition] = end
                case CommitOffsets(name, offsets):
                    connection.executemany(
                        "INSERT INTO committed VALUES (?, ?, ?)"
                        " ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset",
                        [(name, self._ids[tp], offset) for tp, offset in offsets.items()],
                    )
                case CreateTopics(topics):
                    connection.executemany(
                        "INSERT OR IGNORE INTO partition (topic, number) VALUES (?, ?)",
                        [(name, n) for name, count in topics.items() for n in range(count)],
                    )
                    self._load_ids(connection)
            answers.append(answer)
        last_position = _insert(connection, rows)
        self._ends.update(ends)
        # Our own positions hide what another process appended before them, so that is told here.
        news = dict(self._ends) if others_wrote else ends
        return Settled(group, answers, ends=news, last_position=last_position)

    def _reload_if_others_wrote(self, connection: sqlite3.Connection) -> bool:
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version == self._data_version:
            return False
        self._load_ids(connection)
        for partition, number in self._ids.items():
            (last,) = connection.execute(
                "SELECT MAX(offset) FROM record WHERE partition = ?", (number,)
            ).fetchone()
            self._ends[partition] = 0 if last is None else last + 1
        self._data_version = version
        return True

    def _load_ids(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT topic, number, id FROM partition").fetchall()
        self._ids = {TopicPartition(topic, number): key for topic, number, key in rows}


def _insert(connection: sqlite3.Connection, rows: Sequence[object]) -> int:
    # Each SQLite step gives up the interpreter lock and must win it back from a busy event loop,
    # so many rows go into one statement; powers of two keep the number of statements small.
    last_position = start = 0
    remaining = len(rows) // 6
    while remaining:
        count = min(512, 1 << (remaining.bit_length() - 1))
        stop = start + 6 * count
        last_position = connection.execute(_insert_rows(count), rows[start:stop]).lastrowid or 0
        start = stop
        remaining -= count
    return last_position


@functools.cache
def _insert_rows(count: int) -> str:
    return _INSERT + ",".join(["(?,?,?,?,?,?)"] * count)


def _fail(future: "asyncio.Future[None]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def as_kafka_error(error: Exception) -> KafkaError:
    """Return a fresh error for one waiter: what Kafka would raise when its broker is lost."""
    if isinstance(error, KafkaConfigurationError):
        return error
    wrapped = KafkaConnectionError(f"the local log refused the write: {error}")
    wrapped.__cause__ = error
    return wrapped
