"""How long partitions stand still while members of a consumer group die, restart and leave."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from shared import cancellation
from shared.clock import monotonic
from shared.events.topics import FEEDBACK, consumer_group
from shared.messaging.dead_letters import RawRecord
from shared.messaging.lag import Offsets
from tests.load.bench_platform import ConsumerSettings, create_topics, until
from tests.load.member import STARTED
from tests.support.servers import KafkaCluster, ServerProcess

_MEMBERS = 2
_PARTITIONS = 4
_FEED_SECONDS = 0.05
_ANSWER_SECONDS = 5.0
# Between two looks a partition may always wait: what is shorter is no standstill.
_NOTICED_SECONDS = 1.0
_SETTLED_SECONDS = 3.0
_LIMIT_SECONDS = 180.0


class Member(ServerProcess):
    """One member of the group, in a process of its own."""

    def __init__(
        self, folder: Path, number: int, kafka: str, settings: ConsumerSettings, *, static: bool
    ) -> None:
        name = f"member-{number}"
        mine = {**settings, "group_instance_id": name} if static else settings
        command = [
            *(sys.executable, "-m", "tests.load.member"),
            *(str(folder / name), kafka, json.dumps(mine)),
        ]
        super().__init__(name, command, folder / f"{name}.log", self._has_started)
        self._said_before = 0

    def launch(self) -> None:
        """Start the process without waiting for it."""
        self._said_before = self.log.stat().st_size if self.log.exists() else 0
        super().launch()

    def _has_started(self) -> bool:
        return STARTED in self.log.read_bytes()[self._said_before :]


Hurt = Callable[[Sequence[Member]], None]
"""Does something to members, and blocks until they are as they will be."""


def kill_one(members: Sequence[Member]) -> None:
    """One dies, and nobody starts it again."""
    members[0].kill()


def kill_one_and_restart(members: Sequence[Member]) -> None:
    """One dies and is started again at once, as by Kubernetes."""
    members[0].kill()
    members[0].start()


def restart_all_in_turn(members: Sequence[Member]) -> None:
    """A new version is rolled out."""
    for member in members:
        member.terminate()
        member.start()


def take_one_away(members: Sequence[Member]) -> None:
    """One is asked to end, and nobody starts it again."""
    members[0].terminate()


@dataclass(frozen=True)
class Standstill:
    """What partitions had to wait."""

    seconds: float
    """The longest time in which a partition's records waited and none of them was committed."""
    partitions: int
    """How many partitions waited for more than a second."""
    of: int

    def __str__(self) -> str:
        return f"{self.partitions} of {self.of} partitions stand still for more than a second"


@dataclass
class _Watch:
    """Feeds every partition steadily and notes how long the group left each alone."""

    offsets: Offsets
    partitions: Sequence[TopicPartition]
    longest: dict[TopicPartition, float] = field(default_factory=dict)
    _committed: dict[TopicPartition, int] = field(default_factory=dict)
    _moved: dict[TopicPartition, float] = field(default_factory=dict)

    async def follow(self) -> None:
        while True:
            ends, committed = await self.offsets.look(self.partitions, _ANSWER_SECONDS)
            now = monotonic()
            for partition in self.partitions:
                at = committed[partition]
                if at != self._committed.get(partition, -1) or at == ends[partition]:
                    self._moved[partition] = now
                self._committed[partition] = at
                waited = now - self._moved[partition]
                self.longest[partition] = max(waited, self.longest.get(partition, 0.0))
            await asyncio.sleep(_FEED_SECONDS)

    async def settled(self) -> bool:
        """Return whether all partitions are read, and have been for some seconds."""
        for _ in range(round(_SETTLED_SECONDS / _FEED_SECONDS)):
            await asyncio.sleep(_FEED_SECONDS)
            if not all(self._committed.get(partition) for partition in self.partitions):
                return False
            if monotonic() - min(self._moved.values()) > _NOTICED_SECONDS:
                return False
        return True

    def found(self) -> Standstill:
        return Standstill(
            seconds=max(self.longest.values()),
            partitions=sum(waited > _NOTICED_SECONDS for waited in self.longest.values()),
            of=len(self.partitions),
        )


async def _feed(producer: AIOKafkaProducer, sample: RawRecord, count: int) -> None:
    # The same event again and again: the inbox drops it, and its offset is committed all the same.
    while True:
        for number in range(count):
            await producer.send(
                FEEDBACK,
                sample.value,
                key=sample.key,
                headers=list(sample.headers),
                partition=number,
            )
        await asyncio.sleep(_FEED_SECONDS)


async def standstill(
    folder: Path, sample: RawRecord, settings: ConsumerSettings, hurt: Hurt, *, static: bool = False
) -> Standstill:
    """Return how long partitions stood still while something was done to a group of two members.

    `settings` are aiokafka's, over the services' own; static members keep their name, and with it
    their partitions, over a restart. Raises TimeoutError where the group does not recover.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kafka = KafkaCluster(folder)
    partitions = [TopicPartition(FEEDBACK, number) for number in range(_PARTITIONS)]
    members = [
        Member(folder, number, kafka.bootstrap, settings, static=static)
        for number in range(1, _MEMBERS + 1)
    ]
    async with AsyncExitStack() as steps:
        steps.callback(kafka.kill)
        await asyncio.to_thread(kafka.start)
        await create_topics(kafka.bootstrap, partitions=_PARTITIONS)
        for member in members:
            steps.callback(member.kill)
            await asyncio.to_thread(member.start)
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all")
        await producer.start()
        steps.push_async_callback(producer.stop)
        offsets = Offsets(
            lambda: AIOKafkaConsumer(
                bootstrap_servers=kafka.bootstrap,
                group_id=consumer_group("reporting"),
                enable_auto_commit=False,
            )
        )
        steps.push_async_callback(offsets.close)
        watch = _Watch(offsets, partitions)
        for work in (_feed(producer, sample, _PARTITIONS), watch.follow()):
            task = asyncio.create_task(work)
            steps.push_async_callback(cancellation.end, task)
        await _within_limit(watch.settled)
        watch.longest.clear()
        await asyncio.to_thread(hurt, members)
        await _within_limit(watch.settled)
        return watch.found()


async def _within_limit(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_LIMIT_SECONDS):
        await until(condition, _FEED_SECONDS)
