"""Reading every event off Kafka: each partition in its order, all of them by time."""

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from aiokafka import ConsumerRecord, TopicPartition

from deploy.cloud_events import cloud_event, events_file
from deploy.cluster.reader import reader
from deploy.cluster.settings import KafkaSettings
from deploy.cluster.topics import TopicsAdmin
from shared import cancellation
from shared.events.topics import TOPICS
from shared.messaging.dead_letters import RawRecord

_Record = ConsumerRecord[bytes | None, bytes | None]


async def read_records(settings: KafkaSettings) -> AsyncIterator[_Record]:
    """Yield every record that the contract's topics hold now, holding few of them at a time.

    Kafka keeps no order between partitions: records are merged by the time at which their events
    were emitted, never changing a partition's own order. The time of publication would not do: a
    relay sends one event a key at a time, so a key with many falls behind. Raises KafkaError, and
    TopicsError where a topic is not there.
    """
    async with TopicsAdmin(settings) as admin:
        partitions = await admin.every_partition(TOPICS)
    async with reader(settings, partitions, client_id="upward-export") as consumer:
        await consumer.seek_to_beginning(*partitions)
        async for record in merged(consumer, await consumer.end_offsets(partitions)):
            yield record


class Partitions(Protocol):
    """What is asked of the consumer."""

    async def position(self, partition: TopicPartition) -> int:
        """Return the offset that is read next."""
        ...

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int
    ) -> dict[TopicPartition, list[_Record]]:
        """Return the next records of these partitions, none if none come in time."""
        ...


async def merged(
    consumer: Partitions, ends: Mapping[TopicPartition, int]
) -> AsyncIterator[_Record]:
    """Yield the records before each partition's end by the time at which they were emitted.

    No partition's own order changes, and of each only what one fetch brought is held.
    """
    readers = [_monotone(_read(consumer, place, end)) for place, end in ends.items()]
    heads: list[tuple[bytes, int, _Record]] = []

    async def advance(number: int) -> None:
        async for order, record in readers[number]:
            heapq.heappush(heads, (order, number, record))
            return

    for number in range(len(readers)):
        await advance(number)
    while heads:
        _, number, record = heapq.heappop(heads)
        yield record
        await advance(number)


async def _read(
    consumer: Partitions, partition: TopicPartition, end: int
) -> AsyncIterator[_Record]:
    while await consumer.position(partition) < end:
        taken = await consumer.getmany(partition, timeout_ms=1000)
        for record in taken.get(partition, ()):
            if record.offset < end:
                yield record


async def _monotone(records: AsyncIterator[_Record]) -> AsyncIterator[tuple[bytes, _Record]]:
    """Pair each record with its event's id, or that of a later event that came before it.

    An id is a version 7 UUID and begins with the time at which it was made (RFC 9562).
    """
    latest = b""
    async for record in records:
        latest = max(latest, dict(record.headers).get("ce_id") or b"")
        yield latest, record


async def read_events(settings: KafkaSettings) -> AsyncIterator[dict[str, Any]]:
    """Yield every event as CloudEvents JSON. Raises KafkaError."""
    async for record in read_records(settings):
        event = _event(record)
        if event is not None:
            yield event


async def follow_events(settings: KafkaSettings) -> AsyncGenerator[dict[str, Any], None]:
    """Yield every event that comes from now on as CloudEvents JSON; never ends.

    Each partition in its order. Raises KafkaError, and TopicsError where a topic is not there.
    """
    async with TopicsAdmin(settings) as admin:
        partitions = await admin.every_partition(TOPICS)
    async with reader(settings, partitions, client_id="upward-tail", lost="latest") as consumer:
        await consumer.seek_to_end(*partitions)
        while True:
            taken = await consumer.getmany(timeout_ms=1000)
            # The client may lose a cancellation that meets its own time-out.
            if cancellation.ordered():
                raise asyncio.CancelledError
            for record in chain.from_iterable(taken.values()):
                event = _event(record)
                if event is not None:
                    yield event


def _event(record: _Record) -> dict[str, Any] | None:
    return cloud_event(
        RawRecord(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            headers=tuple(record.headers),
        )
    )


async def export_events(settings: KafkaSettings, target: Path) -> int:
    """Write every event as one JSON line; return how many. The file appears whole or not at all."""
    count = 0
    with events_file(target) as write:
        async for event in read_events(settings):
            write(event)
            count += 1
    return count
