"""One platform under attack: a long story that goes on from fault to fault, judged after each."""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError

from deploy.client import Json
from deploy.demo.run import ROSTER, summarize
from shared.events.topics import SERVICES
from tests.faults.cluster.evidence import (
    Evidence,
    Record,
    Stores,
    Topics,
    events_on,
    exported,
    handled,
)
from tests.faults.cluster.invariants import Effects, Finding, all_findings, in_words
from tests.faults.cluster.journal import Journal, JournaledClient
from tests.faults.cluster.poison import FOREIGN, Made
from tests.faults.cluster.proxy import Mode, Proxy
from tests.faults.cluster.reference import PatientStory, Undisturbed, names_of, small_roster, tell
from tests.support.cluster import Replica, UpwardCluster, until
from tests.support.demo import ROOT
from tests.support.servers import KafkaCluster, MongoServer, free_ports

T = TypeVar("T")

SESSION_SECONDS = 6
"""How long a consumer of this harness may be silent before its group goes on without it."""
LIVE_SECONDS = 60.0
GROUPS = {f"upward.{service}": service for service in SERVICES if service != "enrollment"}
STEPS = 58
"""The story's steps that faults may be tried in; behind them the pairs' term is over."""
_SETUP_STEPS = 2
# A step under fire is not followed by the next at once: a story has only so many.
_STEP_SECONDS = 4.0
_LOOK_SECONDS = 0.5


class FindingsError(AssertionError):
    """What the invariants found after a fault."""


@dataclass
class Outcome:
    """One run of one fault."""

    steps: int = 0
    live_seconds: float = 0.0
    duplicates: int = 0
    restarts: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class GoodRun:
    """Evidence without findings, and what it was judged by."""

    evidence: Evidence
    effects: Effects
    kpis: list[Json]
    secrets: Sequence[bytes]


@dataclass
class Campaign:
    """Servers, services and the story of one seed. `start` and `stop` block.

    The first replica of every service reaches Kafka and MongoDB through the proxy, so that it can
    be cut off; the others don't.
    """

    folder: Path
    seed: int
    reference: Undisturbed
    nodes: int = 1
    fills: bool = False
    replicas: int = 2
    at_step: int = 0
    faults: int = 0
    broken: bool = False
    foreign: set[str] = field(default_factory=set)
    held_down: set[str] = field(default_factory=set)
    """The names of replicas that nobody shall restart now."""
    restarts: int = 0
    outcome: Outcome = field(default_factory=Outcome)
    step_under_way: str = ""
    good: GoodRun | None = None

    def start(self) -> None:
        """Start servers and services and wait until all are ready."""
        self.folder.mkdir(parents=True)
        self.kafka_disk, self.mongo_disk = self.folder / "kafka-disk", self.folder / "mongo-disk"
        settings = {}
        if self.fills:
            mount(self.kafka_disk)
            mount(self.mongo_disk)
            settings = {"log.dirs": str(self.kafka_disk / "kafka-{node}")}
        self.kafka = KafkaCluster(self.folder / "kafka", self.nodes, settings)
        self.mongo = MongoServer(self.mongo_disk)
        self.kafka_link, self.mongo_link, inner = free_ports(3)
        if self.nodes == 1:
            _listen_on(self.kafka, inner, self.kafka_link)
        self.kafka.start()
        self.mongo.start()
        self.proxy = Proxy({self.kafka_link: inner, self.mongo_link: _port(self.mongo.uri)})
        self.cluster = UpwardCluster(
            self.folder / "upward",
            self.kafka.bootstrap,
            self.mongo.uri,
            replicas=self.replicas,
            replication=self.kafka.replication,
            env={"UPWARD_KAFKA_SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS)},
        )
        for replica in self.cluster.all:
            if replica.number == 1 and self.nodes == 1:
                replica.configure(
                    UPWARD_KAFKA_SERVERS=f"127.0.0.1:{self.kafka_link}",
                    UPWARD_MONGODB_URI=f"mongodb://127.0.0.1:{self.mongo_link}/?directConnection=true",
                )
        self.cluster.prepare()
        self.cluster.start()
        prefix = self.cluster.env["UPWARD_MONGODB_DATABASE_PREFIX"]
        self.stores = Stores(self.mongo.uri, prefix, SERVICES)
        self.topics = Topics(self.kafka.bootstrap)
        self.journal = Journal(self.folder / "journal.ndjson")
        self.secrets = [name.encode() for name in names_of(small_roster())]
        self._read_logs: dict[Path, int] = {}
        self._read_records = 0

    def stop(self) -> None:
        """End everything at once."""
        self.cluster.kill()
        self.proxy.close()
        self.mongo.kill()
        self.kafka.kill()
        self.journal.close()
        if self.fills:
            for disk in (self.kafka_disk, self.mongo_disk):
                subprocess.run(["umount", str(disk)], check=True)

    def of(self, service: str, number: int) -> Replica:
        """Return one replica."""
        return next(r for r in self.cluster.of(service) if r.number == number)

    def busy(self) -> str:
        """Return a service that the present step writes to."""
        step = self.step_under_way
        if step.startswith("enroll"):
            return "enrollment"
        return "sessions" if step.startswith("wave") else "matching"

    def left_groups(self) -> int:
        """Return how often the brokers were told that a consumer leaves."""
        return sum(
            node.log.read_bytes().count(b"explicit `LeaveGroup`") for node in self.kafka.nodes
        )

    @property
    def steps_left(self) -> int:
        """How many steps of the story are still to come."""
        return STEPS - self.at_step

    # -- living ----------------------------------------------------------------------------------

    async def attack(
        self,
        inject: Callable[["Campaign", random.Random], Awaitable[None]],
        number: str,
        *,
        at_rest: bool = False,
    ) -> Outcome:
        """Live on while the fault is injected, then one step more; judge. Raises FindingsError."""
        self.faults += 1
        self.outcome = Outcome()
        luck = random.Random(f"{self.seed} {number} {self.faults}")
        async with JournaledClient(self._addresses(), self.journal) as client:
            self.story = self._story(client)
            await self._set_up()
            counted, noted = await self._counters(), self._noted()
            first, restarts = self.at_step, self.restarts
            watch = Watch(self)
            async with background(self._tend), background(watch.run):
                if at_rest:
                    await inject(self, luck)
                    watch.healed()
                else:
                    await self._live_through(inject(self, luck), watch)
                await self._step()
                await self.story.settle()
                await self._all_up()
            self.outcome.live_seconds = watch.seconds()
            self.outcome.steps = self.at_step - first
            self.outcome.restarts = self.restarts - restarts
            evidence = await self._evidence(counted, noted)
            self.outcome.duplicates = sum(
                max(0, int(now - counted["duplicate"].get(place, 0)))
                for place, now in (await self._counters())["duplicate"].items()
            )
            wanted = await self.reference.kpis_after(self.at_step)
            findings = await asyncio.to_thread(
                all_findings, evidence, self.reference.effects, wanted, self.secrets
            )
            if self.outcome.live_seconds > LIVE_SECONDS:
                findings["I6"] = [f"a group stood still for {self.outcome.live_seconds:.0f} s"]
            if findings:
                self._keep(findings)
                raise FindingsError(in_words(findings))
        self.good = GoodRun(evidence, self.reference.effects, wanted, self.secrets)
        return self.outcome

    def _addresses(self) -> dict[str, list[str]]:
        return {name: [r.address for r in self.cluster.of(name)] for name in SERVICES}

    def _story(self, client: JournaledClient) -> PatientStory:
        known: PatientStory | None = getattr(self, "story", None)
        if known is None:
            return tell(
                client, self.cluster.issuer, self.cluster.clock, self.cluster.folder, self.seed
            )
        known.client = client
        return known

    async def _set_up(self) -> None:
        while self.at_step < _SETUP_STEPS:
            await self._step()

    async def _live_through(self, injection: Awaitable[None], watch: "Watch") -> None:
        task = asyncio.ensure_future(injection)
        task.add_done_callback(lambda _: watch.healed())
        try:
            # At least one step under fire; those that come while it lasts are live load, too.
            while True:
                next_at = time.monotonic() + _STEP_SECONDS
                step = asyncio.ensure_future(self._step())
                await asyncio.wait({task, step}, return_when=asyncio.FIRST_COMPLETED)
                if task.done() and task.exception() is not None:
                    step.cancel()
                    break
                await step
                await asyncio.wait({task}, timeout=max(0, next_at - time.monotonic()))
                if task.done():
                    break
        except BaseException:
            task.cancel()
            raise
        await task

    async def _step(self) -> None:
        step = self.story.steps()[self.at_step]
        self.step_under_way = step.name
        self.story.move_to(step.day)
        await step.run()
        await self.story.settle()
        self.at_step += 1

    async def run(self, blocking: Callable[[], T]) -> T:
        """Run what blocks in a thread."""
        return await asyncio.to_thread(blocking)

    async def restart(self, replica: Replica, **env: str) -> None:
        """End a replica in order and start it again in another environment."""
        await self.take_down(replica)
        replica.configure(**env)
        await self.bring_back(replica)

    async def take_down(self, replica: Replica) -> float:
        """End a replica in order and leave it so; return how many seconds it took."""
        self.held_down.add(replica.name)
        return await self.run(replica.terminate)

    async def bring_back(self, replica: Replica) -> None:
        """Start a replica that was taken down and wait until it is ready."""
        await self.run(replica.start)
        self.held_down.discard(replica.name)

    def extra(self, service: str, number: int) -> Replica:
        """Return one more replica, not started, which nobody calls and nobody restarts."""
        known = self.of(service, 2)
        (port,) = free_ports(1)
        return Replica(service, number, port, self.cluster.folder, known.environment)

    @contextlib.asynccontextmanager
    async def cut(self, port: int, mode: Mode) -> AsyncIterator[None]:
        """Break a link of the proxy inside the block."""
        await self.run(lambda: self.proxy.become(port, mode))
        try:
            yield
        finally:
            await self.run(self.proxy.heal)

    @contextlib.asynccontextmanager
    async def full(self, disk: Path) -> AsyncIterator[None]:
        """Leave no room on a disk inside the block."""
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(1024 * 1024)):
                continue
        try:
            yield
        finally:
            filler.unlink()

    async def duplicates(self, service: str) -> dict[int, float]:
        """Return by process how many events it has dropped as applied before."""
        counted = await self._counters(self.cluster.of(service))
        return {pid: number for (_, pid), number in counted["duplicate"].items()}

    async def dropped_duplicates(
        self, service: str, before: Mapping[int, float], seconds: float
    ) -> bool:
        """Return whether within this time a process drops more such events than `before`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            # The one that was killed answers nothing until it is back.
            with contextlib.suppress(httpx.TransportError):
                now = await self.duplicates(service)
                if any(number > before.get(pid, 0) for pid, number in now.items()):
                    return True
            await asyncio.sleep(0.2)
        return False

    async def arm(self, replica: Replica, failpoint: str) -> int:
        """Start a replica again that will die at the failpoint; return its process id."""
        await self.restart(replica, UPWARD_FAILPOINT=failpoint)
        return replica.pid

    async def dies(self, replica: Replica, pid: int, seconds: float) -> bool:
        """Return whether the replica's process ends by itself within this time."""
        deadline = time.monotonic() + seconds
        while replica.running and replica.pid == pid:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    async def until_back(self, replica: Replica, pid: int, seconds: float = 60) -> None:
        """Wait until a process other than the one that was killed is ready."""
        deadline = time.monotonic() + seconds
        while not replica.running or replica.pid == pid or not await self.run(replica.ready):
            assert time.monotonic() < deadline, f"{replica.name} did not come back"
            await asyncio.sleep(0.2)

    async def _tend(self, ended: asyncio.Event) -> None:
        """Restart what died, as a kubelet does."""
        while not ended.is_set():
            for replica in self.cluster.all:
                if not replica.running and replica.name not in self.held_down:
                    self.restarts += 1
                    replica.configure(UPWARD_FAILPOINT="")
                    await self.run(replica.launch)
            await asyncio.sleep(1)

    async def _all_up(self) -> None:
        await until(
            lambda: all(replica.ready() for replica in self.cluster.all),
            LIVE_SECONDS,
            "all replicas are ready",
        )

    # -- judging ---------------------------------------------------------------------------------

    async def _counters(
        self, replicas: Sequence[Replica] = ()
    ) -> dict[str, dict[tuple[str, int], float]]:
        """Return by outcome, service and process how much was consumed, by all if none is named."""
        found: dict[str, dict[tuple[str, int], float]] = {"applied": {}, "duplicate": {}}
        for replica in replicas or self.cluster.all:
            for outcome, by_process in found.items():
                by_process[replica.service, replica.pid] = await self.run(
                    partial(replica.metric, "upward_consumed_total", outcome=outcome)
                )
        return found

    def _noted(self) -> dict[str, int]:
        evidence = self._empty()
        self.stores.read(evidence)
        return {group: evidence.inbox[group].total() for group in GROUPS}

    def _empty(self) -> Evidence:
        return Evidence(
            journal=self.journal.commands(), outbox=[], topics=[], inbox={}, dead={},
            handled=handled(), foreign=frozenset(self.foreign),
        )  # fmt: skip

    async def _evidence(
        self, counted: dict[str, dict[tuple[str, int], float]], noted: dict[str, int]
    ) -> Evidence:
        evidence = self._empty()
        records = await self.topics.read()
        evidence.topics = events_on(records)
        await self.run(lambda: self.stores.read(evidence))
        events = exported(records, frozenset(self.foreign))
        summary = await summarize(self.story, events, ROSTER.name, time.monotonic())
        # The demo's own quick look reads an order between aggregates into the lines, which Kafka
        # does not keep and a relay that starts again does not restore.
        summary["violations"] = dict.fromkeys(summary["violations"], 0)
        evidence.kpis = summary["kpis"]
        evidence.checker = await self._checker(summary, events)
        now = (await self._counters())["applied"]
        for group, service in GROUPS.items():
            then = counted["applied"]
            of = {place: number for place, number in now.items() if place[0] == service}
            evidence.applied[group] = (
                noted[group] + sum(number - then.get(place, 0) for place, number in of.items()),
                of.keys() <= then.keys(),
            )
        evidence.texts = self._texts(records)
        return evidence

    def _texts(self, records: list[Record]) -> dict[str, bytes]:
        """Return what logs and topics have got since the last look."""
        texts = {}
        for file in self.cluster.folder.glob("*.log"):
            text = file.read_bytes()
            texts[file.name] = text[self._read_logs.get(file, 0) :]
            self._read_logs[file] = len(text)
        for record in records[self._read_records :]:
            parts = [record.value or b"", *(value or b"" for _, value in record.headers)]
            texts[record.topic] = b" ".join([texts.get(record.topic, b""), *parts])
        self._read_records = len(records)
        return texts

    async def _checker(self, summary: Json, events: list[Json]) -> str:
        lines, told = self.folder / "events.ndjson", self.folder / "summary.json"
        lines.write_text("".join(json.dumps(event) + "\n" for event in events))
        told.write_text(json.dumps(summary))
        command = [
            *(sys.executable, "-m", "tests.checker", str(lines), str(told)),
            "--allow-redelivery",
        ]
        done = await self.run(
            lambda: subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        )
        return "" if done.returncode == 0 else f"the checker: {done.stdout[-1500:]}{done.stderr}"

    def _keep(self, findings: dict[str, list[Finding]]) -> None:
        (self.folder / "findings.json").write_text(json.dumps(findings, indent=1))

    # -- Kafka, past the services ----------------------------------------------------------------

    async def publish(
        self, records: Sequence[Made], partition: int | None = None
    ) -> list[tuple[str, int, int]]:
        """Put records on topics, in this order; return where each lies."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.kafka.bootstrap, max_request_size=4 * 1024 * 1024
        )
        self.foreign |= {r.event_id for r in records if r.event_id.startswith(FOREIGN)}
        await producer.start()
        try:
            waiting = [
                await producer.send(
                    r.topic, r.value, key=r.key, headers=r.headers, partition=partition
                )
                for r in records
            ]
            places = [await sent for sent in waiting]
        finally:
            await producer.stop()
        return [(place.topic, place.partition, place.offset) for place in places]

    async def move_group(self, service: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Set a group's offsets, as an operator does while none of its members runs."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap,
            group_id=f"upward.{service}",
            enable_auto_commit=False,
        )
        consumer.assign(list(offsets))
        await consumer.start()
        try:
            await consumer.commit(dict(offsets))
        finally:
            await consumer.stop()

    @contextlib.contextmanager
    def without(self, service: str) -> Iterator[None]:
        """Let the story go on without waiting for a service, which only listens."""
        self.story.away.add(service)
        try:
            yield
        finally:
            self.story.away.discard(service)

    async def committed(self, service: str) -> dict[TopicPartition, int]:
        """Return a group's committed offsets."""
        async with admin(self.kafka.bootstrap) as client:
            return await _offsets(client, f"upward.{service}")

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return where these partitions end."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka.bootstrap)
        await consumer.start()
        try:
            return dict(await consumer.end_offsets(list(partitions)))
        finally:
            await consumer.stop()

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """Let the brokers forget what lies before these offsets, as retention does."""
        await self.topics.read()
        async with admin(self.kafka.bootstrap) as client:
            await client.delete_records(
                {place: RecordsToDelete(offset) for place, offset in before.items()}
            )

    async def replay_outboxes(self) -> None:
        """Publish everything again, as an operator does after records were lost."""
        operator = self.story.token("demo", "operator")
        for service in SERVICES:
            path = f"/{service}/v1/operations/replay"
            await self.story.client.send("POST", operator, path, {}, key=f"replay-{self.at_step}")


class Watch:
    """Looks at the groups' offsets all the time and tells how long they stood still."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self._healed_at: float | None = None
        self._waiting_since: dict[str, float] = {}
        self._moved: dict[str, float] = {}
        self._last: dict[str, int] = {}

    def healed(self) -> None:
        """Remember that the fault is over."""
        self._healed_at = time.monotonic()
        self._last.clear()
        self._waiting_since.clear()

    def seconds(self) -> float:
        """Return the longest time after the healing that a group with records stood still."""
        return max(self._moved.values(), default=0.0)

    async def run(self, ended: asyncio.Event) -> None:
        """Look until the end."""
        servers = self._campaign.kafka.bootstrap
        while not ended.is_set():
            # A paused or dead broker: look again.
            with contextlib.suppress(KafkaError, TimeoutError, OSError):
                async with asyncio.timeout(30) as limit:
                    await self._look(servers, ended, limit)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self, servers: str, ended: asyncio.Event, limit: asyncio.Timeout) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
        await consumer.start()
        try:
            async with admin(servers) as client:
                while not ended.is_set():
                    limit.reschedule(asyncio.get_running_loop().time() + 30)
                    for group in GROUPS:
                        offsets = await _offsets(client, group)
                        ends = await consumer.end_offsets(list(offsets))
                        self._see(group, sum(offsets.values()), sum(ends.values()))
                    await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await consumer.stop()

    def _see(self, group: str, done: int, end: int) -> None:
        now = time.monotonic()
        if self._healed_at is None:
            return
        if done > self._last.get(group, done) or done >= end:
            since = self._waiting_since.pop(group, None)
            if since is not None:
                self._moved[group] = max(self._moved.get(group, 0.0), now - since)
        if done < end:
            self._waiting_since.setdefault(group, now)
        self._last[group] = done


@contextlib.asynccontextmanager
async def admin(servers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """Connect to the brokers."""
    client = AIOKafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=10_000)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def background(work: Callable[[asyncio.Event], Awaitable[None]]) -> AsyncIterator[None]:
    """Run work beside the block; its event is set at the block's end, and then it must end."""
    # Not cancelled: Kafka's client loses cancellations.
    ended = asyncio.Event()
    task = asyncio.ensure_future(work(ended))
    try:
        yield
    finally:
        ended.set()
        await task


async def _offsets(client: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, int]:
    found = await client.list_consumer_group_offsets(group)
    return {place: meta.offset for place, meta in found.items() if meta.offset >= 0}


def mount(folder: Path) -> None:
    """Mount a small disk of memory. Raises CalledProcessError and OSError without the right to."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def may_mount() -> str:
    """Return why a small disk can't be mounted here, nothing if it can."""
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        try:
            mount(disk)
        except (OSError, subprocess.CalledProcessError):
            return "a small disk takes the right to mount one"
        subprocess.run(["umount", str(disk)], check=True)
    return ""


def _port(uri: str) -> int:
    return int(uri.partition("://")[2].partition("/")[0].rpartition(":")[2])


def _listen_on(kafka: KafkaCluster, port: int, advertised: int) -> None:
    """Give the first node a listener of its own for those who come through the proxy."""
    file = kafka.nodes[0].settings_file
    more = {
        "listeners": f",LINK://127.0.0.1:{port}",
        "advertised.listeners": f",LINK://127.0.0.1:{advertised}",
        "listener.security.protocol.map": ",LINK:PLAINTEXT",
    }
    lines = [line + more.get(line.partition("=")[0], "") for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines) + "\n")
