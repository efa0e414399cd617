"""A round of a whole company inside the running platform: what others feel of it, and a kill."""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from deploy.local.folder import DataFolder
from services.matching.domain.pool import PoolMember
from services.matching.domain.program import Program
from services.matching.engine.model import Candidate
from services.matching.repository import DOCUMENTS
from shared.clock import SystemClock, monotonic
from shared.events.participants import Enrolled
from shared.store.port import Transaction
from shared.store.sqlite import SqliteStore
from tests.load.matching.pools import POLICY, pool
from tests.support.demo import ROOT
from tests.support.servers import ServerProcess
from tests.support.servers.process import free_ports
from tests.unit.matching.builders import published

_AT_ONCE = 1000
_PER_SECOND = 50
_IDLE_SECONDS = 20.0
_LONGEST_SECONDS = 900.0
_PROGRAM = "program"
_BASE = "/matching/v1"


@dataclass(frozen=True)
class Inside:
    """What was measured: seconds of each answer before the round and while it ran."""

    idle: Sequence[float]
    busy: Sequence[float]
    seconds: float
    proposed: int
    proposed_after_kill: int
    doubled: int
    lost: int


class _Platform:
    """`upward up` on a folder of its own, and a coordinator's client of it."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        (port,) = free_ports(1)
        self._url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "deploy.cli", "up", "--data", str(self.data)]
        self.process = ServerProcess(
            "upward", [*command, "--port", str(port)], folder / "log", self._answers
        )
        self.client = httpx.AsyncClient(base_url=self._url, timeout=30)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self._url}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    async def start(self) -> None:
        await asyncio.to_thread(self.process.start)
        told = await asyncio.to_thread(
            _upward, "token", "--as", "coordinator", "--program", _PROGRAM, "--data", str(self.data)
        )
        self.client.headers["Authorization"] = f"Bearer {told.strip()}"

    async def ask(self, method: str, path: str, **options: Any) -> Any:
        answer = await self.client.request(method, f"{_BASE}{path}", **options)
        return answer.raise_for_status().json()


def _upward(*arguments: str) -> str:
    command = [sys.executable, "-m", "deploy.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def _member(person: Candidate, now: datetime) -> PoolMember:
    event = Enrolled.model_validate(
        person.model_dump(include=set(Enrolled.model_fields) & set(Candidate.model_fields))
        | {
            "program_id": _PROGRAM,
            "hired_on": None,
            "ready": True,
            "ready_at": now - timedelta(days=person.waited_days),
            "enrolled_at": now - timedelta(days=200),
        }
    )
    member = PoolMember.placeholder(event).apply(event, 1)
    return member.changed(former_partners=person.former_partners, declines=person.declines)


async def fill(data: Path, people: int) -> None:
    """Write a program and a pool of so many a side where the matching service keeps them."""
    now = datetime.now(UTC)
    config = published(
        program_id=_PROGRAM,
        starts_on=now.date() - timedelta(days=30),
        ends_on=now.date() + timedelta(days=700),
        **POLICY.model_dump(exclude={"term_middle", "weights"}),
    )
    store = SqliteStore(
        DataFolder(data).store("matching"), service="matching", region="local", clock=SystemClock()
    )
    await store.open(DOCUMENTS)

    async def put(tx: Transaction, members: Sequence[PoolMember]) -> None:
        for member in members:
            tx.put(member)

    async def publish(tx: Transaction) -> None:
        tx.put(Program(id=_PROGRAM).publish(config))

    await store.transact(publish)
    some: list[PoolMember] = []
    for person in pool(people, people, 1):
        some.append(_member(person, now))
        if len(some) == _AT_ONCE:
            await store.transact(put, some)
            some = []
    await store.transact(put, some)
    await store.close()


async def _answer_times(platform: _Platform, go_on: Callable[[], Awaitable[bool]]) -> list[float]:
    """Ask at a steady rate while `go_on`; return how long each answer took from when it was due."""
    times: list[float] = []

    async def ask(due: float) -> None:
        await platform.ask("GET", f"/programs/{_PROGRAM}/waiting-list", params={"limit": 5})
        times.append(monotonic() - due)

    due = monotonic()
    async with asyncio.TaskGroup() as asking:
        while await go_on():
            due += 1 / _PER_SECOND
            await asyncio.sleep(max(0.0, due - monotonic()))
            asking.create_task(ask(due))
    return times


async def _round(platform: _Platform) -> str:
    opened = await platform.ask("POST", f"/programs/{_PROGRAM}/rounds", json={"seed": 1})
    return str(opened["round_id"])


async def _until(platform: _Platform, round_id: str, wanted: set[str]) -> dict[str, Any]:
    deadline = monotonic() + _LONGEST_SECONDS
    while True:
        found: dict[str, Any] = await platform.ask("GET", f"/rounds/{round_id}")
        if found["status"] in wanted:
            return found
        assert monotonic() < deadline, f"the round is {found['status']} after so long"
        await asyncio.sleep(0.05)


async def measure(people: int) -> Inside:
    """Run a round of so many a side twice: undisturbed, and with a kill while it commits."""
    with tempfile.TemporaryDirectory(prefix="upward-bench-") as folder:
        quiet = _Platform(Path(folder) / "quiet")
        killed = _Platform(Path(folder) / "killed")
        for one in (quiet, killed):
            one.data.parent.mkdir()
            await fill(one.data, people)
        try:
            idle, busy, seconds, proposed = await _undisturbed(quiet)
        finally:
            await asyncio.to_thread(quiet.process.kill)
        try:
            after_kill, ids = await _killed(killed)
        finally:
            await asyncio.to_thread(killed.process.kill)
        told = Counter(ids)
        return Inside(
            idle=idle,
            busy=busy,
            seconds=seconds,
            proposed=proposed,
            proposed_after_kill=after_kill,
            doubled=sum(number - 1 for number in told.values()),
            lost=after_kill - len(told),
        )


async def _undisturbed(platform: _Platform) -> tuple[list[float], list[float], float, int]:
    await platform.start()
    until = monotonic() + _IDLE_SECONDS

    async def still_idle() -> bool:
        return monotonic() < until

    idle = await _answer_times(platform, still_idle)
    begun = monotonic()
    round_id = await _round(platform)
    ending = asyncio.create_task(_until(platform, round_id, {"completed", "failed"}))

    async def still_runs() -> bool:
        return not ending.done()

    busy = await _answer_times(platform, still_runs)
    done = await ending
    assert done["status"] == "completed", done
    return idle, busy, monotonic() - begun, int(done["figures"]["proposed"])


async def _killed(platform: _Platform) -> tuple[int, list[str]]:
    await platform.start()
    round_id = await _round(platform)
    while True:
        found = await _until(platform, round_id, {"committing", "completed"})
        assert found["status"] == "committing", "it was completed before it could be killed"
        if found["progress"]["done"] > 0.2:
            break
        await asyncio.sleep(0.02)
    await asyncio.to_thread(platform.process.kill)
    await platform.start()
    done = await _until(platform, round_id, {"completed", "failed"})
    assert done["status"] == "completed", done
    await asyncio.to_thread(platform.process.terminate)
    file = platform.data.parent / "events.ndjson"
    await asyncio.to_thread(_upward, "events", "export", str(file), "--data", str(platform.data))
    # The log may hold an event twice after a kill: with the same id, which nobody counts twice.
    proposed: dict[str, str] = {}
    with file.open("rb") as lines:
        for line in lines:
            event = json.loads(line)
            if event["type"] == "upward.pair-proposed.v1":
                proposed[event["id"]] = event["subject"]
    return int(done["figures"]["proposed"]), list(proposed.values())
