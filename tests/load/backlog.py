"""How fast a backlog is drained: the reporting service, and as little as a consumer can do."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from aiokafka import AIOKafkaConsumer

from services.reporting.app import build
from shared import metrics
from shared.clock import monotonic
from shared.events.envelope import Envelope, Event
from shared.events.registry import EVENTS_BY_TYPE
from shared.messaging.consumer import FETCH_WAIT_MS
from shared.messaging.dead_letters import ReceivedRecord
from tests.load.bench_platform import BenchPlatform, ConsumerSettings, rewind, until

_BATCH = 500
_LOOK_SECONDS = 0.001
_SERVICE = "reporting"


@dataclass(frozen=True)
class Drained:
    """How a backlog was drained, from the end of the first batch to the last committed offset."""

    events: int
    seconds: float
    cpu_seconds: float  # of this process, all its threads

    @property
    def per_second(self) -> float:
        """Events per second of the clock."""
        return self.events / self.seconds

    @property
    def per_cpu_second(self) -> float:
        """Events per second of processor time, which a busy machine changes little."""
        return self.events / self.cpu_seconds


def consumed(*outcomes: str) -> int:
    """Return how many events this process's reporting has handled, with these outcomes or any."""
    # Not from the registry, which would read all other metrics and /proc at each look.
    (counter,) = metrics.CONSUMED.collect()
    return round(
        sum(
            sample.value
            for sample in counter.samples
            if sample.name.endswith("_total")
            and sample.labels["service"] == _SERVICE
            and (not outcomes or sample.labels["outcome"] in outcomes)
        )
    )


async def drain_with_reporting(
    folder: Path,
    kafka: str,
    mongodb: str | None,
    events: int,
    consumer_settings: ConsumerSettings | None = None,
) -> Drained:
    """Start reporting on an empty store behind `events` records, and wait until it has them all.

    Its consumer has its own settings but for those that are given. Raises AssertionError where a
    record became a dead letter: then it did not do its work.
    """
    platform = BenchPlatform(folder, kafka, mongodb, consumer_settings)
    service = build(platform)
    await platform.migrate(_SERVICE, service.documents)
    await rewind(kafka, service.consumer.group, service.consumer.topics)
    before, dead = consumed(), consumed("dead_letter")

    def done() -> int:
        return consumed() - before

    # When the first batch was done, to the moment: a look later would leave out what the next took.
    begun: list[tuple[int, float, float]] = []
    process = service.consumer.process

    all_done = asyncio.Event()

    async def noting(records: Sequence[ReceivedRecord]) -> None:
        await process(records)
        if not begun:
            begun.append((done(), monotonic(), time.process_time()))
        if done() >= events:
            all_done.set()

    async def committed() -> bool:
        return await service.consumer.lag() == 0

    cast("Any", service.consumer).process = noting
    await service.start()
    try:
        # The first look makes the client that looks, which is no part of draining.
        await service.consumer.lag()
        await all_done.wait()
        await until(committed, _LOOK_SECONDS)
        ((first, at, cpu_at),) = begun
        assert first < events, "all of them came in the first batch, which is not timed"
        seconds, cpu_seconds = monotonic() - at, time.process_time() - cpu_at
    finally:
        await service.stop()
    assert consumed("dead_letter") == dead
    return Drained(events - first, seconds, cpu_seconds)


def _read(headers: Sequence[tuple[str, bytes]], value: bytes | None) -> tuple[Envelope, Event]:
    attributes = {
        name.removeprefix("ce_"): text.decode() for name, text in headers if name != "content-type"
    }
    envelope = Envelope.model_validate(attributes)
    return envelope, EVENTS_BY_TYPE[envelope.type].model_validate_json(value or b"")


async def drain_bare(kafka: str, topics: Sequence[str], events: int) -> Drained:
    """Fetch `events` records with aiokafka alone, validate envelope and data, commit, drop them."""
    async with AsyncExitStack() as steps:
        consumer = AIOKafkaConsumer(
            *topics,
            bootstrap_servers=kafka,
            group_id=f"bare-{uuid.uuid4().hex}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=FETCH_WAIT_MS,  # as services do: it stands still as seldom as they
        )
        await consumer.start()
        steps.push_async_callback(consumer.stop)
        first = done = 0
        begun = cpu_begun = 0.0
        while done < events:
            batches = await consumer.getmany(timeout_ms=1000, max_records=_BATCH)
            for records in batches.values():
                for record in records:
                    _read(record.headers, record.value)
                done += len(records)
            if batches:
                await consumer.commit()
            if not first and done:
                first, begun, cpu_begun = done, monotonic(), time.process_time()
        return Drained(events - first, monotonic() - begun, time.process_time() - cpu_begun)
