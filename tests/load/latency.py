"""How long an accepted command takes to a consumer, beside a bare round trip of the same bus."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from shared.clock import monotonic
from shared.events.topics import PARTICIPANTS
from shared.messaging.dead_letters import RawRecord
from shared.messaging.local_consumer import LocalConsumer
from shared.messaging.local_log import LocalLog
from shared.messaging.local_producer import LocalProducer
from tests.load.asgi import Request, ask, at_a_rate, at_once
from tests.load.bench_platform import until
from tests.load.enrollment import PROFILES, Company

_WORKERS = 32
_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Bus:
    """The clients of a bus."""

    consumer: Callable[[], AIOKafkaConsumer | LocalConsumer]
    producer: Callable[[], AIOKafkaProducer | LocalProducer]


def kafka_bus(kafka: str) -> Bus:
    """Return Kafka's own clients, with the settings that the relay's producer has."""
    return Bus(
        lambda: AIOKafkaConsumer(PARTICIPANTS, bootstrap_servers=kafka),
        lambda: AIOKafkaProducer(bootstrap_servers=kafka, acks="all"),
    )


def local_bus(log: LocalLog) -> Bus:
    """Return the embedded bus's clients."""
    return Bus(lambda: LocalConsumer(log, PARTICIPANTS), lambda: LocalProducer(log))


class _Watch:
    """A bare consumer that notes when it saw each record, by its key."""

    def __init__(self) -> None:
        self.seen: dict[bytes, list[float]] = defaultdict(list)
        self._count = 0

    async def follow(self, consumer: AIOKafkaConsumer | LocalConsumer) -> None:
        async for record in consumer:
            self.seen[record.key or b""].append(monotonic())
            self._count += 1

    async def _has(self, count: int) -> bool:
        return self._count >= count

    async def since(self, begun: Mapping[bytes, Sequence[float]]) -> list[float]:
        """Wait for as many records as were begun; return how long each took, 0 at least.

        Of one key, what was begun first is seen first.
        """
        wanted = sum(map(len, begun.values()))
        async with asyncio.timeout(_WAIT_SECONDS):
            await until(partial(self._has, wanted), 0.01)
        return [
            max(0.0, seen - at)
            for key, times in begun.items()
            for at, seen in zip(times, self.seen[key], strict=True)
        ]


@asynccontextmanager
async def _watching(bus: Bus) -> AsyncIterator[_Watch]:
    async with AsyncExitStack() as steps:
        consumer = bus.consumer()
        await consumer.start()
        steps.push_async_callback(consumer.stop)
        await consumer.seek_to_end()
        watch = _Watch()
        task = asyncio.create_task(watch.follow(consumer))
        steps.callback(task.cancel)
        yield watch


class Commands:
    """Changes of the profiles of enrolled people, each of which is told as one event."""

    def __init__(self, company: Company, participants: list[str]) -> None:
        self._app = company.app
        self._keys = [participant.encode() for participant in participants]
        self._requests = [
            [
                Request.of("PUT", f"/enrollment/v1/participants/{participant}/profile", token, body)
                for body in PROFILES
            ]
            for participant, token in zip(
                participants, map(company.token, range(len(participants))), strict=True
            )
        ]
        self._turn = 0

    @classmethod
    async def of(cls, company: Company) -> "Commands":
        """Enroll everybody."""
        answers = [await ask(company.app, each, 201) for each in company.enrollments()]
        return cls(company, [orjson.loads(answer)["participant_id"] for answer in answers])

    def next(self) -> tuple[bytes, Callable[[], Awaitable[bytes]]]:
        """Return the key of the next command's event, and what sends it; people take turns."""
        round_number, person = divmod(self._turn, len(self._keys))
        self._turn += 1
        request = self._requests[person][(round_number + 1) % 2]
        return self._keys[person], partial(ask, self._app, request)

    async def sustainable(self, count: int) -> float:
        """Return how many commands a second are accepted, at once as many as clients would send."""
        return await at_once([self.next()[1] for _ in range(count)], _WORKERS)


@dataclass(frozen=True)
class CommandTimes:
    """Seconds until a command's event is at a consumer: since it was sent, and since its answer."""

    since_sent: list[float]
    since_accepted: list[float]


async def command_times(
    bus: Bus, commands: Commands, count: int, per_second: float
) -> CommandTimes:
    """Send commands at a steady rate and watch for their events with a bare consumer.

    An event that was seen before its command was answered took no time since then.
    """
    sent: dict[bytes, list[float]] = defaultdict(list)
    accepted: dict[bytes, list[float]] = defaultdict(list)

    async def send(key: bytes, call: Callable[[], Awaitable[bytes]]) -> None:
        sent[key].append(monotonic())
        await call()
        accepted[key].append(monotonic())

    async with _watching(bus) as watch:
        await at_a_rate([partial(send, *commands.next()) for _ in range(count)], per_second)
        return CommandTimes(await watch.since(sent), await watch.since(accepted))


async def round_trips(bus: Bus, sample: RawRecord, count: int, per_second: float) -> list[float]:
    """Return the seconds from `send` to a bare consumer, of records of a sample's size."""
    sent: dict[bytes, list[float]] = defaultdict(list)
    async with AsyncExitStack() as steps:
        watch = await steps.enter_async_context(_watching(bus))
        producer = bus.producer()
        await producer.start()
        steps.push_async_callback(producer.stop)

        async def send(number: int) -> None:
            key = b"key-%d" % number
            sent[key].append(monotonic())
            await producer.send_and_wait(
                PARTICIPANTS, sample.value, key=key, headers=list(sample.headers)
            )

        await at_a_rate([partial(send, number) for number in range(count)], per_second)
        return await watch.since(sent)
