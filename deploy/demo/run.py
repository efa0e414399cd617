"""Running the demo: the platform in a process of its own, a year of commands, the figures."""

import asyncio
import contextlib
import hashlib
import os
import socket
import sys
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.client import Client, Json, UnreachableError
from deploy.demo.invariants import count_violations, without_redeliveries
from deploy.demo.story import START, DemoError, Story
from deploy.local.event_log import read_events
from deploy.local.folder import DataFolder
from shared.clock import FileClock, format_instant, monotonic
from shared.http.auth import LocalIssuer

HERE = Path(__file__).parent
ROSTER = HERE / "roster" / "uk_fco_2011.csv"
PROGRAM = HERE / "program.toml"
BREAKDOWNS = ("none", "role", "region", "department", "month")
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Options:
    """What the demo is run with."""

    data: Path
    roster: Path
    seed: int
    months: int
    mentors: int
    mentees: int
    port: int


class Journal(BaseModel):
    """How far a demo on this data folder is; written after each step."""

    seed: int
    months: int
    mentors: int
    mentees: int
    roster: str
    done: list[str] = []
    refused: dict[str, int] = {}

    @staticmethod
    def file(data: Path) -> Path:
        """Return where the journal is kept."""
        return data / "demo.json"

    @classmethod
    def open(cls, options: Options) -> "Journal":
        """Return the folder's journal, or a new one. Raises DemoError for another demo's folder."""
        fresh = cls(
            seed=options.seed,
            months=options.months,
            mentors=options.mentors,
            mentees=options.mentees,
            roster=options.roster.name,
        )
        file = cls.file(options.data)
        if not file.exists():
            if options.data.exists() and any(options.data.iterdir()):
                msg = f"{options.data} holds other data; choose an empty folder."
                raise DemoError(msg)
            return fresh
        known = cls.model_validate_json(file.read_bytes())
        if known.model_copy(update={"done": [], "refused": {}}) != fresh:
            msg = f"{options.data} holds a demo with other options; choose another folder."
            raise DemoError(msg)
        return known

    def save(self, data: Path) -> None:
        """Write the journal; whole or not at all."""
        file = self.file(data)
        partial = file.with_suffix(".part")
        partial.write_text(self.model_dump_json())
        partial.replace(file)


def free_port(wanted: int) -> int:
    """Return `wanted` if it is free on loopback, else some free port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    msg = "There is no free port on the loopback address."
    raise DemoError(msg)


@contextlib.asynccontextmanager
async def platform_process(data: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `upward up` on the folder; it ends with the block, or when this process dies."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "deploy.cli",
        "up",
        "--data",
        str(data),
        "--port",
        str(port),
        "--until-stdin-closes",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 60)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _until_ready(client: Client, process: asyncio.subprocess.Process) -> None:
    deadline = monotonic() + _START_SECONDS
    while monotonic() < deadline:
        if process.returncode is not None:
            msg = "The platform did not start; what it said stands above."
            raise DemoError(msg)
        with contextlib.suppress(UnreachableError):
            status, _ = await client.text("/readyz")
            if status == 200:
                return
        await asyncio.sleep(0.05)
    msg = "The platform did not get ready in a minute."
    raise DemoError(msg)


@dataclass
class Demo:
    """A demo at work: its story, its journal, and the running platform's client."""

    options: Options
    story: Story
    journal: Journal

    @classmethod
    def prepare(cls, options: Options, client: Client) -> "Demo":
        """Open the journal and set the clock. Raises DemoError and OSError."""
        roster = options.roster.read_bytes()
        journal = Journal.open(options)
        options.data.mkdir(parents=True, exist_ok=True)
        folder = DataFolder(options.data)
        clock = FileClock(folder.clock, datetime.combine(START, time(7), UTC))
        journal.save(options.data)
        # Pseudonyms decide ties and luck: with them from the seed, a seed is the same year again.
        folder.keep_secret(
            "enrollment", "pseudonyms", hashlib.sha256(f"demo {options.seed}".encode()).digest()
        )
        story = make_story(options, client, LocalIssuer(folder.issuer_key), clock, roster)
        story.refused.update(journal.refused)
        return cls(options, story, journal)

    async def live(self, process: asyncio.subprocess.Process, console: Console) -> None:
        """Run the steps that are not done yet, saying each. Raises DemoError if the platform dies.

        A step that was cut off is run again: everything in it is idempotent.
        """
        await _until_ready(self.story.client, process)
        steps = self.story.steps()
        progress = Progress(
            TextColumn("{task.description:<62}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        with progress:
            bar = progress.add_task("", total=len(steps), completed=len(self.journal.done))
            for step in steps:
                if step.name in self.journal.done:
                    continue
                moment = self.story.move_to(step.day)
                progress.update(bar, description=f"{moment:%Y-%m-%d}  {step.said}")
                try:
                    await step.run()
                except UnreachableError as error:
                    msg = "The platform ended; run the demo again on the same folder to go on."
                    raise DemoError(msg) from error
                self.journal.done.append(step.name)
                self.journal.refused = dict(self.story.refused)
                self.journal.save(self.options.data)
                progress.advance(bar)

    async def summarize(self, started: float) -> Json:
        """Return KPIs, counts and invariants, as `--summary` writes them."""
        events = read_events(DataFolder(self.options.data).log)
        return await summarize(self.story, events, self.options.roster.name, started)


def make_story(
    options: Options, client: Client, issuer: LocalIssuer, clock: FileClock, roster: bytes
) -> Story:
    """Return the year of the demo's program; the same options tell the same year."""
    spec = tomllib.loads(PROGRAM.read_text())
    program_id = spec.pop("program_id")
    return Story(
        client=client,
        issuer=issuer,
        clock=clock,
        spec=orjson.loads(orjson.dumps(spec)),
        program_id=program_id,
        roster=roster,
        seed=options.seed,
        months=options.months,
        mentors=options.mentors,
        mentees=options.mentees,
    )


async def summarize(story: Story, log: Iterable[Json], roster: str, started: float) -> Json:
    """Return KPIs as the API shows them, and the counts and invariants of the log's events."""
    analyst = story.token("demo-analyst", "analyst")
    kpis: list[Json] = []
    for by in BREAKDOWNS:
        answer = await story.client.get(
            analyst, "/reporting/v1/kpis", program=story.program_id, by=by
        )
        kpis += answer["rows"]
    events, redelivered = without_redeliveries(log)
    counts = Counter(_short(event["type"]) for event in events)
    return {
        "program": story.program_id,
        "roster": roster,
        "seed": story.seed,
        "months": story.months,
        "as_of": format_instant(story.clock.now()),
        "seconds": round(monotonic() - started, 1),
        "kpis": kpis,
        "events": dict(sorted(counts.items())),
        "redelivered": redelivered,
        "violations": count_violations(events),
        "refused": dict(sorted(story.refused.items())),
    }


def _short(event_type: str) -> str:
    return event_type.removeprefix("upward.").rpartition(".")[0]


def page_url(port: int, story: Story) -> str:
    """Return the address of the KPI page; the token is in the fragment, which is never sent."""
    token = story.token("demo-analyst", "analyst")
    return f"http://127.0.0.1:{port}/reporting/#program={story.program_id}&token={token}"


def headline(summary: Json) -> list[tuple[str, str, str, str]]:
    """Return (KPI, value, n, interval) of the whole program, for the terminal."""
    rows = []
    for row in summary["kpis"]:
        if row["breakdown"] or row["period"] != "all":
            continue
        rows.append((_title(row), *_figures(row)))
    return rows


def _title(row: Json) -> str:
    name = str(row["kpi"]).replace("_", " ")
    return f"{name} (mean, 1 to 5)" if row["unit"] == "mean_1_to_5" else name


def _figures(row: dict[str, Any]) -> tuple[str, str, str]:
    if not row["shown"]:
        return f"not shown: {row['why_hidden']}", "", ""
    value = row["value"]
    share = row["unit"] == "share"
    text = f"{value:.1%}" if share else f"{value:.2f}"
    if row["unit"] == "days":
        text = f"{value:g} days"
    interval = ""
    if row["low"] is not None:
        interval = f"{row['low']:.1%} to {row['high']:.1%}"
    return text, f"{row['n']:,}", interval
