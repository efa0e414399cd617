"""What other ways to poll would bring: the delay of a lone event, and the price of waiting."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaProducer
from faststream.kafka import KafkaBroker
from faststream.kafka.subscriber.usecase import BatchSubscriber

from services.reporting.app import build
from shared.clock import monotonic
from shared.events.topics import FEEDBACK
from shared.messaging.dead_letters import RawRecord
from tests.load.backlog import consumed
from tests.load.bench_platform import BenchPlatform, create_topics, until
from tests.load.measure import Percentiles
from tests.support.servers import KafkaCluster

_IDLE_SECONDS = 3.0
_LOOK_SECONDS = 0.0005
_APART_SECONDS = (0.2, 0.4)


@dataclass(frozen=True)
class Quiet:
    """A service on a bus on which little happens."""

    delays: Percentiles
    """From the send of a lone event to the commit of what it brings."""
    idle_share: float
    """Of one processor, while nothing happens at all."""


class _PollingPlatform(BenchPlatform):
    def __init__(self, folder: Path, kafka: str, poll_ms: int) -> None:
        super().__init__(folder, kafka, None)
        self._poll_ms = poll_ms
        self._brokers: list[KafkaBroker] = []

    def broker(self, service: str) -> KafkaBroker:
        self._brokers.append(super().broker(service))
        return self._brokers[-1]

    def poll_otherwise(self) -> None:
        for broker in self._brokers:
            for subscriber in broker.subscribers:
                assert isinstance(subscriber, BatchSubscriber)
                subscriber.batch_timeout_ms = self._poll_ms


async def quiet_buses(
    folder: Path, samples: Sequence[RawRecord], polls_ms: Sequence[int]
) -> dict[int, Quiet]:
    """Return, by how long a poll waits, what reporting does on a bus that has these events alone.

    Starts a broker of its own: the events are none of the benchmark's backlog.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kafka = KafkaCluster(folder)
    try:
        await asyncio.to_thread(kafka.start)
        await create_topics(kafka.bootstrap)
        return {
            poll: await _on_a_quiet_bus(folder / f"{poll}", kafka.bootstrap, samples, poll)
            for poll in polls_ms
        }
    finally:
        await asyncio.to_thread(kafka.kill)


async def _on_a_quiet_bus(
    folder: Path, kafka: str, samples: Sequence[RawRecord], poll_ms: int
) -> Quiet:
    """Return how long each of the events takes to be applied, one at a time, and an idle second.

    The service polls for `poll_ms` instead of its own choice, and sleeps as long after an empty
    poll, as FastStream does.
    """
    platform = _PollingPlatform(folder, kafka, poll_ms)
    service = build(platform)
    platform.poll_otherwise()
    luck = random.Random(poll_ms)
    delays = []
    async with AsyncExitStack() as steps:
        producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all")
        await producer.start()
        steps.push_async_callback(producer.stop)
        steps.push_async_callback(service.stop)
        await service.start()
        for number, sample in enumerate(samples):
            before, sent = consumed(), monotonic()
            await producer.send(
                FEEDBACK, sample.value, key=sample.key, headers=list(sample.headers), partition=0
            )

            async def applied(before: int = before) -> bool:
                return consumed() > before

            await until(applied, _LOOK_SECONDS)
            if number:  # the first one waits for the group's first assignment, too
                delays.append(monotonic() - sent)
            # Empty polls between any two, and no fixed distance, which could keep step with them.
            await asyncio.sleep(luck.uniform(*_APART_SECONDS))
        spent = time.process_time()
        await asyncio.sleep(_IDLE_SECONDS)
        spent = time.process_time() - spent
    return Quiet(Percentiles.of(delays), spent / _IDLE_SECONDS)
