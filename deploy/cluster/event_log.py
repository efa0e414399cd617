"""Reading every event off Kafka: each partition in its order, all of them by time."""

import heapq
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from faststream.kafka.security import parse_security

from deploy.cloud_events import cloud_event
from deploy.cluster.settings import KafkaSettings
from deploy.cluster.topics import TopicsAdmin
from shared.events.topics import TOPICS
from shared.messaging.dead_letters import RawRecord

_Record = ConsumerRecord[bytes | None, bytes | None]


async def read_records(settings: KafkaSettings) -> AsyncIterator[_Record]:
    """Yield every record that the contract's topics hold now.

    Kafka keeps no order between partitions: records are merged by the time at which their events
    were emitted, never changing a partition's own order. The time of publication would not do: a
    relay sends one event a key at a time, so a key with many falls behind. Raises KafkaError.
    """
    async with TopicsAdmin(settings) as admin:
        partitions = [
            TopicPartition(name, number)
            for name, count in (await admin.partitions(list(TOPICS))).items()
            for number in range(count)
        ]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=list(settings.servers),
        client_id="upward-export",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        request_timeout_ms=round(settings.request_timeout_seconds * 1000),
        **parse_security(settings.security()),
    )
    await consumer.start()
    try:
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        read: dict[TopicPartition, list[_Record]] = {}
        for partition in partitions:
            read[partition] = await _read_partition(consumer, partition, ends[partition])
    finally:
        await consumer.stop()
    for record in heapq.merge(*map(_monotone, read.values()), key=lambda pair: pair[0]):
        yield record[1]


async def _read_partition(
    consumer: AIOKafkaConsumer, partition: TopicPartition, end: int
) -> list[_Record]:
    records: list[_Record] = []
    await consumer.seek_to_beginning(partition)
    while await consumer.position(partition) < end:
        taken = await consumer.getmany(partition, timeout_ms=1000)
        records += taken.get(partition, ())
    return [record for record in records if record.offset < end]


def _monotone(records: list[_Record]) -> list[tuple[bytes, _Record]]:
    """Pair each record with its event's id, or that of a later event that came before it.

    An id is a version 7 UUID and begins with the time at which it was made (RFC 9562).
    """
    latest, paired = b"", []
    for record in records:
        latest = max(latest, dict(record.headers).get("ce_id") or b"")
        paired.append((latest, record))
    return paired


async def read_events(settings: KafkaSettings) -> AsyncIterator[dict[str, Any]]:
    """Yield every event as CloudEvents JSON. Raises KafkaError."""
    async for record in read_records(settings):
        raw = RawRecord(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            headers=tuple(record.headers),
        )
        event = cloud_event(raw)
        if event is not None:
            yield event


async def export_events(settings: KafkaSettings, target: Path) -> int:
    """Write every event as one JSON line; return how many. The file appears whole or not at all."""
    partial = target.with_name(target.name + ".part")
    count = 0
    with partial.open("wb") as file:
        async for event in read_events(settings):
            file.write(orjson.dumps(event) + b"\n")
            count += 1
    partial.replace(target)
    return count
