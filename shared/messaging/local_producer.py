"""A producer of the local log, with the meaning that aiokafka's has on Kafka."""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

from aiokafka import TopicPartition
from aiokafka.errors import (
    IllegalOperation,
    ProducerClosed,
    UnknownTopicOrPartitionError,
)
from aiokafka.structs import RecordMetadata

from shared.messaging.local_log import LocalLog
from shared.messaging.local_options import CONNECTION_OPTIONS, refuse_unknown_options
from shared.messaging.local_storage import NewRecord

Serializer = Callable[[object], bytes]

IGNORED_PRODUCER_OPTIONS = CONNECTION_OPTIONS | {
    # Every append is durable, in order and written once, whatever these ask for.
    "acks",
    "client_id",
    "compression_type",
    "enable_idempotence",
    "linger_ms",
    "partitioner",
    "transaction_timeout_ms",
}
"""Options of AIOKafkaProducer that a LocalProducer accepts and that change nothing."""


class BatchedRecord(NamedTuple):
    """What `LocalBatch.append` answers: the record's place in its batch, not in the log."""

    offset: int
    size: int
    timestamp: int


class LocalBatch:
    """Stands in for aiokafka's BatchBuilder: records that go to one partition together."""

    def __init__(
        self, max_bytes: int, serialize: Callable[[object, object], tuple[bytes | None, ...]]
    ) -> None:
        self.records: list[NewRecord] = []
        self._max_bytes = max_bytes
        self._serialize = serialize
        self._size = 0
        self._closed = False

    def append(
        self,
        *,
        timestamp: int | None,
        key: object,
        value: object,
        headers: Sequence[tuple[str, bytes | None]] = (),
    ) -> BatchedRecord | None:
        """Add a record; None when the batch is full or closed, which closes it.

        `timestamp` is in milliseconds, now if None. The first record always fits.
        """
        if self._closed:
            return None
        key_bytes, value_bytes = self._serialize(key, value)
        record = _new_record(key_bytes, value_bytes, headers, timestamp)
        size = _size_of(record)
        if self.records and self._size + size > self._max_bytes:
            self._closed = True
            return None
        self._size += size
        self.records.append(record)
        return BatchedRecord(len(self.records) - 1, size, record.timestamp_ms)

    def close(self) -> None:
        """Take no more records."""
        self._closed = True

    def closed(self) -> bool:
        """Return whether the batch takes no more records."""
        return self._closed

    def size(self) -> int:
        """Return the size of the batch in bytes."""
        return self._size

    def record_count(self) -> int:
        """Return the number of records in the batch."""
        return len(self.records)


class LocalProducer:
    """Stands in for AIOKafkaProducer on a LocalLog; the same calls have the same meaning.

    What is acknowledged is durable, whatever `acks` says. Ignores IGNORED_PRODUCER_OPTIONS,
    refuses any other option that it does not know with TypeError, and transactions with
    IllegalOperation.
    """

    def __init__(
        self,
        log: LocalLog,
        *,
        key_serializer: Serializer | None = None,
        value_serializer: Serializer | None = None,
        max_batch_size: int = 16 * 1024,
        max_request_size: int = 1024 * 1024,
        transactional_id: str | None = None,
        **ignored: object,
    ) -> None:
        refuse_unknown_options(ignored, IGNORED_PRODUCER_OPTIONS, "LocalProducer")
        if transactional_id is not None:
            msg = "the local log has no transactions"
            raise IllegalOperation(msg)
        self._log = log
        self._key_serializer = key_serializer
        self._value_serializer = value_serializer
        self._max_batch_size = max_batch_size
        self._max_request_size = max_request_size
        self._turns: defaultdict[str, itertools.count[int]] = defaultdict(itertools.count)
        self._waiting: set[asyncio.Future[RecordMetadata]] = set()
        self._closed = False

    async def start(self) -> None:
        """Raise KafkaConnectionError unless the log can be written."""
        await self._log.check()

    async def stop(self) -> None:
        """Wait for everything that was sent; idempotent."""
        self._closed = True
        await self.flush()

    async def flush(self) -> None:
        """Wait until everything that was sent is durable or has failed."""
        while self._waiting:
            await asyncio.wait(self._waiting)

    async def partitions_for(self, topic: str) -> set[int]:
        """Return a topic's partition numbers. Raises UnknownTopicOrPartitionError."""
        return set(range(self._log.partition_count(topic)))

    async def send(
        self,
        topic: str,
        value: object = None,
        key: object = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
    ) -> "asyncio.Future[RecordMetadata]":
        """Queue a record and return the future of its acknowledgement.

        Records of one key keep the order of the calls. `timestamp_ms` is now if None. Raises
        UnknownTopicOrPartitionError, MessageSizeTooLargeError and ProducerClosed here, whatever
        the disk refuses (KafkaConnectionError) in the future.
        """
        if key is None and value is None:
            msg = "Need at least one: key or value"
            raise AssertionError(msg)
        key_bytes, value_bytes = self._serialize(key, value)
        record = _new_record(key_bytes, value_bytes, headers or (), timestamp_ms)
        return self._append(topic, self._partition(topic, partition, key_bytes), [record])

    async def send_and_wait(
        self,
        topic: str,
        value: object = None,
        key: object = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
    ) -> RecordMetadata:
        """Send a record and wait until it is durable; see `send`."""
        return await (await self.send(topic, value, key, partition, timestamp_ms, headers))

    def create_batch(self) -> LocalBatch:
        """Return an empty batch of at most `max_batch_size` bytes."""
        return LocalBatch(self._max_batch_size, self._serialize)

    async def send_batch(
        self, batch: LocalBatch, topic: str, *, partition: int | None
    ) -> "asyncio.Future[RecordMetadata]":
        """Queue a batch for one partition; as on Kafka its records' keys do not choose it.

        The future gives the first record's place. Raises what `send` raises.
        """
        batch.close()
        return self._append(topic, self._partition(topic, partition, None), batch.records)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _append(
        self, topic: str, partition: int, records: Sequence[NewRecord]
    ) -> "asyncio.Future[RecordMetadata]":
        if self._closed:
            raise ProducerClosed
        appended = self._log.append(topic, partition, records, self._max_request_size)
        acknowledged: asyncio.Future[RecordMetadata] = appended.get_loop().create_future()

        def acknowledge(done: "asyncio.Future[int]") -> None:
            self._waiting.discard(acknowledged)
            if acknowledged.done():
                return
            if (error := done.exception()) is not None:
                acknowledged.set_exception(error)
                return
            acknowledged.set_result(
                RecordMetadata(
                    topic=topic,
                    partition=partition,
                    topic_partition=TopicPartition(topic, partition),
                    offset=done.result(),
                    timestamp=records[0].timestamp_ms if records else None,
                    timestamp_type=0,
                    log_start_offset=0,
                )
            )

        self._waiting.add(acknowledged)
        appended.add_done_callback(acknowledge)
        return acknowledged

    def _partition(self, topic: str, partition: int | None, key: bytes | None) -> int:
        count = self._log.partition_count(topic)
        if partition is not None:
            if not 0 <= partition < count:
                raise UnknownTopicOrPartitionError(f"{topic}[{partition}]")
            return partition
        if key is not None:
            return self._log.partition_of(topic, key)
        return next(self._turns[topic]) % count

    def _serialize(self, key: object, value: object) -> tuple[bytes | None, bytes | None]:
        return (
            _as_bytes(self._key_serializer(key) if self._key_serializer else key),
            _as_bytes(self._value_serializer(value) if self._value_serializer else value),
        )


def _as_bytes(data: object) -> bytes | None:
    if data is None or isinstance(data, bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    msg = f"a key or value must be bytes, not {type(data).__name__}"
    raise TypeError(msg)


def _new_record(
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    timestamp_ms: int | None,
) -> NewRecord:
    now = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
    return NewRecord(key, value, tuple(headers), now)


def _size_of(record: NewRecord) -> int:
    return (
        len(record.key or b"")
        + len(record.value or b"")
        + sum(len(name) + len(content or b"") for name, content in record.headers)
    )
