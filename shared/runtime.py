"""One service at run time: its store, its broker, its consumer, its relay, its clockwork."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from aiokafka.errors import UnknownTopicOrPartitionError
from fastapi import APIRouter, FastAPI
from faststream.kafka import KafkaBroker

from shared import cancellation, metrics
from shared.clock import Clock, monotonic
from shared.errors import UnavailableError
from shared.events.topics import TOPICS
from shared.http.app import create_app
from shared.http.auth import TokenVerifier
from shared.http.call import Access, CommandAnswer, purge_answers
from shared.http.limits import Admission
from shared.http.operations import Flow, operations_router
from shared.logging import get_logger
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import DeadLetter
from shared.messaging.relay import Relay
from shared.scheduling import Job, Scheduler
from shared.store.port import Document, Store

_PING_SECONDS = 2.0
_HOUSEKEEPING_SECONDS = 5.0
# All of a stop's steps together: with the requests that are finished before it, less than the half
# minute that an orchestrator usually gives. What is cut off is published or delivered again.
_STOP_SECONDS = 18.0
_STEP_SECONDS = 1.0
_NEVER = -_HOUSEKEEPING_SECONDS, datetime.min.replace(tzinfo=UTC)


class Platform(Protocol):
    """What a deployment offers its services: embedded or cluster, they don't know which."""

    clock: Clock
    verifier: TokenVerifier
    session_timeout_seconds: float
    """How long a replica may be silent before its consumer group goes on without it."""

    def store(self, service: str) -> Store:
        """Return the service's own store, not yet open."""
        ...

    def broker(self, service: str) -> KafkaBroker:
        """Return a broker connection for the service, not yet started."""
        ...

    def secret(self, service: str, name: str) -> bytes:
        """Return a stable secret of this service, made on first use."""
        ...


@dataclass(frozen=True)
class Parts:
    """What makes one service different from another; `app.py` of each fills it in."""

    name: str
    title: str
    description: str
    documents: Sequence[type[Document]]
    routers: Sequence[APIRouter]
    subscribe: Callable[[Consumer], None]
    jobs: Sequence[Job] = ()
    background: Sequence[Job] = ()
    """Jobs that may take minutes, and that nothing else waits for."""
    body_limits: Mapping[str, int] | None = None
    public_routers: Sequence[APIRouter] = ()


class Service:
    """A running service: a FastAPI application and a FastStream broker in one process."""

    def __init__(self, platform: Platform, store: Store, parts: Parts) -> None:
        self.name = parts.name
        self.store = store
        self.consumer = Consumer(parts.name, store, platform.clock)
        parts.subscribe(self.consumer)
        self.documents: tuple[type[Document], ...] = (
            *parts.documents,
            CommandAnswer,
            DeadLetter,
        )
        self._broker = platform.broker(parts.name)
        self.consumer.subscribe(self._broker, platform.session_timeout_seconds)
        self._relay = Relay(parts.name, store, self._broker)
        self._purged = self._measured = _NEVER
        self._looking: asyncio.Task[None] | None = None
        self._admission = Admission()
        self._scheduler = Scheduler(
            parts.name,
            platform.clock,
            store.lease("scheduler"),
            jobs=(*parts.jobs, self._purge),
            chores=(self._measure,),
        )
        self._schedulers = {"scheduler": self._scheduler}
        if parts.background:
            self._schedulers["background scheduler"] = Scheduler(
                parts.name, platform.clock, store.lease("background"), jobs=parts.background
            )
        prefix = f"/{parts.name}/v1"
        self.app: FastAPI = create_app(
            parts.name,
            title=parts.title,
            description=parts.description,
            access=Access(store, platform.clock, platform.verifier),
            admission=self._admission,
            routers=(*parts.routers, operations_router(store, self.consumer, self.flow)),
            public_routers=parts.public_routers,
            health=self,
            body_limits={prefix + path: size for path, size in (parts.body_limits or {}).items()},
        )
        self._running = False
        self._stop_by = 0.0
        self._log = get_logger(parts.name)

    async def start(self) -> None:
        """Open the store, then consume, publish and keep time.

        Raises UnavailableError or KafkaError if store or bus is away or lacks what is needed.
        """
        own = [name for name, topic in TOPICS.items() if topic.owner == self.name]
        try:
            await self.store.open(self.documents)
            await self._broker.start()
            await self._relay.look_for(own)
        except UnknownTopicOrPartitionError as error:
            await self.stop()
            topics = ", ".join((*own, *self.consumer.topics))
            msg = f"The bus lacks one of the topics {topics}: run `upward topics apply`."
            raise UnavailableError(msg) from error
        except BaseException:
            await self.stop()
            raise
        self._relay.start()
        for scheduler in self._schedulers.values():
            scheduler.start()
        self._running = True

    async def stop(self) -> None:
        """Finish what is in flight, commit, leave the group, publish the rest, close."""
        self._running = False
        self._stop_by = monotonic() + _STOP_SECONDS
        # The last one pushed is the first to stop, and one that fails does not keep the others up.
        # Consumers before the relay: what they still commit is published before the bus is left.
        async with AsyncExitStack() as steps:
            steps.push_async_callback(self.store.close)
            steps.push_async_callback(self._in_time, self._broker.stop)
            steps.push_async_callback(self._in_time, self.consumer.close)
            steps.push_async_callback(self._in_time, self._relay.stop)
            for subscriber in self._broker.subscribers:
                steps.push_async_callback(self._in_time, subscriber.stop)
            for scheduler in self._schedulers.values():
                steps.push_async_callback(self._in_time, scheduler.stop)
            steps.push_async_callback(cancellation.end, self._looking)
            steps.push_async_callback(self._in_time, self.consumer.leave)

    async def _in_time(self, stop: Callable[[], Awaitable[None]]) -> None:
        # Clients may wait for brokers that never come back.
        seconds = max(_STEP_SECONDS, self._stop_by - monotonic())
        try:
            async with asyncio.timeout(seconds):
                await stop()
        except TimeoutError:
            self._log.error("stop_cut_off", after_seconds=round(seconds, 1))
        except asyncio.CancelledError:
            if cancellation.ordered():
                raise
            # aiokafka's, of a task of its own, where brokers are away. It ended all the same.
            self._log.warning("stop_step_cancelled_itself")

    async def _purge(self, now: datetime) -> None:
        """Every few seconds, by either clock, forget old answers."""
        if _is_due(self._purged, now):
            self._purged = monotonic(), now
            await purge_answers(self.store, now)

    async def _measure(self, now: datetime) -> None:
        """Every few seconds, by either clock, set the alerts' gauges."""
        if _is_due(self._measured, now):
            self._measured = monotonic(), now
            # First what the store knows: by how much waits for a bus that is away, commands are
            # refused. Brokers answer late then, which must not keep jobs waiting.
            try:
                await self._look_at_store()
            finally:
                if self._running:
                    self.consumer.mend()
                    if self._looking is None or self._looking.done():
                        self._looking = asyncio.create_task(self._look_at_bus())

    async def _look_at_store(self) -> tuple[int, int]:
        """Return how many events wait to be published, and how many dead letters are open."""
        pending = (await self.store.outbox.depth()).pending
        self._admission.outbox_pending = pending
        dead = await self.store.count(DeadLetter, {"state": "open"})
        metrics.DEAD_LETTERS_OPEN.labels(self.name).set(dead)
        return pending, dead

    async def _look_at_bus(self) -> None:
        try:
            await self.consumer.lag()
        except UnavailableError as error:
            self._log.warning("lag_unknown", error=error.detail)
        except Exception as error:
            self._log.error("lag_unknown", exc_info=error)

    async def flow(self) -> Flow:
        """Return what the service has not published, not consumed, and not done on time.

        Read in the direction of cause: what a job or an event made is seen in what comes after, so
        all idle at once means at rest. Raises UnavailableError.
        """
        scheduled_until = await self._scheduler.done_until()
        lag = await self.consumer.lag()
        pending, dead = await self._look_at_store()
        return Flow(
            service=self.name,
            outbox_pending=pending,
            lag=lag,
            dead_letters_open=dead,
            stopped_because=self.consumer.stopped_because,
            scheduled_until=scheduled_until,
        )

    def live(self) -> list[str]:
        """Return what only a restart would mend."""
        if not self._running:
            return []
        troubles = []
        if not self.consumer.alive():
            troubles.append(f"{self.name}: the consumer ended")
        if not self._relay.alive():
            troubles.append(f"{self.name}: the relay ended")
        for name, scheduler in self._schedulers.items():
            if not scheduler.alive():
                troubles.append(f"{self.name}: the {name} ended")
        return troubles

    async def ready(self) -> list[str]:
        """Return why the service should get no traffic now."""
        if not self._running:
            return [f"{self.name}: not running"]
        troubles = self.live()
        if self.consumer.stopped_because is not None:
            troubles.append(f"{self.name}: consumer stopped: {self.consumer.stopped_because}")
        if self.consumer.replacing:
            troubles.append(f"{self.name}: the bus takes no consumer")
        if not await self._store_answers():
            troubles.append(f"{self.name}: the store does not answer")
        # While the bus is away, reads answer and commands wait in the outbox: to send nobody here
        # would make a broker's outage one of everything.
        if self._admission.outbox_full and not await self._broker.ping(_PING_SECONDS):
            waiting = self._admission.outbox_pending
            troubles.append(f"{self.name}: {waiting} events wait for a bus that does not answer")
        return troubles

    async def _store_answers(self) -> bool:
        # Whoever asks for readiness waits for seconds at most.
        try:
            async with asyncio.timeout(_PING_SECONDS):
                return await self.store.ping()
        except TimeoutError:
            return False


def _is_due(last: tuple[float, datetime], now: datetime) -> bool:
    waited = max(monotonic() - last[0], (now - last[1]).total_seconds())
    return waited >= _HOUSEKEEPING_SECONDS
