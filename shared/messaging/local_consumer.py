"""A consumer of the local log, with the meaning that aiokafka's has on Kafka."""

import asyncio
import inspect
import logging
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal, Self, cast

from aiokafka import ConsumerRebalanceListener, ConsumerRecord, OffsetAndMetadata, TopicPartition
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalOperation,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.util import commit_structure_validate

from shared.messaging.local_groups import new_member_id
from shared.messaging.local_log import LocalLog
from shared.messaging.local_options import CONNECTION_OPTIONS, refuse_unknown_options
from shared.messaging.local_storage import StoredRecord

_log = logging.getLogger(__name__)

# The deserializers decide what keys and values are.
Record = ConsumerRecord[Any, Any]
Deserializer = Callable[[bytes], object]

IGNORED_CONSUMER_OPTIONS = CONNECTION_OPTIONS | {
    # One file, one process: no network to tune, no heartbeat to miss, no transaction to wait for.
    "check_crcs",
    "client_rack",
    "consumer_timeout_ms",
    "exclude_internal_topics",
    "fetch_max_bytes",
    "fetch_max_wait_ms",
    "fetch_min_bytes",
    "group_instance_id",
    "heartbeat_interval_ms",
    "isolation_level",
    "max_poll_interval_ms",
}
"""Options of AIOKafkaConsumer that a LocalConsumer accepts and that change nothing."""

# Without `max_records` a poll takes at most this many records of each partition.
_POLL_RECORDS = 500
# `getone` reads this far ahead, so that a record costs a fraction of a query.
_READ_AHEAD = 50


class _Reading:
    """How far a consumer has read one partition. `ahead` holds what follows `position`."""

    __slots__ = ("ahead", "paused", "position")

    def __init__(self, position: int | None) -> None:
        self.position = position
        self.paused = False
        self.ahead: deque[StoredRecord] = deque()

    def move(self, position: int | None) -> None:
        self.position = position
        self.ahead.clear()


class LocalConsumer:
    """Stands in for AIOKafkaConsumer on a LocalLog; the same calls have the same meaning.

    Belongs to the log's loop and to one task at a time. Ignores IGNORED_CONSUMER_OPTIONS, refuses
    any other option that it does not know with TypeError.
    """

    def __init__(
        self,
        log: LocalLog,
        *topics: str,
        group_id: str | None = None,
        client_id: str | None = "upward",
        key_deserializer: Deserializer | None = None,
        value_deserializer: Deserializer | None = None,
        auto_offset_reset: Literal["earliest", "latest", "none"] = "latest",
        enable_auto_commit: bool = True,
        auto_commit_interval_ms: int = 5000,
        max_poll_records: int | None = None,
        max_partition_fetch_bytes: int = 1024 * 1024,
        partition_assignment_strategy: Sequence[type[AbstractPartitionAssignor]] = (
            RoundRobinPartitionAssignor,
        ),
        session_timeout_ms: int = 10_000,
        rebalance_timeout_ms: int | None = None,
        **ignored: object,
    ) -> None:
        refuse_unknown_options(ignored, IGNORED_CONSUMER_OPTIONS, "LocalConsumer")
        self.member_id = new_member_id(client_id or "upward")
        self.strategy = partition_assignment_strategy[0]
        self.rebalance_timeout = (rebalance_timeout_ms or session_timeout_ms) / 1000
        self._local_log = log
        self._group_id = group_id
        self._group = None if group_id is None else log.group(group_id)
        self._key_deserializer = key_deserializer
        self._value_deserializer = value_deserializer
        self._reset = auto_offset_reset
        self._auto_commit_seconds = auto_commit_interval_ms / 1000 if enable_auto_commit else None
        self._max_poll_records = max_poll_records
        self._max_fetch_bytes = max_partition_fetch_bytes
        self._listener: ConsumerRebalanceListener | None = None
        self._wanted_topics: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        self._manual: frozenset[TopicPartition] = frozenset()
        self._readings: dict[TopicPartition, _Reading] = {}
        self._turn: deque[TopicPartition] = deque()
        self._rebalancing = False
        self._started = False
        self._closed = False
        self._assigned = asyncio.Event()
        self._wake = asyncio.Event()
        self._callbacks = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        if topics:
            self.subscribe(topics)

    # What FastStream's rebalance listener logs of an AIOKafkaConsumer.

    @property
    def _coordinator(self) -> Self:
        return self

    @property
    def _subscription(self) -> SimpleNamespace:
        return SimpleNamespace(topics=self.subscription())

    async def start(self) -> None:
        """Join the group, if there is one, and wait for the first share of partitions.

        Raises UnknownTopicOrPartitionError for a topic that does not exist: none is auto-created.
        """
        if self._started:
            msg = "the consumer was started before"
            raise IllegalStateError(msg)
        self._require_topics(self._wanted_topics)
        self._require_topics({partition.topic for partition in self._manual})
        self._started = True
        self._local_log.watch(self)
        if self._manual:
            self._read(self._manual)
        elif self._subscribed:
            await self._begin_subscription()
        if self._auto_commit_seconds is not None and self._group is not None:
            self._spawn(self._commit_regularly(self._auto_commit_seconds))

    async def stop(self) -> None:
        """Commit the position if commits are automatic, leave the group; idempotent.

        A waiting `getone` raises ConsumerStoppedError, a waiting `getmany` returns nothing.
        """
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        self._assigned.set()
        for task in self._tasks:
            task.cancel()
        await self._commit_automatically()
        if self._group is not None:
            self._group.leave(self)
        self._local_log.unwatch(self)

    def subscribe(
        self,
        topics: Iterable[str] = (),
        pattern: str | None = None,
        listener: ConsumerRebalanceListener | None = None,
    ) -> None:
        """Read all partitions of topics, or of topics whose name begins with a pattern's match.

        In a group the partitions are shared among its members; the listener is told before they
        are given up and after they are got. Raises TypeError unless exactly one of `topics` and
        `pattern` is given, IllegalStateError after `assign`.
        """
        wanted = frozenset(topics)
        if bool(wanted) == bool(pattern):
            msg = "give either topics or a pattern"
            raise TypeError(msg)
        if listener is not None and not isinstance(listener, ConsumerRebalanceListener):
            msg = "the listener must be a ConsumerRebalanceListener"
            raise TypeError(msg)
        if self._manual:
            msg = "partitions were assigned by hand"
            raise IllegalStateError(msg)
        if self._started:
            self._require_topics(wanted)
        self._wanted_topics = wanted
        self._pattern = re.compile(pattern) if pattern else None
        self._listener = listener
        if self._started:
            self._rebalancing = self._group is not None
            self._spawn(self._begin_subscription())

    def unsubscribe(self) -> None:
        """Give up topics, pattern and partitions, and leave the group."""
        self._wanted_topics = frozenset()
        self._manual = frozenset()
        self._pattern = self._listener = None
        self._read(())
        if self._group is not None:
            self._group.leave(self)

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions, outside any group's sharing.

        Raises IllegalStateError after `subscribe`, UnknownTopicOrPartitionError once started.
        """
        if self._subscribed:
            msg = "topics are subscribed; partitions cannot be assigned by hand"
            raise IllegalStateError(msg)
        self._manual = frozenset(partitions)
        if self._started:
            self._require_topics({partition.topic for partition in self._manual})
            self._read(self._manual)

    def assignment(self) -> set[TopicPartition]:
        """Return the partitions that this consumer reads now."""
        return set(self._readings) if self._started else set(self._manual)

    def subscription(self) -> frozenset[str]:
        """Return the topics that this consumer wants, those of its pattern included."""
        return frozenset(self.subscribed_topics())

    async def topics(self) -> set[str]:
        """Return the name of every topic."""
        return set(self._local_log.topics)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """Return the partition numbers of a topic, None for an unknown one."""
        count = self._local_log.topics.get(topic)
        return None if count is None else set(range(count))

    async def getone(self, *partitions: TopicPartition) -> Record:
        """Wait for a record and return it. Raises ConsumerStoppedError when stopped."""
        while True:
            taken = await self._poll(partitions, 1, timeout=None, read_ahead=_READ_AHEAD)
            for records in taken.values():
                return records[0]
            if self._closed:
                raise ConsumerStoppedError

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[Record]]:
        """Return what is there, at once; wait up to `timeout_ms` when nothing is.

        Partitions take turns at being first, so that a full one cannot starve the others.
        Raises ConsumerStoppedError on a stopped consumer, NoOffsetForPartitionError and
        OffsetOutOfRangeError where `auto_offset_reset` is none.
        """
        if max_records is not None and max_records < 1:
            msg = "max_records must be positive"
            raise ValueError(msg)
        limit = max_records or self._max_poll_records
        return await self._poll(partitions, limit, timeout=timeout_ms / 1000)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        try:
            return await self.getone()
        except ConsumerStoppedError:
            raise StopAsyncIteration from None

    async def commit(
        self,
        offsets: Mapping[TopicPartition, int | tuple[int, str] | OffsetAndMetadata] | None = None,
    ) -> None:
        """Store the positions of all partitions, or the given next offsets; durable on return.

        Raises IllegalOperation without a group, IllegalStateError for a partition that is not
        assigned, CommitFailedError when the group has given the partitions to others. The metadata
        of an OffsetAndMetadata is not kept.
        """
        if self._group is None or self._group_id is None:
            msg = "Requires group_id"
            raise IllegalOperation(msg)
        if not self._manual and not self._subscribed:
            msg = "Not subscribed to any topics"
            raise IllegalStateError(msg)
        wanted = self._positions() if offsets is None else _next_offsets(offsets)
        for partition in wanted:
            self._reading(partition)
        # An outsider may move a group's offsets only while nobody depends on them.
        if not (self._group.empty if self._manual else self in self._group):
            raise CommitFailedError
        if wanted:
            # The write happens even if the caller is cancelled while it waits.
            await asyncio.shield(self._local_log.commit_offsets(self._group_id, wanted))

    async def committed(self, partition: TopicPartition) -> int | None:
        """Return the group's next offset, None without a commit. Raises IllegalOperation."""
        if self._group_id is None:
            msg = "Requires group_id"
            raise IllegalOperation(msg)
        return self._local_log.reads.committed(self._group_id, partition)

    async def position(self, partition: TopicPartition) -> int:
        """Return the offset that is read next. Raises IllegalStateError if not assigned."""
        reading = self._reading(partition)
        if reading.position is None:
            raise NoOffsetForPartitionError(partition)
        return reading.position

    def highwater(self, partition: TopicPartition) -> int:
        """Return the offset that the partition's next record will get."""
        self._reading(partition)
        return self._local_log.end_offset(partition)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read from `offset` next. Raises ValueError and IllegalStateError as aiokafka does."""
        if offset < 0:
            msg = "Offset must be a positive integer"
            raise ValueError(msg)
        self._reading(partition).move(offset)
        self._wake.set()

    async def seek_to_beginning(self, *partitions: TopicPartition) -> bool:
        """Read these partitions, or all, from their oldest record. Raises IllegalStateError."""
        for partition in partitions or tuple(self._readings):
            self.seek(partition, self._local_log.reads.beginning_offset(partition))
        return True

    async def seek_to_end(self, *partitions: TopicPartition) -> bool:
        """Read only what these partitions, or all, get from now on. Raises IllegalStateError."""
        for partition in partitions or tuple(self._readings):
            self.seek(partition, self._local_log.reads.end_offset(partition))
        return True

    async def beginning_offsets(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the offset of each partition's oldest record."""
        return {tp: self._local_log.reads.beginning_offset(tp) for tp in partitions}

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offset that each partition's next record will get."""
        return {tp: self._local_log.reads.end_offset(tp) for tp in partitions}

    def pause(self, *partitions: TopicPartition) -> None:
        """Return no records of these partitions until `resume`. Raises IllegalStateError."""
        for partition in partitions:
            self._reading(partition).paused = True

    def paused(self) -> set[TopicPartition]:
        """Return the partitions that are paused."""
        return {partition for partition, reading in self._readings.items() if reading.paused}

    def resume(self, *partitions: TopicPartition) -> None:
        """Return records of these partitions again. Raises IllegalStateError."""
        for partition in partitions:
            self._reading(partition).paused = False
        self._wake.set()

    # What the log tells its consumers.

    def records_arrived(self, partitions: Iterable[TopicPartition]) -> None:
        """Wake a waiting poll if one of its partitions grew."""
        if not self._readings.keys().isdisjoint(partitions):
            self._wake.set()

    def topics_changed(self) -> None:
        """Take part in the topics that a pattern matches now and did not before."""
        if self._pattern is None or self._closed:
            return
        if self._group is not None:
            if self in self._group and not self.subscription() <= {
                partition.topic for partition in self._readings
            }:
                self._group.rebalance()
        else:
            self._read(self._all_partitions())

    # What the group tells its members.

    def subscribed_topics(self) -> list[str]:
        """Return the wanted topics that exist."""
        pattern = self._pattern
        if pattern is None:
            return sorted(self._wanted_topics)
        return sorted(topic for topic in self._local_log.topics if pattern.match(topic))

    async def prepare_rebalance(self) -> None:
        """Stop fetching, commit if commits are automatic, tell the listener."""
        self._rebalancing = True
        async with self._callbacks:
            # The listener of the assignment before this one may have just finished.
            self._rebalancing = True
            await self._commit_automatically()
            await self._tell_listener("on_partitions_revoked", frozenset(self._readings))

    def take(self, partitions: frozenset[TopicPartition]) -> None:
        """Read these partitions from their committed offsets, once the listener knows."""
        self._read(())
        self._read(partitions)
        self._spawn(self._resume_after(partitions))

    def expelled(self) -> None:
        """Forget all partitions and join the group again."""
        self._read(())
        if self._group is not None and self._subscribed and not self._closed:
            self._group.join(self)

    @property
    def _subscribed(self) -> bool:
        return bool(self._wanted_topics) or self._pattern is not None

    async def _begin_subscription(self) -> None:
        if self._group is None:
            self._read(self._all_partitions())
            return
        self._rebalancing = True
        self._group.join(self)
        await self._assigned.wait()

    async def _resume_after(self, partitions: frozenset[TopicPartition]) -> None:
        self._assigned.set()
        async with self._callbacks:
            # A listener may seek: nothing is read before it knows.
            await self._tell_listener("on_partitions_assigned", partitions)
            self._rebalancing = False
        self._wake.set()

    async def _tell_listener(
        self,
        event: Literal["on_partitions_revoked", "on_partitions_assigned"],
        partitions: frozenset[TopicPartition],
    ) -> None:
        if self._listener is None:
            return
        try:
            told = getattr(self._listener, event)(set(partitions))
            if inspect.isawaitable(told):
                await told
        except Exception:
            # Kafka's clients go on as well: a listener must not stop the whole group.
            _log.exception("The rebalance listener failed in %s", event)

    def _all_partitions(self) -> list[TopicPartition]:
        counts = self._local_log.topics
        return [TopicPartition(t, n) for t in self.subscribed_topics() for n in range(counts[t])]

    def _read(self, partitions: Collection[TopicPartition]) -> None:
        for partition in self._readings.keys() - partitions:
            del self._readings[partition]
        for partition in sorted(partitions):
            if partition not in self._readings:
                self._readings[partition] = _Reading(self._first_position(partition))
        self._turn = deque(self._readings)
        self._wake.set()

    def _first_position(self, partition: TopicPartition) -> int | None:
        reads = self._local_log.reads
        if self._group_id is not None:
            committed = reads.committed(self._group_id, partition)
            if committed is not None:
                return committed
        if self._reset == "none":
            return None
        edge = reads.end_offset if self._reset == "latest" else reads.beginning_offset
        return edge(partition)

    def _require_topics(self, topics: Iterable[str]) -> None:
        for topic in topics:
            self._local_log.partition_count(topic)

    def _reading(self, partition: TopicPartition) -> _Reading:
        reading = self._readings.get(partition)
        if reading is None:
            msg = f"Partition {partition} is not assigned"
            raise IllegalStateError(msg)
        return reading

    def _positions(self) -> dict[TopicPartition, int]:
        return {
            partition: reading.position
            for partition, reading in self._readings.items()
            if reading.position is not None
        }

    async def _poll(
        self,
        partitions: Collection[TopicPartition],
        limit: int | None,
        timeout: float | None,
        read_ahead: int = 0,
    ) -> dict[TopicPartition, list[Record]]:
        if self._closed:
            raise ConsumerStoppedError
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        # A backlog would otherwise be read without ever letting another task run.
        await asyncio.sleep(0)
        while not self._closed:
            if not self._rebalancing:
                # Nothing is awaited from here to the caller: a cancelled poll has taken nothing.
                taken = self._take_records(partitions, limit, read_ahead)
                if taken:
                    return taken
            self._wake.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._wake.wait()
            except TimeoutError:
                break
        return {}

    def _take_records(
        self, partitions: Collection[TopicPartition], limit: int | None, read_ahead: int
    ) -> dict[TopicPartition, list[Record]]:
        taken: dict[TopicPartition, list[Record]] = {}
        room = limit
        for partition in tuple(self._turn):
            reading = self._readings[partition]
            if reading.paused or (partitions and partition not in partitions):
                continue
            wanted = _POLL_RECORDS if room is None else room
            if not reading.ahead:
                try:
                    self._read_ahead(partition, reading, max(wanted, read_ahead))
                except KafkaError:
                    if taken:
                        break
                    raise
            if not reading.ahead:
                continue
            records = [reading.ahead.popleft() for _ in range(min(wanted, len(reading.ahead)))]
            reading.position = records[-1].offset + 1
            taken[partition] = [self._convert(record) for record in records]
            self._turn.remove(partition)
            self._turn.append(partition)
            if room is not None:
                room -= len(records)
                if room == 0:
                    break
        return taken

    def _read_ahead(self, partition: TopicPartition, reading: _Reading, limit: int) -> None:
        if reading.position is None:
            raise NoOffsetForPartitionError(partition)
        end = self._local_log.end_offset(partition)
        # What another process appended is on disk before this loop has heard of it.
        if reading.position > end and reading.position > self._local_log.reads.end_offset(
            partition
        ):
            if self._reset == "none":
                raise OffsetOutOfRangeError({partition: reading.position})
            reads = self._local_log.reads
            edge = reads.end_offset if self._reset == "latest" else reads.beginning_offset
            _log.warning("Offset %d of %s is out of range: reset", reading.position, partition)
            reading.move(edge(partition))
        if reading.position < end:
            reading.ahead.extend(
                self._local_log.read(*partition, reading.position, limit, self._max_fetch_bytes)
            )

    def _convert(self, record: StoredRecord) -> Record:
        key, value = record.key, record.value
        return ConsumerRecord(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp_ms,
            timestamp_type=0,
            key=key if key is None or not self._key_deserializer else self._key_deserializer(key),
            value=value
            if value is None or not self._value_deserializer
            else self._value_deserializer(value),
            checksum=None,
            serialized_key_size=-1 if key is None else len(key),
            serialized_value_size=-1 if value is None else len(value),
            # aiokafka's type forgets that a header may be null, as Kafka allows.
            headers=cast("tuple[tuple[str, bytes], ...]", record.headers),
        )

    async def _commit_regularly(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            if not self._rebalancing:
                await self._commit_automatically()

    async def _commit_automatically(self) -> None:
        if self._auto_commit_seconds is None or self._group is None or not self._readings:
            return
        try:
            await self.commit()
        except KafkaError as error:
            _log.warning("An automatic commit of %s failed: %s", self._group_id, error)

    def _spawn(self, coroutine: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _next_offsets(
    offsets: Mapping[TopicPartition, int | tuple[int, str] | OffsetAndMetadata],
) -> dict[TopicPartition, int]:
    return {tp: at.offset for tp, at in commit_structure_validate(dict(offsets)).items()}
