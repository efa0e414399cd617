"""The consumer chain, written once: how every service takes events from the bus.

From the outside in, and why in this order:

1. acknowledge (FastStream, NACK_ON_ERROR): offsets are committed only after all below succeeded;
2. back-off: an error that heals (the store is away) waits and has the whole batch redelivered;
3. dead letter: an error that can't heal is stored with its reason, so that neighbors go on;
4. transaction and inbox: the batch's effects, its inbox marks and its outgoing events commit
   together, so a redelivery after a crash finds every event already applied;
5. the service's own handler.
"""

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress
from typing import Any, Protocol, TypeVar, cast

from aiokafka import ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage
from faststream.kafka.subscriber.usecase import BatchSubscriber

from shared import cancellation, metrics
from shared.clock import Clock, monotonic
from shared.errors import StaleWriteError, UnavailableError, UpwardError
from shared.events.envelope import Envelope, Event
from shared.events.topics import consumer_group
from shared.failpoints import failpoint
from shared.logging import get_logger
from shared.messaging.breaker import DEFAULT_LIMIT, Breaker, DeadLetterLimit
from shared.messaging.dead_letters import DeadLetter, ReceivedRecord, bury
from shared.messaging.gaps import GapGuard, Positions, RecordsDeletedError
from shared.messaging.lag import Lag, Offsets
from shared.messaging.parsing import PermanentError, parse_data, parse_envelope
from shared.store.port import Store, Transaction
from shared.tracing import Trace, next_traceparent, traced
from shared.turns import in_turns

H = TypeVar("H", bound="EventHandler")
B = TypeVar("B", bound="BatchHandler")
Record = ConsumerRecord[bytes | None, bytes | None]
EventHandler = Callable[[Transaction, Any, Envelope], Awaitable[None]]
"""Takes the events it is declared for; a handler of several takes their union, so it is not typed
by one event."""
BatchHandler = Callable[[Transaction, Sequence[Any]], Awaitable[None]]
"""Takes, in their order, the digests of all events of a batch that it is declared for."""
Digest = Callable[[Any, Envelope], Any]
"""Takes out of an event what its handler needs. Pure: it is not tried again. Raises UpwardError for
what it refuses."""

SESSION_TIMEOUT_SECONDS = 15.0
"""How long a replica may be silent. Where one dies and is started again at once, its whole group
stands still until the old member is missed: this long, whatever Kafka's clients default to."""
HEARTBEAT_SECONDS = 1.0
"""By its answers members learn that their group changes: a rolled-out version's partitions wait
about this long for their next reader."""
QUIET_MS = 20
"""How long a poll waits. FastStream sleeps as long again after an empty one, blind to what arrives
meanwhile: it is the latency of a quiet bus."""
FETCH_WAIT_MS = 100
"""How long a broker may keep a fetch that finds nothing. A client has one fetch under way to each
broker: while it waits there for partitions without a backlog, the records of the others run out."""
# What is taken from the bus at once where so much waits: several transactions, if the store wants
# them smaller. While it commits one, the events of the next are parsed, and one commit of offsets
# does for all.
_RECORDS_AT_ONCE = 2000
_HANDLER_ATTEMPTS = 3
# Each is a whole round of the store's own attempts; only a handler that can never win loses all.
_STALE_REDELIVERIES = 5
_DRAIN_SECONDS = 55.0
_STUCK_SECONDS = 120.0
# Kafka's clients raise what passes soon, too.
_POLLS_FAIL_SECONDS = 15.0
# A group's old member, for which a new one waits, is missed after its session.
_REPLACE_SECONDS = 90.0
_REPLACE_PAUSE_SECONDS = 5.0
# A client asks for as long as it takes; those who wait for the answer have other work.
_LOOK_SECONDS = 5.0
_MAX_REASON = 500


_Told = tuple[str, BatchHandler | None, Any]
"""An event's id, its batch handler if it has one, and what its handler takes."""


@dataclass(slots=True)
class _Batch:
    """Records with what each tells, and why some can't be processed, by their place."""

    records: Sequence[ReceivedRecord]
    told: Sequence[_Told | None]  # None where nobody here wants it, too
    reasons: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.records)

    def part(self, start: int, stop: int) -> "_Batch":
        """Return the records from `start` to before `stop`."""
        reasons = {n - start: reason for n, reason in self.reasons.items() if start <= n < stop}
        return _Batch(self.records[start:stop], self.told[start:stop], reasons)


class DeadLetterLimitError(Exception):
    """Raised inside the chain to leave the batch uncommitted and stop the consumer."""


class _KafkaClient(Protocol):
    def assignment(self) -> set[TopicPartition]: ...
    def partitions_for_topic(self, topic: str) -> set[int] | None: ...


class _DrainOnRevoke(ConsumerRebalanceListener):
    """Lets the batch in flight finish and commit before its partitions move to another member."""

    def __init__(self, gaps: GapGuard) -> None:
        self.subscriber: BatchSubscriber | None = None
        self._gaps = gaps

    async def on_partitions_revoked(self, _revoked: set[TopicPartition]) -> None:
        lock = self.subscriber.lock if self.subscriber is not None else None
        # Before the first start FastStream's lock is a null context.
        if lock is not None and hasattr(lock, "wait_release"):
            await lock.wait_release(_DRAIN_SECONDS)

    async def on_partitions_assigned(self, _assigned: set[TopicPartition]) -> None:
        """Positions come from the committed offsets."""
        self._gaps.forget()


def _short(reason: str) -> str:
    # It travels in a header: UTF-8, and no longer than somebody reads.
    return reason[:_MAX_REASON].encode(errors="replace").decode()


def _refused(error: UpwardError) -> str:
    return _short(f"{error.code}: {error.detail}")


def _with_envelope(event: Event, envelope: Envelope) -> tuple[Event, Envelope]:
    return event, envelope


class Consumer:
    """One service's subscription: one consumer group over all the topics it has handlers for."""

    def __init__(
        self,
        service: str,
        store: Store,
        clock: Clock,
        limit: DeadLetterLimit = DEFAULT_LIMIT,
    ) -> None:
        self.service = service
        self.group = consumer_group(service)
        self.stopped_because: str | None = None
        self._store = store
        self._clock = clock
        self._breaker = Breaker(limit)
        self._handlers: dict[type[Event], EventHandler] = {}
        self._takers: dict[type[Event], tuple[BatchHandler | None, Digest]] = {}
        self._subscriber: BatchSubscriber | None = None
        self._failures = 0
        self._lag = Lag()
        self._own_lag = Lag()
        self._offsets: Offsets | None = None
        self._gaps = GapGuard()
        self._partitions: dict[str, list[TopicPartition]] = {}
        self._progress_at = monotonic()
        self._stopping: asyncio.Task[None] | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._leaving = asyncio.Event()
        self._log = get_logger(service)

    def on(self, *kinds: type[Event]) -> Callable[[H], H]:
        """Declare the handler of these events. An event type has one handler in a service."""

        def register(handler: H) -> H:
            for kind in kinds:
                self._take(kind, None, _with_envelope)
                self._handlers[kind] = handler
            return handler

        return register

    def on_batch(self, *kinds: type[Event], digest: Digest | None = None) -> Callable[[B], B]:
        """Declare the handler of these events, a batch of them at once.

        It is called once in a transaction, after the handlers of single events: it can read at once
        what all of them need, and write once what many of them change. If it fails, it gets the
        same events again in ever smaller parts. What it emits is linked to no cause.

        It takes of each event what `digest` returns, else the event with its envelope. A digest is
        made as soon as the event is read, so that thousands of events that wait for their
        transaction need not be kept for a few of their fields.
        """

        def register(handler: B) -> B:
            for kind in kinds:
                self._take(kind, handler, digest or _with_envelope)
            return handler

        return register

    def _take(self, kind: type[Event], handler: BatchHandler | None, digest: Digest) -> None:
        if kind in self._takers:
            msg = f"{kind.type()} already has a handler in {self.service}"
            raise ValueError(msg)
        self._takers[kind] = handler, digest

    @property
    def topics(self) -> list[str]:
        """The topics of the handled events."""
        return sorted({kind.topic for kind in self._takers})

    def subscribe(
        self, broker: KafkaBroker, session_timeout_seconds: float = SESSION_TIMEOUT_SECONDS
    ) -> None:
        """Register with the broker, which consumes from its start to its stop."""
        if not self.topics:
            return
        drain = _DrainOnRevoke(self._gaps)
        subscriber = broker.subscriber(
            *self.topics,
            group_id=self.group,
            batch=True,
            max_records=max(_RECORDS_AT_ONCE, self._store.events_at_once),
            batch_timeout_ms=QUIET_MS,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.NACK_ON_ERROR,
            isolation_level="read_committed",
            session_timeout_ms=round(session_timeout_seconds * 1000),
            heartbeat_interval_ms=round(HEARTBEAT_SECONDS * 1000),
            rebalance_timeout_ms=60_000,
            no_reply=True,
            parser=_clean_headers,
            decoder=_leave_raw,
            listener=drain,
        )
        drain.subscriber = self._subscriber = subscriber
        config = broker.config.broker_config
        self._offsets = Offsets(
            lambda: config.builder(group_id=self.group, enable_auto_commit=False)
        )
        metrics.CONSUMER_STOPPED.labels(self.service).set(0)
        subscriber(self._consume)

    # The annotations are FastStream's: it fills the parameters by them.
    async def _consume(self, _body: Any, message: KafkaMessage) -> None:
        raw = message.raw_message
        records = raw if isinstance(raw, tuple) else (raw,)
        try:
            processed = await self._gaps.check(cast("Positions", message.consumer), records)
            await self.process(records)
            processed()
            self._failures = 0
            self._progress_at = monotonic()
        except (DeadLetterLimitError, RecordsDeletedError) as error:
            self._stop(str(error))
            raise
        except asyncio.CancelledError:
            if cancellation.ordered():
                raise
            await self._back_off("a cancellation leaked")
            msg = "a cancellation leaked"
            raise RuntimeError(msg) from None
        except Exception as error:
            await self._back_off(repr(error))
            raise

    async def _back_off(self, error: str) -> None:
        self._failures += 1
        metrics.CONSUMER_RETRIES.labels(self.service).inc()
        pause = min(30.0, 0.05 * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1)  # noqa: S311
        self._log.warning("batch_failed", error=error, retry_in=round(pause, 2))
        # NACK redelivers at once and for ever: the pause is what keeps it from spinning. A stop
        # ends it: the batch is then redelivered to whoever comes next.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), pause)

    async def leave(self) -> None:
        """Wait for nothing any more: the service stops. The subscriber is then its to stop."""
        self._leaving.set()
        await cancellation.end(self._replacing)

    def mend(self) -> None:
        """Have a client replaced that has done nothing but fail for a while; returns at once."""
        if self._subscriber is None or self.replacing or self._ends:
            return
        # The embedded bus' clients don't break so.
        since: float | None = getattr(self._subscriber.consumer, "failing_since", None)
        if since is not None and monotonic() - since > _POLLS_FAIL_SECONDS:
            self._replacing = asyncio.create_task(self._replace_client(self._subscriber))

    @property
    def replacing(self) -> bool:
        """Whether there is no client, because the bus has not taken a new one yet."""
        return self._replacing is not None and not self._replacing.done()

    @property
    def _ends(self) -> bool:
        return self._leaving.is_set() or self.stopped_because is not None

    async def _replace_client(self, subscriber: BatchSubscriber) -> None:
        """Stop the client and start another one, until one starts."""
        while not self._ends:
            metrics.CONSUMER_REPLACED.labels(self.service).inc()
            try:
                async with asyncio.timeout(_REPLACE_SECONDS):
                    await subscriber.stop()
                async with asyncio.timeout(_REPLACE_SECONDS):
                    await subscriber.start()
            except Exception as error:
                self._log.warning("bus_refused", error=repr(error))
            else:
                self._progress_at = monotonic()
                return
            await asyncio.sleep(_REPLACE_PAUSE_SECONDS)

    async def process(self, records: Sequence[ReceivedRecord]) -> None:
        """Apply a batch in transactions of what the store wants at once.

        If one fails, once more in ever smaller parts. Raises UnavailableError, StaleWriteError (the
        batch is to be redelivered; at its last redelivery it is applied in parts instead) and
        DeadLetterLimitError.
        """
        failpoint("consumer.before_apply")
        at_once = self._store.events_at_once
        before = self._breaker.copy()
        try:
            batch = await self._parse_all(records[:at_once])
            for start in range(at_once, len(records), at_once):
                parsing = asyncio.create_task(self._parse_all(records[start : start + at_once]))
                try:
                    await self._apply_all(batch)
                    batch = await parsing
                finally:
                    parsing.cancel()
                self._progress_at = monotonic()
                self._unless_leaving()
            await self._apply_all(batch)
        except BaseException:
            # The whole batch comes again, and its dead letters count once.
            self._breaker = before
            raise
        failpoint("consumer.after_apply")

    def _unless_leaving(self) -> None:
        # What is applied of a batch by then is known when it is delivered again.
        if self._leaving.is_set():
            raise UnavailableError("The service stops.")

    async def _parse_all(self, records: Sequence[ReceivedRecord]) -> _Batch:
        told: list[_Told | None] = []
        reasons: dict[int, str] = {}
        parse = self._parse
        async for part in in_turns(records):
            for record in part:
                try:
                    told.append(parse(record))
                except PermanentError as error:
                    reasons[len(told)] = str(error)
                    told.append(None)
        return _Batch(records, told, reasons)

    def _parse(self, record: ReceivedRecord) -> _Told | None:
        """Return what a record tells, or None. Raises PermanentError with the reason, cut short."""
        try:
            envelope, kind = parse_envelope(record)
            taker = self._takers.get(kind)
            if taker is None:
                return None
            handler, digest = taker
            return envelope.id, handler, digest(parse_data(record, envelope, kind), envelope)
        except PermanentError as error:
            raise PermanentError(_short(str(error))) from error
        except UpwardError as error:
            raise PermanentError(_refused(error)) from error
        except Exception as error:
            # Nothing that a record holds may stop those behind it.
            self._log.error("unreadable", exc_info=error, topic=record.topic)
            raise PermanentError(f"unreadable: {type(error).__name__}") from error

    async def _apply_all(self, batch: _Batch) -> None:
        before = self._breaker.copy()
        try:
            self._count_all(batch)
            await self._transact(batch)
        except (UnavailableError, DeadLetterLimitError):
            raise
        except Exception as error:
            if isinstance(error, StaleWriteError) and self._failures < _STALE_REDELIVERIES:
                raise
            self._breaker = before
            await self._apply_in_parts(batch)

    async def _apply_in_parts(self, batch: _Batch) -> None:
        """Apply in halves of halves what failed together: few transactions find one bad event."""
        if len(batch) == 1:
            await self._apply_alone(batch)
            return
        middle = len(batch) // 2
        for part in (batch.part(0, middle), batch.part(middle, len(batch))):
            if len(part) == 1:
                await self._apply_alone(part)
            else:
                await self._apply_all(part)

    def _count_all(self, batch: _Batch) -> None:
        if not batch.reasons and self._breaker.count_good(len(batch)):
            return
        for place in range(len(batch)):
            self._count(dead=place in batch.reasons)

    def _count(self, *, dead: bool) -> None:
        self._breaker.count(dead=dead)
        if (verdict := self._breaker.verdict()) is not None:
            raise DeadLetterLimitError(verdict)

    async def _transact(self, batch: _Batch, attempts: int = 1) -> None:
        # Counted after the commit: a handler may run more often than once.
        for outcome, number in (await self._store.transact(self._apply, batch, attempts)).items():
            metrics.CONSUMED.labels(self.service, outcome).inc(number)
        for place, reason in batch.reasons.items():
            record = batch.records[place]
            self._log.warning(
                "dead_letter",
                reason=reason,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
            )

    async def _apply(self, tx: Transaction, batch: _Batch, attempts: int) -> dict[str, int]:
        for place, reason in batch.reasons.items():
            # It may be applied once it was mended: it stays new.
            await self._bury(tx, batch.records[place], reason, attempts)
        wanted = [told for told in batch.told if told is not None]
        new = await self._handle_new(tx, wanted)
        outcomes = {
            "dead_letter": len(batch.reasons),
            "skipped": len(batch) - len(batch.reasons) - len(wanted),
            "duplicate": len(wanted) - new,
            "applied": new,
        }
        return {outcome: number for outcome, number in outcomes.items() if number}

    async def _handle_new(self, tx: Transaction, told: Sequence[_Told]) -> int:
        """Hand what the group has not applied yet to its handlers; return how much it was."""
        # One look at the inbox for the whole batch, where each is a request to a server.
        first_times = await tx.first_times(self.group, [event_id for event_id, _, _ in told])
        together: defaultdict[BatchHandler, list[Any]] = defaultdict(list)
        async for part in in_turns(compress(told, first_times)):
            for _, batch_handler, said in part:
                if batch_handler is None:
                    await self._handle(tx, *said)
                else:
                    together[batch_handler].append(said)
        for batch_handler, all_said in together.items():
            await _kept_in(batch_handler(tx, all_said))
        return sum(first_times)

    async def _handle(self, tx: Transaction, event: Event, envelope: Envelope) -> None:
        trace = Trace(
            correlation_id=envelope.correlationid,
            causation_id=envelope.id,
            traceparent=next_traceparent(envelope.traceparent),
        )
        with traced(trace):
            await _kept_in(self._handlers[type(event)](tx, event, envelope))

    async def _apply_alone(self, batch: _Batch) -> None:
        """Apply a batch of one record; what still fails is a dead letter.

        Raises as `process` does.
        """
        if batch.reasons:
            self._count(dead=True)
            await self._transact(batch)
            return
        (record,) = batch.records
        for attempt in range(1, _HANDLER_ATTEMPTS + 1):
            try:
                await self._transact(batch)
            except UnavailableError:
                raise
            except StaleWriteError as error:
                if self._failures < _STALE_REDELIVERIES:
                    raise
                # A handler that writes what it did not load loses to nobody, for ever.
                self._log.error("handler_failed", exc_info=error, topic=record.topic)
                reason, final = "unexpected StaleWriteError", True
            except UpwardError as error:
                reason, final = _refused(error), True
            except Exception as error:
                # Most likely a defect of ours, perhaps a passing one: try again, then keep the
                # record for after the repair. Its text may quote data, so only its type is kept.
                self._log.error("handler_failed", exc_info=error, topic=record.topic)
                reason, final = f"unexpected {type(error).__name__}", attempt == _HANDLER_ATTEMPTS
            else:
                self._count(dead=False)
                return
            if final:
                self._count(dead=True)
                await self._transact(_Batch([record], [None], {0: reason}), attempt)
                return

    async def _bury(
        self, tx: Transaction, record: ReceivedRecord, reason: str, attempts: int
    ) -> None:
        await bury(
            tx,
            record,
            service=self.service,
            group=self.group,
            reason=reason,
            attempts=attempts,
            now=self._clock.now(),
        )

    async def retry(self, tx: Transaction, letter: DeadLetter) -> DeadLetter:
        """Apply a dead letter's record now, in the caller's transaction.

        Raises PermanentError with the reason if it still can't be applied; UnavailableError and
        StaleWriteError as ever.
        """
        told = self._parse(letter.raw())
        if told is None:
            raise PermanentError("nothing here handles this event")
        try:
            # Applied already, though not by this delivery: there is nothing left to do.
            await self._handle_new(tx, [told])
        except (UnavailableError, StaleWriteError):
            raise
        except UpwardError as error:
            raise PermanentError(_refused(error)) from error
        except Exception as error:
            self._log.error("handler_failed", exc_info=error, topic=letter.topic)
            raise PermanentError(f"unexpected {type(error).__name__}") from error
        return tx.put(
            letter.changed(state="retried", attempts=letter.attempts + 1, last_at=self._clock.now())
        )

    def _stop(self, reason: str) -> None:
        self.stopped_because = reason
        metrics.CONSUMER_STOPPED.labels(self.service).set(1)
        self._log.error("consumer_stopped", reason=reason)
        if self._subscriber is not None and self._stopping is None:
            # From a task of its own: FastStream's stop cancels the consume task, and cancelling
            # the task one runs in would leave the consumer in its group, assigned and silent.
            self._stopping = asyncio.create_task(self._subscriber.stop())

    def alive(self) -> bool:
        """Return whether the consume loop turns, or was stopped on purpose."""
        if self._subscriber is None or self.stopped_because is not None or self.replacing:
            return True
        # A client can lose its way after a rebalance or a broker's restart, running and assigned
        # but fetching nothing. One that fails and backs off is at work: it waits for others.
        waited = min(self._own_lag.seconds, monotonic() - self._progress_at)
        if waited > _STUCK_SECONDS and not self._failures:
            return False
        tasks = self._subscriber.tasks
        return self._subscriber.running and bool(tasks) and not any(task.done() for task in tasks)

    async def lag(self) -> int:
        """Return how many records the group has not committed yet, whichever replica reads them.

        Sets the gauges of lag, too. Raises UnavailableError after some seconds without an answer.
        """
        if self._subscriber is None or self._offsets is None:
            return 0
        client: _KafkaClient | None = self._subscriber.consumer
        if client is not None:
            # A client that has just been made knows of none: what was known before still holds.
            self._partitions |= {
                topic: [TopicPartition(topic, number) for number in numbers]
                for topic in self.topics
                if (numbers := client.partitions_for_topic(topic))
            }
        partitions = list(chain.from_iterable(self._partitions.values()))
        try:
            ends, committed = await self._offsets.look(partitions, _LOOK_SECONDS)
        except (KafkaError, TimeoutError) as error:
            self._lag.miss()
            metrics.CONSUMER_LAG_SECONDS.labels(self.service).set(self._lag.seconds)
            raise UnavailableError("The bus does not answer.") from error
        self._lag.see(ends, committed)
        own = set(ends) & (client.assignment() if client is not None else set())
        self._own_lag.see({tp: ends[tp] for tp in own}, {tp: committed[tp] for tp in own})
        metrics.CONSUMER_LAG_RECORDS.labels(self.service).set(self._lag.records)
        metrics.CONSUMER_LAG_SECONDS.labels(self.service).set(self._lag.seconds)
        return self._lag.records

    async def close(self) -> None:
        """Leave the bus; the subscriber itself is the broker's to stop."""
        if self._offsets is not None:
            await self._offsets.close()


async def _kept_in(handling: Awaitable[None]) -> None:
    """Await a handler; raise RuntimeError for a cancellation of its own making."""
    try:
        await handling
    except asyncio.CancelledError:
        if cancellation.ordered():
            raise
        msg = "a cancellation leaked out of a handler"
        raise RuntimeError(msg) from None


async def _clean_headers(
    batch: tuple[Record, ...],
    parse_batch: Callable[[tuple[Record, ...]], Awaitable[KafkaMessage]],
) -> KafkaMessage:
    # FastStream decodes every header before there is a message to acknowledge: a null or non-UTF-8
    # one would raise there, and the next commit would pass the batch. It gets none to decode; the
    # chain reads them from the raw records.
    # Of all others it makes copies that nobody looks at.
    message = await parse_batch((replace(batch[0], headers=()), replace(batch[-1], headers=())))
    message.raw_message = batch
    return message


async def _leave_raw(_message: KafkaMessage) -> None:
    # Decoding a batch fails as a whole on one bad record; the chain parses each by itself.
    return None
