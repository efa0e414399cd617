"""How fast the embedded bus is beside bare SQLite that writes the same bytes."""

import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from aiokafka.structs import RecordMetadata
from faststream import AckPolicy
from faststream.kafka import KafkaMessage
from pydantic import BaseModel, ConfigDict

from shared.clock import monotonic
from shared.messaging.broker import EmbeddedKafkaBroker
from shared.messaging.local_log import LocalLog
from shared.messaging.local_storage import connect_writer, pack_headers

T = TypeVar("T")

_TOPIC = "bench.v1"
_PARTITIONS = 6
_VALUE_BYTES = 600
_BATCH = 500
# FastStream sleeps this long after an empty poll, so it bounds the latency of a quiet bus.
_POLL_MS = 5
_LATENCY_RATE = 200
_HEADERS = {f"ce_header{number}": "0123456789abcdef" * 2 for number in range(10)}
_PACKED_HEADERS = pack_headers(tuple((name, text.encode()) for name, text in _HEADERS.items()))


class BusBench(BaseModel):
    """One run of the benchmark; rates are events per second, latencies milliseconds.

    The throughput is from the first publication to the last committed offset, one batch published
    after another while the consumer reads. The latency is from the call of `publish` to the
    committed offset of one event, at a steady `latency_rate` and not at full load, where it would
    measure the length of the queue. Bare SQLite inserts and commits the same keys, values and
    headers with the same PRAGMAs, in batches of the same size for the throughput and one by one at
    the same rate for the latency. Every figure is the median of `repetitions`, taken in turns.
    """

    model_config = ConfigDict(frozen=True)

    events: int
    value_bytes: int
    batch: int
    repetitions: int
    bus_events_per_second: float
    sqlite_events_per_second: float
    throughput_ratio: float
    latency_events: int
    latency_rate: int
    bus_p50_ms: float
    bus_p99_ms: float
    sqlite_p50_ms: float
    sqlite_p99_ms: float
    p99_ratio: float


async def bench_bus(
    events: int = 10_000, latency_events: int = 400, repetitions: int = 3
) -> BusBench:
    """Measure the embedded bus and bare SQLite in turns, in a temporary folder of this machine.

    Takes some seconds and both cores; blocks the loop no longer than the bus itself does.
    """
    rates: list[tuple[float, float]] = []
    latencies: list[tuple[_Percentiles, _Percentiles]] = []
    with tempfile.TemporaryDirectory(prefix="upward-bench-") as folder:
        for number in range(repetitions):
            path = Path(folder)
            bus = await _bus_throughput(path / f"bus-{number}.db", events)
            bare = await asyncio.to_thread(_sqlite_throughput, path / f"sqlite-{number}.db", events)
            rates.append((bus, bare))
            latencies.append(
                (
                    await _bus_latency(path / f"bus-latency-{number}.db", latency_events),
                    await asyncio.to_thread(
                        _sqlite_latency, path / f"sqlite-latency-{number}.db", latency_events
                    ),
                )
            )
    return BusBench(
        events=events,
        value_bytes=_VALUE_BYTES,
        batch=_BATCH,
        repetitions=repetitions,
        bus_events_per_second=_median(rates, lambda pair: pair[0]),
        sqlite_events_per_second=_median(rates, lambda pair: pair[1]),
        throughput_ratio=_median(rates, lambda pair: pair[0] / pair[1]),
        latency_events=latency_events,
        latency_rate=_LATENCY_RATE,
        bus_p50_ms=_median(latencies, lambda pair: pair[0].p50),
        bus_p99_ms=_median(latencies, lambda pair: pair[0].p99),
        sqlite_p50_ms=_median(latencies, lambda pair: pair[1].p50),
        sqlite_p99_ms=_median(latencies, lambda pair: pair[1].p99),
        p99_ratio=_median(latencies, lambda pair: pair[0].p99 / pair[1].p99),
    )


@dataclass(frozen=True)
class _Percentiles:
    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "_Percentiles":
        cuts = statistics.quantiles(seconds, n=100, method="inclusive")
        return cls(p50=1000 * cuts[49], p99=1000 * cuts[98])


def _median(rows: Sequence[T], pick: Callable[[T], float]) -> float:
    return statistics.median(pick(row) for row in rows)


@dataclass(frozen=True)
class _Event:
    key: bytes
    value: bytes


def _events(count: int) -> list[_Event]:
    filler = b"x" * (_VALUE_BYTES - 12)
    return [_Event(b"%012d" % number, b"%012d" % number + filler) for number in range(count)]


class _RunningBus:
    """A broker with one batch subscriber that notes when each event's offset was committed."""

    def __init__(self, log: LocalLog, expected: int) -> None:
        self.broker = EmbeddedKafkaBroker(log, logger=None)
        self.committed_at: dict[bytes, float] = {}
        self.all_committed = asyncio.Event()

        @self.broker.subscriber(
            _TOPIC,
            group_id="bench",
            batch=True,
            max_records=_BATCH,
            batch_timeout_ms=_POLL_MS,
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.MANUAL,
            decoder=_leave_raw,
        )
        async def handle(_: Any, message: KafkaMessage) -> None:
            await message.ack()
            now = monotonic()
            records = message.raw_message
            assert isinstance(records, tuple)
            for record in records:
                self.committed_at[record.key or b""] = now
            if len(self.committed_at) == expected:
                self.all_committed.set()

    async def publish(self, event: _Event) -> "asyncio.Future[RecordMetadata]":
        # The relay passes the event's own correlation id; without one FastStream draws a uuid4.
        return await self.broker.publish(
            event.value,
            _TOPIC,
            key=event.key,
            headers=_HEADERS,
            correlation_id="bench",
            no_confirm=True,
        )


async def _leave_raw(_: KafkaMessage) -> None:
    return None


@asynccontextmanager
async def _running_bus(path: Path, expected: int) -> AsyncIterator[_RunningBus]:
    log = LocalLog(path)
    await log.open()
    try:
        await log.create_topics({_TOPIC: _PARTITIONS})
        bus = _RunningBus(log, expected)
        await bus.broker.start()
        try:
            yield bus
        finally:
            await bus.broker.stop()
    finally:
        await log.close()


async def _bus_throughput(path: Path, count: int) -> float:
    events = _events(count)
    async with _running_bus(path, count) as bus:
        begin = monotonic()
        for start in range(0, count, _BATCH):
            sent = [await bus.publish(event) for event in events[start : start + _BATCH]]
            await asyncio.gather(*sent)
        await bus.all_committed.wait()
        return count / (monotonic() - begin)


async def _bus_latency(path: Path, count: int) -> _Percentiles:
    published_at: dict[bytes, float] = {}
    async with _running_bus(path, count) as bus:

        async def publish(event: _Event) -> None:
            published_at[event.key] = monotonic()
            await (await bus.publish(event))

        await _at_a_steady_rate([partial(publish, event) for event in _events(count)])
        await bus.all_committed.wait()
        return _Percentiles.of([bus.committed_at[key] - at for key, at in published_at.items()])


async def _at_a_steady_rate(calls: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    # Each call starts at its own time, whether the one before it is done or not: a bus that stalls
    # must not slow down the load that shows it.
    begin = monotonic()
    async with asyncio.TaskGroup() as group:
        for number, call in enumerate(calls):
            await asyncio.sleep(begin + number / _LATENCY_RATE - monotonic())
            group.create_task(call())


def _bare_sqlite(path: Path) -> sqlite3.Connection:
    connection = connect_writer(path)
    connection.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY, key, value, headers)")
    return connection


def _insert(connection: sqlite3.Connection, events: Sequence[_Event]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        "INSERT INTO bare (key, value, headers) VALUES (?, ?, ?)",
        [(event.key, event.value, _PACKED_HEADERS) for event in events],
    )
    connection.execute("COMMIT")


def _sqlite_throughput(path: Path, count: int) -> float:
    events = _events(count)
    with closing(_bare_sqlite(path)) as connection:
        begin = monotonic()
        for start in range(0, count, _BATCH):
            _insert(connection, events[start : start + _BATCH])
        return count / (monotonic() - begin)


def _sqlite_latency(path: Path, count: int) -> _Percentiles:
    durations: list[float] = []
    with closing(_bare_sqlite(path)) as connection:
        begin = monotonic()
        for number, event in enumerate(_events(count)):
            time.sleep(max(0.0, begin + number / _LATENCY_RATE - monotonic()))
            inserted = monotonic()
            _insert(connection, [event])
            durations.append(monotonic() - inserted)
    return _Percentiles.of(durations)
