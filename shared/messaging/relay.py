"""The outbox relay: takes committed events to the bus, each key in its order."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any

from faststream.kafka import KafkaBroker

from shared import cancellation, metrics
from shared.clock import monotonic
from shared.errors import LeaseLostError, UnavailableError
from shared.failpoints import failpoint
from shared.logging import get_logger
from shared.store.port import OutboxRecord, Store

_BATCH = 500
# After so long the outbox is looked at from its start again, for what may wait there: keys that
# failed, and commits that landed behind the place where a page began.
_PASS_SECONDS = 1.0
_POLL_SECONDS = 0.5
# How often a replica that may not publish asks whether it may now.
_ASK_SECONDS = 3.0
_PAUSE_AFTER_FAILURE_SECONDS = 0.5
_MEASURE_SECONDS = 1.0
# A replica that publishes nothing for so long, though it tries, asks whether the bus is there.
_GIVE_UP_SECONDS = 10.0
_PING_SECONDS = 2.0

_Key = tuple[str, str]

_STOP_SECONDS = 6.0


class _CutOffError(Exception):
    """The bus does not answer this replica: perhaps it answers another one."""


class Relay:
    """Publishes one store's outbox. A key's next event is sent after the last was acknowledged.

    Of all replicas the holder of the lease publishes; the others look now and then whether it is
    free. A holder that is cut off the bus, perhaps alone, gives it up. A crash between the bus's
    acknowledgement and the mark publishes an event twice, with the same id, and so does a holder
    that slept past its lease: consumers' inboxes drop the second.
    """

    def __init__(self, service: str, store: Store, broker: KafkaBroker) -> None:
        self._service = service
        self._store = store
        self._broker = broker
        self._lease = store.lease("relay")
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._measured_at = -_MEASURE_SECONDS
        # Keys that failed, and when they are tried again: others don't wait for that. What takes
        # long to fail holds a wave up for as long, so it rests as long.
        self._retry_at: dict[_Key, float] = {}
        self._failing_since: float | None = None
        self._log = get_logger(service)

    async def look_for(self, topics: Iterable[str]) -> None:
        """Raise UnknownTopicOrPartitionError for a topic that the bus does not have.

        Otherwise nobody would hear of it before events wait for it. The broker must have started.
        """
        # FastStream's producer has no question of this kind, the client under it has.
        producer: Any = self._broker.config.broker_config.producer
        for topic in topics:
            await producer._producer.producer.partitions_for(topic)

    def start(self) -> None:
        """Start relaying in the background."""
        self._stopping.clear()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Publish what is committed, as far as the bus takes it in time, then stop.

        What is left goes out at the next start.
        """
        self._stopping.set()
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._task, _STOP_SECONDS)
            self._task = None
            await self._lease.release()

    def alive(self) -> bool:
        """Return whether the relay is at work."""
        return self._task is not None and not self._task.done()

    async def _run(self) -> None:
        while True:
            try:
                if not await self._lease.hold():
                    if self._stopping.is_set():
                        return
                    await self._unless_stopping(asyncio.sleep(_ASK_SECONDS))
                    continue
                published, failed = await self._pass(), False
            except _CutOffError:
                self._log.warning("relay_gives_up_its_lease")
                await self._lease.release()
                if self._stopping.is_set():
                    return
                await self._unless_stopping(asyncio.sleep(2 * _ASK_SECONDS))
                continue
            except UnavailableError as error:
                self._log.warning("relay_waits", error=str(error))
                published, failed = 0, True
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and cancellation.ordered():
                    raise
                # An ended relay would publish nothing until somebody restarts the service.
                metrics.OUTBOX_FAILURES.labels(self._service).inc()
                self._log.error("relay_failed", exc_info=error)
                published, failed = 0, True
            if self._stopping.is_set() and (failed or not published):
                return
            if failed:
                await self._unless_stopping(asyncio.sleep(_PAUSE_AFTER_FAILURE_SECONDS))
            elif not published:
                await self._unless_stopping(self._store.outbox.wait(_POLL_SECONDS))

    async def _pass(self) -> int:
        """Publish what waits, page by page; return how many. Raises _CutOffError."""
        published, after, begun = 0, 0, monotonic()
        self._retry_at = {key: at for key, at in self._retry_at.items() if at > begun}
        stuck = set(self._retry_at)
        await self._measure()
        # Page by page and not always the oldest: a stuck key's many records would hide all others.
        while records := await self._store.outbox.pending(_BATCH, after=after):
            after = records[-1].position
            await self._keep_lease()
            free = [record for record in records if (record.topic, record.key) not in stuck]
            published += await self._publish(free, stuck)
            # Here and not after the pass, which has no end while only failures keep coming.
            await self._must_reach_the_bus()
            # Not before it has reached what is free, however many pages a stuck key fills.
            if published and monotonic() - begun > _PASS_SECONDS:
                break
        return published

    async def _must_reach_the_bus(self) -> None:
        """Raise _CutOffError where all failed for some time, and not for the events' own sake."""
        since = self._failing_since
        if since is None or monotonic() - since < _GIVE_UP_SECONDS:
            return
        self._failing_since = None
        if not await self._broker.ping(_PING_SECONDS):
            raise _CutOffError

    async def _keep_lease(self) -> None:
        if not self._lease.held() and not await self._lease.hold():
            raise LeaseLostError("another replica publishes now")

    async def _unless_stopping(self, waiting: Coroutine[None, None, None]) -> None:
        tasks = {asyncio.create_task(waiting), asyncio.create_task(self._stopping.wait())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        for task in done:
            await task

    async def _publish(self, records: Iterable[OutboxRecord], stuck: set[_Key]) -> int:
        """Publish in waves of one record a key; add the keys that failed to `stuck`."""
        queues: dict[_Key, deque[OutboxRecord]] = {}
        for record in records:
            queues.setdefault((record.topic, record.key), deque()).append(record)
        published = 0
        while queues:
            wave = [(key, queue.popleft()) for key, queue in queues.items()]
            await self._keep_lease()
            failpoint("relay.before_publish")
            began = monotonic()
            results = await asyncio.gather(
                *(self._send(record) for _, record in wave), return_exceptions=True
            )
            failpoint("relay.after_publish")
            sent: list[int] = []
            for (key, record), result in zip(wave, results, strict=True):
                if isinstance(result, Exception):
                    # Its later events must not overtake it: the key waits for another pass.
                    del queues[key]
                    stuck.add(key)
                    took = monotonic() - began
                    self._retry_at[key] = monotonic() + max(_PAUSE_AFTER_FAILURE_SECONDS, took)
                    metrics.OUTBOX_FAILURES.labels(self._service).inc()
                    self._log.warning("publish_failed", topic=record.topic, error=repr(result))
                elif isinstance(result, BaseException):
                    if isinstance(result, asyncio.CancelledError) and not cancellation.ordered():
                        msg = "a cancellation leaked out of a publication"
                        raise RuntimeError(msg) from result
                    raise result
                else:
                    sent.append(record.position)
                    if not queues[key]:
                        del queues[key]
            if sent:
                self._failing_since = None
                await self._store.outbox.mark_sent(sent, lease=self._lease)
                metrics.OUTBOX_PUBLISHED.labels(self._service).inc(len(sent))
                published += len(sent)
            elif self._failing_since is None:
                self._failing_since = began
            failpoint("relay.after_mark")
            await self._measure()
        return published

    async def _send(self, record: OutboxRecord) -> None:
        acknowledged = await self._broker.publish(
            record.value,
            topic=record.topic,
            key=record.key.encode(),
            headers=dict(record.headers),
            # FastStream would draw a random one for each record.
            correlation_id=record.event_id,
            no_confirm=True,
        )
        await acknowledged

    async def _measure(self) -> None:
        if monotonic() - self._measured_at < _MEASURE_SECONDS:
            return
        self._measured_at = monotonic()
        depth = await self._store.outbox.depth()
        metrics.OUTBOX_PENDING.labels(self._service).set(depth.pending)
        age = (datetime.now(UTC) - depth.oldest).total_seconds() if depth.oldest else 0.0
        metrics.OUTBOX_AGE_SECONDS.labels(self._service).set(age)
