"""`upward bench pipeline`: each figure beside its reference, in one run."""

import asyncio
import gc
import itertools
import os
import platform
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, get_args

import aiokafka
import pydantic
import pymongo
from pydantic import BaseModel, ConfigDict
from starlette.types import ASGIApp

from deploy.demo.run import ROSTER
from services.reporting.subscribers import subscribe
from shared.clock import SystemClock, monotonic
from shared.events.topics import FEEDBACK, PARTICIPANTS
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import RawRecord
from shared.store.sqlite import SqliteStore
from tests.load.asgi import ask, at_once
from tests.load.backlog import Drained, drain_bare, drain_with_reporting
from tests.load.bench_platform import ConsumerSettings, create_topics, publish
from tests.load.client_settings import fetch_stage, membership_stage
from tests.load.enrollment import (
    Company,
    cluster_company,
    embedded_company,
    parse_with_pydantic,
    route_without_work,
)
from tests.load.events import history
from tests.load.growth import grow_apart
from tests.load.latency import (
    Bus,
    Commands,
    command_times,
    kafka_bus,
    local_bus,
    round_trips,
)
from tests.load.measure import Budget, Figure, Percentiles, Stage
from tests.load.peers.run import PEERS, UPWARD, Peer, PeerError, run_peer
from tests.load.profiling import profiled
from tests.load.scaling import replicas_per_second
from tests.support.servers import KafkaCluster, MongoServer

T = TypeVar("T")

StageName = Literal[
    "backlog",
    "latency",
    "enroll",
    "roster",
    "kpi_query",
    "soak",
    "scaling",
    "fetch",
    "membership",
    "peers",
    "profile",
]
STAGES: tuple[StageName, ...] = get_args(StageName)

_AT_LEAST_HALF = Budget(direction="at least", ratio=0.5)
_WORKERS = 32
_EVENTS_PER_SECOND = "events/s"


class Machine(BaseModel):
    """Where the figures are from."""

    model_config = ConfigDict(frozen=True)

    cores: int
    load_before: float
    python: str
    system: str
    kafka: str
    mongodb: str
    aiokafka: str
    pydantic: str


class Options(BaseModel):
    """How much to measure; `soak` grows to a million events instead of a hundred thousand."""

    model_config = ConfigDict(frozen=True)

    events: int = 60_000
    repetitions: int = 3
    stages: tuple[StageName, ...] = STAGES
    soak: bool = False


class PipelineBench(BaseModel):
    """One run of the benchmark."""

    model_config = ConfigDict(frozen=True)

    machine: Machine
    options: Options
    stages: tuple[Stage, ...]
    seconds: float


@dataclass
class _Bench:
    """The servers of one run, and what its stages share."""

    options: Options
    folder: Path
    kafka: str
    mongodb: str
    mongodb_name: str
    records: Sequence[RawRecord]
    topics: Sequence[str]
    growth: tuple[Stage, Stage] | None = None
    _places: int = 0

    def place(self) -> Path:
        """Return a folder that nobody has used."""
        self._places += 1
        return self.folder / f"run-{self._places}"

    async def repeat(self, *runs: Callable[[], Awaitable[T]]) -> list[tuple[T, ...]]:
        """Make the runs in turns, as often as the options say."""
        return [tuple([await run() for run in runs]) for _ in range(self.options.repetitions)]

    async def bare(self) -> Drained:
        """Drain the backlog with aiokafka and pydantic alone."""
        return await drain_bare(self.kafka, self.topics, len(self.records))

    async def reporting(
        self, mongodb: str | None = None, consumer_settings: ConsumerSettings | None = None
    ) -> Drained:
        """Drain the backlog with the reporting service."""
        return await drain_with_reporting(
            self.place(), self.kafka, mongodb, len(self.records), consumer_settings
        )


async def bench_pipeline(
    options: Options, said: Callable[[str], None] = lambda _: None
) -> PipelineBench:
    """Measure all stages that are asked for; `said` is told what is measured now.

    Takes three quarters of an hour with all stages, and both cores. Starts a Kafka broker and a
    MongoDB-compatible server of its own: raises ServerError where they can't be had.
    """
    begun, load = monotonic(), os.getloadavg()[0]
    with ExitStack() as steps:
        folder = Path(steps.enter_context(tempfile.TemporaryDirectory(prefix="upward-bench-")))
        said("Starting Kafka and the MongoDB server")
        kafka = await asyncio.to_thread(KafkaCluster, folder / "kafka")
        steps.callback(kafka.kill)
        await asyncio.to_thread(kafka.start)
        mongodb = steps.enter_context(MongoServer(folder / "mongodb"))
        said("Publishing the backlog")
        await create_topics(kafka.bootstrap)
        records = list(history(options.events))
        await publish(kafka.bootstrap, records)
        # What the harness holds is none of the services' business, nor of their collector's.
        gc.collect()
        gc.freeze()
        bench = _Bench(
            options=options,
            folder=folder,
            kafka=kafka.bootstrap,
            mongodb=mongodb.uri,
            mongodb_name=_server_name(mongodb.uri),
            records=records,
            topics=_reporting_topics(folder),
        )
        stages = []
        for name in options.stages:
            said(f"Measuring {name}")
            stages.append(await _STAGES[name](bench))
        return PipelineBench(
            machine=_machine(load, bench.mongodb_name),
            options=options,
            stages=tuple(stages),
            seconds=monotonic() - begun,
        )


def _reporting_topics(folder: Path) -> list[str]:
    store = SqliteStore(folder / "none.db", service="none", region="none", clock=SystemClock())
    consumer = Consumer("reporting", store, SystemClock())
    subscribe(consumer)
    return consumer.topics


def _server_name(uri: str) -> str:
    client: pymongo.MongoClient[dict[str, object]]
    with pymongo.MongoClient(uri) as client:
        info = client.server_info()
    if "secantus" in uri:
        return "SecantusDB, a MongoDB-compatible server written in Python: slower than MongoDB"
    return f"MongoDB {info['version']}"


def _machine(load: float, mongodb: str) -> Machine:
    jars = Path(__file__).parents[2] / ".cluster" / "kafka"
    (kafka,) = jars.glob("kafka-clients-*.jar")
    return Machine(
        cores=os.cpu_count() or 1,
        load_before=load,
        python=platform.python_version(),
        system=platform.platform(),
        kafka=f"Apache Kafka {kafka.stem.removeprefix('kafka-clients-')}, one node",
        mongodb=mongodb,
        aiokafka=aiokafka.__version__,
        pydantic=pydantic.VERSION,
    )


async def _backlog(bench: _Bench) -> Stage:
    await bench.bare()
    await bench.reporting()
    runs = await bench.repeat(bench.reporting, bench.bare, partial(bench.reporting, bench.mongodb))
    name = "aiokafka, the same pydantic validation, commit"
    return Stage(
        name="backlog",
        asks="How fast does reporting drain a backlog: parse, dedupe, project, commit?",
        figures=(
            Figure.beside(
                "reporting on SQLite",
                _EVENTS_PER_SECOND,
                [(ours.per_second, bare.per_second) for ours, bare, _ in runs],
                name,
                _AT_LEAST_HALF,
            ),
            Figure.beside(
                "reporting on SQLite, by processor time",
                "events/CPU s",
                [(ours.per_cpu_second, bare.per_cpu_second) for ours, bare, _ in runs],
                name,
                note="a busy machine changes it little",
            ),
            Figure.beside(
                "reporting on MongoDB's protocol",
                _EVENTS_PER_SECOND,
                [(ours.per_second, bare.per_second) for _, bare, ours in runs],
                name,
                note=bench.mongodb_name,
            ),
            Figure.beside(
                "reporting on MongoDB's protocol, by our processor time",
                "events/CPU s",
                [(ours.per_cpu_second, bare.per_cpu_second) for _, bare, ours in runs],
                name,
                note="without the server's own work",
            ),
        ),
        notes=(f"{len(bench.records):,} records, each of a type that reporting handles",),
    )


async def _profile(bench: _Bench) -> Stage:
    people = max(20, min(1000, bench.options.events // 20))
    await bench.reporting()
    profiles = [await profiled("a backlog on SQLite", bench.reporting)]
    async with embedded_company(bench.place(), people) as (company, _log):
        enroll = partial(_enroll_all, company, company.app)
        profiles.append(await profiled("enrollments, embedded", enroll))
    async with embedded_company(bench.place(), 1) as (company, _log):
        import_all = partial(_import_roster, company)
        profiles.append(await profiled(f"import of {ROSTER.name}", import_all))
    async with cluster_company(bench.place(), bench.kafka, None, people) as company:
        commands = await Commands.of(company)
        half = await commands.sustainable(people) / 2
        await company.at_rest()
        send = partial(command_times, kafka_bus(bench.kafka), commands, people, half)
        profiles.append(await profiled("commands at half load, Kafka, SQLite", send))
    return Stage(
        name="profile",
        asks="Where does the time of a backlog, an enrollment, an import, a command go?",
        profiles=tuple(profiles),
        notes=(
            "The loop's thread, by cProfile: it makes many small calls look dearer than they are.",
            "Waiting is not counted, nor the store's writer in its thread.",
        ),
    )


async def _latency(bench: _Bench) -> Stage:
    sample = next(record for record in bench.records if record.topic == PARTICIPANTS)
    figures: list[Figure] = []
    latencies: dict[str, Percentiles] = {}
    notes: list[str] = []

    async def measure(title: str, company: Company, bus: Bus, count: int) -> None:
        commands = await Commands.of(company)
        await commands.sustainable(count // 4)
        half = await commands.sustainable(count // 2) / 2
        await company.at_rest()
        notes.append(f"{title}: {half:,.0f} commands a second, half of what it takes")
        runs = [
            (
                await command_times(bus, commands, count, half),
                await round_trips(bus, sample, count, half),
            )
            for _ in range(bench.options.repetitions)
        ]
        bare = [taken for _, taken in runs]
        for words, taken in (
            (f"{title}, since accepted", [ours.since_accepted for ours, _ in runs]),
            (f"{title}, since sent", [ours.since_sent for ours, _ in runs]),
        ):
            pairs = [
                (Percentiles.of(ours).p99, Percentiles.of(trips).p99)
                for ours, trips in zip(taken, bare, strict=True)
            ]
            latencies[words] = Percentiles.of(itertools.chain(*taken))
            figures.append(
                Figure.beside(
                    f"p99 {words}",
                    "ms",
                    pairs,
                    "p99 of produce → consume",
                    Budget(direction="at most", ratio=3) if "accepted" in words else None,
                )
            )
        latencies[f"{title}, produce → consume"] = Percentiles.of(itertools.chain(*bare))

    people = max(20, min(400, bench.options.events // 50))
    count = max(40, min(2000, bench.options.events // 10))
    bus = kafka_bus(bench.kafka)
    async with cluster_company(bench.place(), bench.kafka, None, people) as company:
        await measure("Kafka, SQLite", company, bus, count)
    async with cluster_company(bench.place(), bench.kafka, bench.mongodb, people) as company:
        await measure("Kafka, MongoDB's protocol", company, bus, count // 4)
    async with embedded_company(bench.place(), people) as (company, log):
        await measure("embedded", company, local_bus(log), count)
    return Stage(
        name="latency",
        asks="How long after a command is accepted has a consumer its event, at half load?",
        figures=tuple(figures),
        latencies=latencies,
        notes=tuple(notes),
    )


async def _enroll(bench: _Bench) -> Stage:
    people = max(20, min(2000, bench.options.events // 10))
    bare = route_without_work()

    embedded, cluster = [], []
    for _ in range(bench.options.repetitions):
        async with embedded_company(bench.place(), people) as (company, _log):
            await _enroll_all(company, bare)
            embedded.append(
                (await _enroll_all(company, company.app), await _enroll_all(company, bare))
            )
        async with cluster_company(
            bench.place(), bench.kafka, bench.mongodb, people // 4
        ) as company:
            cluster.append(
                (await _enroll_all(company, company.app), await _enroll_all(company, bare))
            )
    name = "the same FastAPI route with validation, without token and work"
    return Stage(
        name="enroll",
        asks="How many enrollments a second does one process take?",
        figures=(
            Figure.beside(
                "POST of an enrollment, embedded",
                "requests/s",
                embedded,
                name,
                Budget(direction="at least", ratio=0.4),
                "the relay publishes the events in the same process meanwhile",
            ),
            Figure.beside(
                "POST of an enrollment, Kafka and MongoDB's protocol",
                "requests/s",
                cluster,
                name,
                note=bench.mongodb_name,
            ),
        ),
        notes=(f"{people} people, each once; {_WORKERS} requests at a time, no socket between",),
    )


async def _enroll_all(company: Company, app: ASGIApp) -> float:
    """Have everybody enroll at this application; return how many a second it took."""
    calls = [partial(ask, app, each, 201) for each in company.enrollments()]
    return await at_once(calls, _WORKERS)


async def _import_roster(company: Company) -> None:
    await company.import_roster(ROSTER.read_bytes())


async def _roster(bench: _Bench) -> Stage:
    content = ROSTER.read_bytes()
    rows = sum(1 for _ in parse_with_pydantic(content))
    pairs = []
    for _ in range(bench.options.repetitions):
        begun = monotonic()
        sum(1 for _ in parse_with_pydantic(content))
        reference = rows / (monotonic() - begun)
        async with embedded_company(bench.place(), 1) as (company, _log):
            begun = monotonic()
            await _import_roster(company)
            pairs.append((rows / (monotonic() - begun), reference))
    return Stage(
        name="roster",
        asks="How fast is a roster imported: checked, compared, stored, counted?",
        figures=(
            Figure.beside(
                f"import of {ROSTER.name}",
                "rows/s",
                pairs,
                "csv.DictReader and pydantic on the same file",
                _AT_LEAST_HALF,
            ),
        ),
        notes=(f"{rows:,} rows into an empty store, one program published",),
    )


async def _kpi_query(bench: _Bench) -> Stage:
    return (await _growth(bench))[0]


async def _soak(bench: _Bench) -> Stage:
    return (await _growth(bench))[1]


async def _growth(bench: _Bench) -> tuple[Stage, Stage]:
    """Return both stages: they are of one run, which may take long."""
    if bench.growth is None:
        bench.growth = await _grow(bench)
    return bench.growth


async def _grow(bench: _Bench) -> tuple[Stage, Stage]:
    most = 1_000_000 if bench.options.soak else min(100_000, 5 * bench.options.events)
    early, few = most // 10, min(10_000, most // 10)
    grown = await grow_apart(bench.place(), few, [early, most])
    short = (
        ()
        if bench.options.soak
        else (f"{most:,} events: --soak grows to the budget's 1,000,000, and is held to it",)
    )
    took = f"fed, projected and measured in {grown.seconds:.0f} s"
    kpi = Stage(
        name="kpi_query",
        asks="How much longer does a KPI query take when there were many more events?",
        figures=(
            Figure.beside(
                f"all five breakdowns at {most:,} events",
                "ms",
                [(1000 * big, 1000 * small) for big, small in grown.queries],
                f"the same at {few:,}",
                Budget(direction="at most", ratio=1.2) if bench.options.soak else None,
            ),
        ),
        notes=(*short, took),
    )
    soak = Stage(
        name="soak",
        asks="How much more memory does a process hold when it has seen many more events?",
        figures=(
            Figure.beside(
                f"resident memory after {most:,} events",
                "MiB",
                [(grown.resident_mib[most], grown.resident_mib[early])],
                f"after {early:,}",
                Budget(direction="at most", ratio=1.1) if bench.options.soak else None,
            ),
        ),
        notes=(*short, took),
    )
    return kpi, soak


async def _scaling(bench: _Bench) -> Stage:
    records = bench.records[: len(bench.records) // 2]
    runs = [
        [
            await replicas_per_second(bench.place(), bench.mongodb, replicas, records)
            for replicas in (1, 2, 4)
        ]
        for _ in range(min(2, bench.options.repetitions))
    ]
    return Stage(
        name="scaling",
        asks="How does throughput grow with partitions and replicas?",
        figures=tuple(
            Figure.beside(
                f"{replicas} replicas, {replicas} partitions a topic",
                _EVENTS_PER_SECOND,
                [(run[place], run[0]) for run in runs],
                "1 replica, 1 partition a topic",
                note=bench.mongodb_name,
            )
            for place, replicas in ((1, 2), (2, 4))
        ),
        notes=(f"Broker, database and replicas share {os.cpu_count()} cores.",),
    )


async def _fetch(bench: _Bench) -> Stage:
    return await fetch_stage(
        bench.place(),
        partial(bench.reporting, None),
        bench.records,
        bench.options.repetitions,
    )


async def _membership(bench: _Bench) -> Stage:
    sample = next(record for record in bench.records if record.topic == FEEDBACK)
    return await membership_stage(bench.place, sample)


async def _peers(bench: _Bench) -> Stage:
    events = sum(1 for record in bench.records if record.topic == FEEDBACK)
    figures: list[Figure] = []
    notes = [
        f"{events:,} pulses of one topic: validated, counted once in a bucket, offsets committed",
        "Quix Streams does not take the project's pydantic: its environment has an older one.",
        *(f"{peer.name}: {peer.part:.0%} of them" for peer in PEERS if peer.part < 1),
    ]
    for title, mongodb in (("SQLite", None), ("MongoDB's protocol", bench.mongodb)):
        found: dict[Peer, list[float]] = {}
        broken: set[Peer] = set()
        for _ in range(bench.options.repetitions):
            for peer in (UPWARD, *PEERS):
                if peer in broken:
                    continue
                try:
                    drained = await run_peer(peer, bench.folder, bench.kafka, mongodb, events)
                except PeerError as error:
                    broken.add(peer)
                    found.pop(peer, None)
                    notes.append(f"{peer.name} on {title} was not run: {error}")
                else:
                    found.setdefault(peer, []).append(drained.per_second)
        if UPWARD not in found:
            continue
        figures += [
            Figure.beside(
                f"{UPWARD.name} on {title}",
                _EVENTS_PER_SECOND,
                list(zip(found[UPWARD], rates, strict=True)),
                peer.name,
                Budget(direction="at least", ratio=1),
            )
            for peer, rates in found.items()
            if peer is not UPWARD
        ]
    return Stage(
        name="peers",
        asks="How fast are others at the same small piece of work?",
        figures=tuple(figures),
        notes=tuple(notes),
    )


_STAGES: dict[StageName, Callable[[_Bench], Awaitable[Stage]]] = {
    "backlog": _backlog,
    "latency": _latency,
    "enroll": _enroll,
    "roster": _roster,
    "kpi_query": _kpi_query,
    "soak": _soak,
    "scaling": _scaling,
    "fetch": _fetch,
    "membership": _membership,
    "peers": _peers,
    "profile": _profile,
}
