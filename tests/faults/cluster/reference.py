"""The same story without any fault, on one embedded process: what every other run must equal."""

import asyncio
import csv
import hashlib
import io
import sys
from collections import Counter
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from datetime import time as clock_time
from pathlib import Path

import httpx

from deploy.client import Client, Json
from deploy.demo.run import BREAKDOWNS, ROSTER, Options, make_story
from deploy.demo.story import START, Story
from deploy.local.event_log import read_events
from deploy.local.folder import DataFolder
from shared.clock import FileClock, monotonic
from shared.events.topics import SERVICES
from shared.http.auth import LocalIssuer
from tests.faults.cluster.evidence import Evidence, Told
from tests.faults.cluster.invariants import effects
from tests.faults.cluster.journal import Journal, JournaledClient
from tests.support.cluster import pseudonym_key
from tests.support.servers import ServerProcess, free_ports

MONTHS, MENTORS, MENTEES = 36, 30, 12
_CADENCE_DAYS = 14
_PATIENCE_SECONDS = 150.0


def small_roster() -> bytes:
    """Return all seniors of the demo's roster and every fifteenth of the others."""
    with ROSTER.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = [
        row
        for row in rows
        if row["level"] in {"0", "1", "2"}
        or hashlib.sha256(row["employee_id"].encode()).digest()[0] < 17
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=rows[0].keys())
    writer.writeheader()
    writer.writerows(chosen)
    return text.getvalue().encode()


def names_of(roster: bytes) -> list[str]:
    """Return what no other service may learn: full names."""
    rows = csv.DictReader(io.StringIO(roster.decode()))
    return sorted({row["name"] for row in rows if " " in row["name"]})


@dataclass
class PatientStory(Story):
    """The demo's story, which waits for services that are hurt, and for those `away` not at all."""

    away: set[str] = field(default_factory=set)

    async def settle(self) -> None:
        operator = self.token("demo", "operator")
        deadline = monotonic() + self.patience
        quiet: list[str] = []
        while left := [s for s in SERVICES if s not in self.away and s not in quiet]:
            flow = await self.client.get(operator, f"/{left[0]}/v1/operations/flow")
            if (
                not flow["outbox_pending"]
                and not flow["lag"]
                and not flow["stopped_because"]
                and datetime.fromisoformat(flow["scheduled_until"]) >= self.clock.now()
            ):
                quiet.append(left[0])
                continue
            quiet = []
            assert monotonic() < deadline, f"the services did not come to rest: {flow}"
            await asyncio.sleep(0.05)


def tell(
    client: Client, issuer: LocalIssuer, clock: FileClock, folder: Path, seed: int
) -> PatientStory:
    """Return the story; the same seed tells the same one on any platform."""
    options = Options(folder, ROSTER, seed, MONTHS, MENTORS, MENTEES, 0)
    demo = make_story(options, client, issuer, clock, small_roster())
    told = {known.name: getattr(demo, known.name) for known in fields(demo) if known.init}
    story = PatientStory(**told | {"patience": _PATIENCE_SECONDS})
    # Every pair meets in every wave: most of the story is load.
    story.spec["cadence_days"] = _CADENCE_DAYS
    return story


async def kpi_rows(story: Story) -> list[Json]:
    """Return the program's KPI rows now, in all breakdowns."""
    analyst = story.token("demo-analyst", "analyst")
    rows: list[Json] = []
    for by in BREAKDOWNS:
        answer = await story.client.get(
            analyst, "/reporting/v1/kpis", program=story.program_id, by=by
        )
        rows += answer["rows"]
    return rows


class Undisturbed:
    """The story on an embedded platform without any fault, told as far as somebody asks.

    `start` and `stop` block.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.effects: dict[str, Counter[str]] = {}
        self._seed = seed
        self._folder = folder
        self._kpis: list[list[Json]] = []
        self._story: Story | None = None

    def start(self) -> None:
        """Start the platform."""
        self._folder.mkdir(parents=True)
        self._data = DataFolder(self._folder / "data")
        self._data.keep_secret("enrollment", "pseudonyms", pseudonym_key("enrollment"))
        self._clock = FileClock(self._data.clock, datetime.combine(START, clock_time(7), UTC))
        (port,) = free_ports(1)
        self._address = f"http://127.0.0.1:{port}"
        command = [
            *(sys.executable, "-m", "deploy.cli", "up"),
            *("--data", str(self._data.path), "--port", str(port)),
        ]
        log = self._folder / "embedded.log"
        self._platform = ServerProcess("embedded", command, log, self._ready)
        self._journal = Journal(self._folder / "journal.ndjson")
        self._platform.start()

    def stop(self) -> None:
        """End the platform."""
        self._platform.terminate()
        self._journal.close()

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self._address}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    async def kpis_after(self, steps: int) -> list[Json]:
        """Return the KPI rows after so many steps, with `effects` told up to there, too."""
        if len(self._kpis) < steps:
            addresses = {name: [self._address] for name in SERVICES}
            async with JournaledClient(addresses, self._journal) as client:
                await self._live_on(client, steps)
            self._look()
        return self._kpis[steps - 1]

    async def _live_on(self, client: JournaledClient, steps: int) -> None:
        if self._story is None:
            issuer = LocalIssuer(self._data.issuer_key)
            self._story = tell(client, issuer, self._clock, self._folder, self._seed)
        self._story.client = client
        for step in self._story.steps()[len(self._kpis) : steps]:
            self._story.move_to(step.day)
            await step.run()
            await self._story.settle()
            rows = [] if step.name == "import" else await kpi_rows(self._story)
            self._kpis.append(rows)

    def _look(self) -> None:
        told = [_told(event) for event in read_events(self._data.log)]
        evidence = Evidence(
            journal=self._journal.commands(), outbox=told, topics=[], inbox={}, dead={},
            handled={}, foreign=frozenset(),
        )  # fmt: skip
        self.effects = effects(evidence)


def _told(event: Json) -> Told:
    return Told(
        event_id=event["id"],
        type=event["type"],
        source=event["source"],
        subject=event["subject"],
        version=event["aggregateversion"],
        correlation=event.get("correlationid"),
        caused="causationid" in event,
        digest="",
        topic=event["logtopic"],
    )
