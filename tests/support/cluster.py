"""Upward as a cluster: every service in processes of its own, on a real Kafka and MongoDB."""

import asyncio
import base64
import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from datetime import time as clock_time
from pathlib import Path
from typing import Any

import httpx

from deploy.client import Client
from deploy.cluster.event_log import read_events
from deploy.cluster.platform import derived_secret
from deploy.cluster.settings import KafkaSettings
from deploy.demo.run import ROSTER, Options, make_story, summarize
from deploy.demo.story import START, Story
from shared.clock import FileClock, monotonic
from shared.events.topics import SERVICES
from shared.http.auth import LOCAL_ISSUER, LocalIssuer
from tests.support.demo import ROOT
from tests.support.servers import ServerProcess, free_ports

SECRET = hashlib.sha256(b"a platform under test").digest()
"""The platform's secret key: with a fixed one, a seed tells the same year again."""


class Replica(ServerProcess):
    """One process of one service."""

    def __init__(
        self, service: str, number: int, port: int, folder: Path, env: Mapping[str, str]
    ) -> None:
        self.service = service
        self.number = number
        self.address = f"http://127.0.0.1:{port}"
        command = [
            *(sys.executable, "-m", "deploy.cli", "serve", service),
            *("--port", str(port), "--host", "127.0.0.1"),
        ]
        log = folder / f"{service}-{number}.log"
        super().__init__(f"{service} {number}", command, log, self.ready, env)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the next start."""
        return dict(self._env or {})

    def configure(self, **env: str) -> None:
        """Change variables of the environment from the next start on."""
        self._env = self.environment | env

    def ready(self) -> bool:
        """Return whether the replica says that it can work."""
        try:
            return httpx.get(f"{self.address}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def live(self) -> bool:
        """Return whether the replica says that it needs no restart."""
        try:
            return httpx.get(f"{self.address}/livez", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        return sum(
            value
            for sample, value in _samples(httpx.get(f"{self.address}/metrics", timeout=20).text)
            if sample.partition("{")[0] == name
            and all(f'{label}="{wanted}"' in sample for label, wanted in labels.items())
        )


def _samples(text: str) -> Iterator[tuple[str, float]]:
    for line in text.splitlines():
        if not line.startswith("#"):
            sample, _, value = line.rpartition(" ")
            yield sample, float(value)


class ClusterClient(Client):
    """A client that goes to the replicas of each service in turn, as a load balancer would."""

    def __init__(
        self, addresses: Mapping[str, Iterable[str]], pauses: Iterable[float] = (0.05, 0.2, 1.0)
    ) -> None:
        super().__init__("http://127.0.0.1", tuple(pauses))
        self._turns = {name: itertools.cycle(tuple(found)) for name, found in addresses.items()}

    def address(self, path: str) -> str:
        """Return the next replica of the service that the path names."""
        return next(self._turns[path.split("/", 2)[1]])


@dataclass
class UpwardCluster:
    """All services, `replicas` processes each, on servers that run already.

    Its methods block but for those that say otherwise. One Kafka cluster carries one Upward: make
    it anew, or `wipe` it, for the next.
    """

    folder: Path
    kafka: str
    mongodb: str
    replicas: int = 2
    replication: int = 1
    services: tuple[str, ...] = SERVICES
    env: dict[str, str] = field(default_factory=dict)
    all: list[Replica] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.issuer = LocalIssuer(self.folder / "issuer.pem")
        self.clock = FileClock(self.folder / "clock", datetime.combine(START, clock_time(7), UTC))
        jwks = self.folder / "jwks.json"
        jwks.write_text(json.dumps({"keys": [self.issuer.jwk()]}))
        # The folder's name: databases of several clusters share one server.
        prefix = f"u{hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]}_"
        self.env = {
            "UPWARD_KAFKA_SERVERS": self.kafka,
            "UPWARD_MONGODB_URI": self.mongodb,
            "UPWARD_MONGODB_DATABASE_PREFIX": prefix,
            "UPWARD_AUTH_ISSUER": LOCAL_ISSUER,
            "UPWARD_AUTH_JWKS": str(jwks),
            "UPWARD_SECRET_KEY": base64.b64encode(SECRET).decode(),
            "UPWARD_CLOCK_FILE": str(self.folder / "clock"),
            **self.env,
        }
        ports = iter(free_ports(len(self.services) * self.replicas))
        self.all = [
            Replica(service, number, next(ports), self.folder, {**os.environ, **self.env})
            for service in self.services
            for number in range(1, self.replicas + 1)
        ]

    def prepare(self) -> None:
        """Create topics, collections and indexes, as a deployment does before its services."""
        self.run("topics", "apply", "--replication", str(self.replication))
        self.run("migrate")

    def run(self, *arguments: str) -> str:
        """Run the `upward` command in the cluster's environment and return what it said."""
        done = self.attempt(*arguments)
        assert done.returncode == 0, f"upward {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def attempt(self, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run the `upward` command, also where it may fail, with these variables changed."""
        return subprocess.run(
            [sys.executable, "-m", "deploy.cli", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.env, **env},
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self) -> None:
        """Start every replica and wait until all are ready."""
        for replica in self.all:
            replica.launch()
        for replica in self.all:
            replica.wait_until_it_answers()

    def of(self, service: str) -> list[Replica]:
        """Return the replicas of a service."""
        return [replica for replica in self.all if replica.service == service]

    def kill(self) -> None:
        """End all replicas at once, as a power cut would."""
        for replica in self.all:
            replica.kill()

    def terminate(self) -> list[float]:
        """Ask all replicas to end at once; return how long each took, in seconds."""
        with ThreadPoolExecutor(len(self.all)) as threads:
            return list(threads.map(Replica.terminate, self.all))

    def client(self, pauses: Iterable[float] = (0.05, 0.2, 1.0)) -> ClusterClient:
        """Return a client that uses all replicas."""
        addresses = {name: [r.address for r in self.of(name)] for name in self.services}
        return ClusterClient(addresses, pauses)

    def story(
        self,
        client: Client,
        *,
        seed: int = 1,
        months: int = 2,
        mentors: int = 24,
        mentees: int = 10,
    ) -> Story:
        """Return the demo's year on this cluster."""
        options = Options(self.folder, ROSTER, seed, months, mentors, mentees, 0)
        return make_story(options, client, self.issuer, self.clock, ROSTER.read_bytes())

    async def live(self, story: Story) -> dict[str, Any]:
        """Live the whole story and return its summary, as the demo writes it."""
        started = monotonic()
        for step in story.steps():
            story.move_to(step.day)
            await step.run()
        return await self.summarize(story, started)

    async def summarize(self, story: Story, started: float) -> dict[str, Any]:
        """Return KPIs, counts and invariants of what happened so far."""
        settings = KafkaSettings(servers=tuple(self.kafka.split(",")))
        events = [event async for event in read_events(settings)]
        return await summarize(story, events, ROSTER.name, started)

    def check(self, summary: dict[str, Any], *, redelivery: bool = False) -> str:
        """Let the independent checker compare the exported events and the summary."""
        events, told = self.folder / "events.ndjson", self.folder / "summary.json"
        self.run("events", "export", str(events))
        told.write_text(json.dumps(summary))
        command = [sys.executable, "-m", "tests.checker", str(events), str(told)]
        if redelivery:
            command.append("--allow-redelivery")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        return done.stdout


def pseudonym_key(service: str) -> bytes:
    """Return what an embedded platform must be given for the same pseudonyms as a cluster's."""
    return derived_secret(SECRET, service, "pseudonyms")


async def until(condition: Any, seconds: float, what: str) -> None:
    """Wait until the condition holds; fail, saying what was waited for, when it does not."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} seconds"
        await asyncio.sleep(0.05)
