"""A durable, partitioned, append-only log in one file: what Kafka is to a cluster."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from aiokafka import TopicPartition
from aiokafka.errors import (
    IllegalStateError,
    InvalidPartitionsError,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    UnknownTopicOrPartitionError,
)
from aiokafka.partitioner import DefaultPartitioner

from shared.messaging.local_groups import ConsumerGroup
from shared.messaging.local_storage import (
    POLL_SECONDS,
    LogReader,
    NewRecord,
    StoredRecord,
    connect_writer,
    pack_headers,
)
from shared.messaging.local_writer import (
    Append,
    CommitOffsets,
    CreateTopics,
    LogWriter,
    Request,
    Settled,
    as_kafka_error,
)

_log = logging.getLogger(__name__)

_partitioner = cast(
    "Callable[[bytes, Sequence[int], Sequence[int]], int]",
    DefaultPartitioner(),
)


class Watcher(Protocol):
    """A consumer that waits for the log to grow."""

    def records_arrived(self, partitions: Iterable[TopicPartition]) -> None:
        """There is more to read in these partitions."""

    def topics_changed(self) -> None:
        """There are more topics."""


@dataclass
class LogStats:
    """What the log has written since it was opened."""

    records: int = 0
    requests: int = 0
    commits: int = 0


class LocalLog:
    """Topics, records and committed offsets in one SQLite file, for one event loop.

    Writes go through one thread that shares each fsync among all who wait; a write that is
    answered survives a power cut. Reads are short queries on the loop's thread. One process runs
    consumers (their groups are coordinated in memory); other processes may read with `reader`,
    and append with a LocalLog of their own.
    """

    def __init__(self, path: Path, *, max_record_bytes: int = 1024 * 1024) -> None:
        self.stats = LogStats()
        self.max_record_bytes = max_record_bytes
        self._path = path
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: LogWriter | None = None
        self._reader: LogReader | None = None
        self._poll: asyncio.TimerHandle | None = None
        self._topics: dict[str, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._last_position = 0
        self._groups: dict[str, ConsumerGroup] = {}
        self._watchers: set[Watcher] = set()

    @staticmethod
    def reader(path: Path) -> LogReader:
        """Open the file for reading only, from any process, while the log is in use or not."""
        return LogReader(path)

    async def open(self) -> None:
        """Open the file and create its schema where it is missing.

        Raises KafkaConnectionError when the file cannot be opened, KafkaConfigurationError when a
        newer program wrote it.
        """
        self._loop = asyncio.get_running_loop()
        writer = LogWriter(self._connect, self._loop, self._settle)
        writer.start()
        await writer.opened
        try:
            self._reader = LogReader(self._path)
            self._refresh()
        except BaseException:
            writer.stop()
            raise
        self._writer = writer
        self._poll = self._loop.call_later(POLL_SECONDS, self._poll_file)

    async def close(self) -> None:
        """Finish every queued write and close the file; idempotent."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        writer.stop()
        await writer.stopped
        if self._poll is not None:
            self._poll.cancel()
        self.reads.close()
        self._reader = None

    def _connect(self) -> sqlite3.Connection:
        return connect_writer(self._path)

    @property
    def reads(self) -> LogReader:
        """The reader of the loop's thread. Raises KafkaConnectionError on a closed log."""
        if self._reader is None:
            msg = "the local log is not open"
            raise KafkaConnectionError(msg)
        return self._reader

    @property
    def topics(self) -> Mapping[str, int]:
        """Every topic with its number of partitions."""
        return self._topics

    async def create_topics(self, topics: Mapping[str, int]) -> None:
        """Create what does not exist; returns when the topics are durable.

        Raises InvalidPartitionsError when a topic exists with another number of partitions: more
        of them would send the keys elsewhere and break their order.
        """
        for name, partitions in topics.items():
            if partitions < 1 or self._topics.get(name, partitions) != partitions:
                msg = f"{name} has {self._topics.get(name)} partitions, not {partitions}"
                raise InvalidPartitionsError(msg)
        await self._submit(CreateTopics(topics, self._future()))
        self._refresh()

    def append(
        self,
        topic: str,
        partition: int,
        records: Sequence[NewRecord],
        max_record_bytes: int | None = None,
    ) -> "asyncio.Future[int]":
        """Append records next to each other; the future gives the first one's offset.

        The future is done when the records are durable and visible to consumers. Appends of one
        loop keep their order. Raises UnknownTopicOrPartitionError, and MessageSizeTooLargeError for
        a record over the log's limit or the producer's own; the future raises KafkaConnectionError
        when the file cannot take the records.
        """
        self._require(topic, partition)
        limit = min(self.max_record_bytes, max_record_bytes or self.max_record_bytes)
        packed = [(record, pack_headers(record.headers)) for record in records]
        for record, headers in packed:
            size = len(record.key or b"") + len(record.value or b"") + len(headers)
            if size > limit:
                msg = f"the record has {size} bytes; the most is {limit}"
                raise MessageSizeTooLargeError(msg)
        return self._submit(Append(TopicPartition(topic, partition), packed, self._future()))

    def partition_of(self, topic: str, key: bytes) -> int:
        """Return the partition of a key: the one that Kafka's clients choose (murmur2)."""
        partitions = range(self.partition_count(topic))
        return _partitioner(key, partitions, partitions)

    def partition_count(self, topic: str) -> int:
        """Return a topic's number of partitions. Raises UnknownTopicOrPartitionError."""
        self._require(topic, 0)
        return self._topics[topic]

    def read(
        self, topic: str, partition: int, offset: int, limit: int, max_bytes: int | None = None
    ) -> list[StoredRecord]:
        """Return up to `limit` records of a partition from `offset` on; see LogReader.read."""
        return self.reads.read(topic, partition, offset, limit, max_bytes)

    def end_offset(self, partition: TopicPartition) -> int:
        """Return the offset that the partition's next record will get, as this loop knows it."""
        return self._ends.get(partition, 0)

    def commit_offsets(
        self, group: str, offsets: Mapping[TopicPartition, int]
    ) -> "asyncio.Future[int]":
        """Store a group's next offsets; the future is done when they are durable."""
        for partition in offsets:
            self._require(*partition)
        return self._submit(CommitOffsets(group, offsets, self._future()))

    async def check(self) -> None:
        """Prove that the writer works and the file can be locked; writes nothing.

        Raises KafkaConnectionError otherwise.
        """
        await self._submit(CreateTopics({}, self._future()))

    def group(self, name: str) -> ConsumerGroup:
        """Return the consumer group of that name; a group exists as soon as it is named."""
        if name not in self._groups:
            self._groups[name] = ConsumerGroup(name, self.topics)
        return self._groups[name]

    def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` of new records and topics from now on."""
        self._watchers.add(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Tell `watcher` nothing more."""
        self._watchers.discard(watcher)

    def _require(self, topic: str, partition: int) -> None:
        if not 0 <= partition < self._topics.get(topic, 0):
            raise UnknownTopicOrPartitionError(f"{topic}[{partition}]")

    def _future(self) -> "asyncio.Future[int]":
        if self._loop is None:
            msg = "the local log is not open"
            raise IllegalStateError(msg)
        return self._loop.create_future()

    def _submit(self, request: Request) -> "asyncio.Future[int]":
        if self._writer is None:
            msg = "the local log is closed"
            raise KafkaConnectionError(msg)
        self._writer.submit(request)
        return request.done

    def _settle(self, outcome: Settled) -> None:
        if outcome.error is not None:
            _log.error("The local log refused %d writes: %s", len(outcome.requests), outcome.error)
            for request in outcome.requests:
                if not request.done.done():
                    request.done.set_exception(as_kafka_error(outcome.error))
            return
        self.stats.commits += 1
        self.stats.requests += len(outcome.requests)
        for request, answer in zip(outcome.requests, outcome.answers, strict=True):
            if isinstance(request, Append):
                self.stats.records += len(request.records)
            if not request.done.done():
                request.done.set_result(answer)
        if outcome.ends:
            self._ends.update(outcome.ends)
            self._last_position = max(self._last_position, outcome.last_position)
            self._wake(outcome.ends)

    def _wake(self, partitions: Iterable[TopicPartition]) -> None:
        for watcher in self._watchers:
            watcher.records_arrived(partitions)

    def _refresh(self) -> None:
        topics = self.reads.topics()
        if topics != self._topics:
            self._topics.update(topics)
            for watcher in tuple(self._watchers):
                watcher.topics_changed()
        last_position = self.reads.last_position()
        if last_position > self._last_position:
            self._last_position = last_position
            for topic, count in self._topics.items():
                for number in range(count):
                    partition = TopicPartition(topic, number)
                    self._ends[partition] = self.reads.end_offset(partition)
            self._wake(self._ends.keys())

    def _poll_file(self) -> None:
        if self._writer is None or self._loop is None:
            return
        try:
            self._refresh()
        except KafkaError as error:
            _log.warning("Looking for records of other processes failed: %s", error)
        self._poll = self._loop.call_later(POLL_SECONDS, self._poll_file)
