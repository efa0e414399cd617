"""Matching on the embedded platform: events in, rounds, answers, time passing, events out."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.matching import previews, rounds
from services.matching.domain.pool import PoolMember
from services.matching.engine.model import Result
from services.matching.engine.solve import solve
from services.matching.engine.task import OUT_OF_MEMORY, Task
from services.matching.engine.watch import UNWATCHED, Progress
from services.matching.engine.what_if import what_if
from services.matching.solver import Heard
from shared.events.envelope import Event
from shared.events.pairs import (
    PairDeclined,
    Paired,
    PairEnded,
    PairExpired,
    PairPaused,
    PairProposed,
    PairResumed,
    PairRotated,
    RoundCompleted,
)
from shared.events.participants import (
    Departed,
    Enrolled,
    OrgChanged,
    OrgFacts,
    Paused,
    ProfileChanged,
    Resumed,
    TrainingCompleted,
    Withdrawn,
    WorkingHours,
)
from shared.events.programs import ProgramClosed
from shared.store.port import Transaction
from tests.support.platform import RunningPlatform, json_of, running_platform
from tests.unit.matching.builders import NOW, enrolled, mentor, published

PROGRAM = "program"
BASE = "/matching/v1"
Json = dict[str, Any]
TERM = timedelta(days=7 + 181)


async def solve_here(task: Task, _heard: Heard) -> Result:
    """What the solver's process does, without the time that its start takes."""
    return solve(task.pool(), task.order.policy, task.order.seed)


@pytest.fixture(autouse=True)
def quick_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "solve_apart", solve_here)


def who(name: str) -> dict[str, Any]:
    return {"participant_id": name, "person_id": f"person-{name}", "program_id": PROGRAM}


def senior(name: str, **fields: Any) -> Enrolled:
    return enrolled(name, role="mentee", **fields)


def moved(name: str, **facts: Any) -> OrgChanged:
    """Return the event of a move from where the builders put everybody."""
    place = mentor(name)
    usual = OrgFacts(
        level=6 if name.startswith("m") else 2,
        department=place.department,
        manager_chain=place.manager_chain,
    )
    return OrgChanged(**who(name), previous=usual, current=usual.model_copy(update=facts))


class Office:
    """A running matching service, its coordinator, and its participants' clients."""

    def __init__(self, running: RunningPlatform) -> None:
        self.running = running
        self.coordinator = httpx.AsyncClient()
        self._people: dict[str, httpx.AsyncClient] = {}

    async def connect(self) -> None:
        self.coordinator = await self.running.client("office", "coordinator", programs=(PROGRAM,))

    async def person(self, name: str) -> httpx.AsyncClient:
        if name not in self._people:
            self._people[name] = await self.running.person(f"person-{name}")
        return self._people[name]

    async def publish(self, *events: Event) -> None:
        for event in events:
            await self.running.publish(event)
        await self.running.settle()

    async def at(self, moment: datetime) -> None:
        self.running.clock.set(moment)
        await self.running.settle()

    async def tick(self) -> None:
        """Wait until every job has run once more."""
        await self.at(self.running.clock.now() + timedelta(microseconds=1))

    async def request(self, **body: Any) -> httpx.Response:
        return await self.coordinator.post(f"{BASE}/programs/{PROGRAM}/rounds", json=body)

    async def round(self, **body: Any) -> Json:
        """Run a round to its end."""
        requested = json_of(await self.request(**body), 202)
        await self.tick()
        return json_of(await self.coordinator.get(f"{BASE}/rounds/{requested['round_id']}"))

    async def rounds(self) -> list[Json]:
        answer = await self.coordinator.get(f"{BASE}/programs/{PROGRAM}/rounds")
        return items(answer)

    async def pairs(self, status: str) -> list[Json]:
        query = {"program": PROGRAM, "status": status}
        return items(await self.coordinator.get(f"{BASE}/pairs", params=query))

    async def answer(self, pair: Json, name: str, verb: str, **headers: str) -> httpx.Response:
        client = await self.person(name)
        return await client.post(f"{BASE}/pairs/{pair['pair_id']}/{verb}", headers=headers)

    async def accept_all(self) -> list[Json]:
        """Let everybody accept what is proposed to them; return the pairs."""
        for pair in await self.pairs("proposed"):
            for name in names(pair):
                json_of(await self.answer(pair, name, "accept"))
        await self.running.settle()
        return await self.pairs("active")

    async def waiting(self, client: httpx.AsyncClient | None = None) -> dict[str, str]:
        """Return the reason by participant."""
        asked = client or self.coordinator
        found = items(await asked.get(f"{BASE}/programs/{PROGRAM}/waiting-list"))
        return {entry["participant_id"]: entry["reason"] for entry in found}

    async def dead_letters(self) -> list[str]:
        operator = await self.running.client("ops", "operator")
        answer = await operator.get(f"{BASE}/operations/dead-letters")
        return [letter["reason"] for letter in items(answer)]


def items(answer: httpx.Response) -> list[Json]:
    found = json_of(answer)["items"]
    assert isinstance(found, list)
    return found


def names(pair: Json) -> list[str]:
    return [side["participant_id"] for side in (pair["mentor"], *pair["mentees"])]


def code_of(answer: httpx.Response, status: int) -> str:
    return str(json_of(answer, status)["code"])


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[Office]:
    async with running_platform(tmp_path, services=["matching"], start=NOW) as running:
        office = Office(running)
        await office.connect()
        yield office


@pytest.fixture
async def office(empty: Office) -> Office:
    """A program with one mentor and one mentee."""
    await empty.publish(published(), enrolled("m"), senior("s"))
    return empty


@pytest.fixture
async def proposed(office: Office) -> Json:
    await office.round()
    (pair,) = await office.pairs("proposed")
    return pair


@pytest.fixture
async def active(office: Office, proposed: Json) -> Json:
    (pair,) = await office.accept_all()
    assert pair["pair_id"] == proposed["pair_id"]
    return pair


# -- rounds ---------------------------------------------------------------------------------------


async def test_a_round_proposes_pairs_to_both_sides_with_the_same_rationale(empty: Office) -> None:
    await empty.publish(
        published(), enrolled("m1"), enrolled("m2"), senior("s1"), senior("s2"), senior("s3")
    )
    done = await empty.round(seed=7)

    assert (done["status"], done["kind"], done["seed"]) == ("completed", "round", 7)
    assert done["figures"]["proposed"] == 2
    assert done["figures"]["pool"] == {"mentors": 2, "mentees": 3}
    assert done["figures"]["unmatched"] == {"no_partner_left": 1}
    pairs = await empty.pairs("proposed")
    told = {event.pair_id: event for event in empty.running.events(PairProposed)}
    assert len(pairs) == len(told) == 2
    for pair in pairs:
        views = [
            json_of(await (await empty.person(name)).get(f"{BASE}/pairs/{pair['pair_id']}"))
            for name in names(pair)
        ]
        assert views[0] == views[1] == pair | {"you_accepted": False}
        assert sum(term["points"] for term in pair["rationale"]) == pair["score"] > 0
        assert all(term["text"] for term in pair["rationale"])
        assert told[pair["pair_id"]].score == pair["score"]
    (event,) = empty.running.events(RoundCompleted)
    assert event.objective == event.bound == sum(pair["score"] for pair in pairs)
    assert (event.proposed, event.round_id, event.gap) == (2, done["round_id"], 0)


async def test_a_second_round_waits_until_the_first_is_done(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    async def slow(task: Task, heard: Heard) -> Result:
        await gate.wait()
        return await solve_here(task, heard)

    monkeypatch.setattr(rounds, "solve_apart", slow)
    try:
        answers = await asyncio.gather(*(office.request() for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409, 409]
        assert code_of(await office.request(), 409) == "round_open"
    finally:
        gate.set()
    await office.tick()
    assert [found["status"] for found in await office.rounds()] == ["completed"]
    assert (await office.round())["status"] == "completed"
    assert len(office.running.events(RoundCompleted)) == 2


async def test_a_round_is_asked_for_once_with_the_same_idempotency_key(office: Office) -> None:
    key = {"Idempotency-Key": "round-1"}
    url = f"{BASE}/programs/{PROGRAM}/rounds"
    first = json_of(await office.coordinator.post(url, json={}, headers=key), 202)
    await office.tick()
    assert json_of(await office.coordinator.post(url, json={}, headers=key), 202) == first
    assert len(await office.rounds()) == 1


async def test_a_solver_that_dies_fails_its_round_and_frees_the_program(
    office: Office, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o700)
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(killed))
        failed = await office.round()
    assert (failed["status"], failed["failure"], failed["figures"]) == (
        "failed",
        "solver_failed",
        None,
    )
    assert not office.running.events(RoundCompleted)
    # The next one, in a process that lives.
    assert (await office.round())["figures"]["proposed"] == 1


async def test_a_pool_that_is_too_large_for_the_solver_fails_its_round_with_that_reason(
    office: Office, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.write_text(f"#!/bin/sh\nexit {OUT_OF_MEMORY}\n")
    full.chmod(0o700)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "executable", str(full))
    failed = await office.round()
    assert (failed["status"], failed["failure"]) == ("failed", "solver_memory")


async def test_a_coordinator_sees_how_far_a_round_is_and_calls_it_off(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_LOOK_SECONDS", 0.01)
    told = asyncio.Event()
    go_on = rounds._go_on

    async def endless(_task: Task, heard: Heard) -> Result:
        heard(Progress("bidding", 0.6, 0.01))
        await asyncio.Event().wait()
        raise AssertionError

    async def noticed(*args: Any) -> bool:
        going = await go_on(*args)
        told.set()
        return going

    monkeypatch.setattr(rounds, "solve_apart", endless)
    monkeypatch.setattr(rounds, "_go_on", noticed)
    url = f"{BASE}/rounds/{json_of(await office.request(), 202)['round_id']}"
    await told.wait()
    told.clear()
    await told.wait()
    running = json_of(await office.coordinator.get(url))
    assert running["status"] == "running"
    assert running["progress"] == {"stage": "bidding", "done": 0.6, "gap": 0.01}

    stranger = await office.running.client("other", "coordinator", programs=("another",))
    assert (await stranger.post(f"{url}/cancel")).status_code == 404
    canceled = json_of(await office.coordinator.post(f"{url}/cancel"))
    assert (canceled["status"], canceled["progress"]) == ("canceled", None)
    assert json_of(await office.coordinator.post(f"{url}/cancel")) == canceled

    monkeypatch.setattr(rounds, "solve_apart", solve_here)
    done = await office.round()
    assert done["figures"]["proposed"] == 1
    code = code_of(await office.coordinator.post(f"{BASE}/rounds/{done['round_id']}/cancel"), 409)
    assert code == "round_completed"


async def test_coordinators_read_how_a_round_treated_groups_and_small_ones_are_hidden(
    empty: Office,
) -> None:
    await empty.publish(
        published(),
        *(enrolled(f"m{n}") for n in range(6)),
        *(senior(f"s{n}", region="Europe" if n else "Asia") for n in range(6)),
    )
    done = await empty.round()
    url = f"{BASE}/rounds/{done['round_id']}/fairness"
    told = json_of(await empty.coordinator.get(url))
    groups = {(row["role"], row["dimension"], row["value"]): row for row in told["groups"]}  # type: ignore[attr-defined]
    everybody = groups["mentee", "all", ""]
    assert (everybody["people"], everybody["matched"], everybody["match_rate"]) == (6, 6, 1)
    assert everybody["mean_score"] == done["figures"]["objective"] / 6
    assert groups["mentee", "region", "Asia"] == {
        "role": "mentee",
        "dimension": "region",
        "value": "Asia",
        "people": None,
        "matched": None,
        "match_rate": None,
        "mean_score": None,
        "why_hidden": "fewer than 5 people",
    }
    # With Europe's, the total would give Asia's away.
    assert groups["mentee", "region", "Europe"]["people"] is None
    assert sum(told["scores"].values()) == 6  # type: ignore[attr-defined]

    stranger = await empty.running.client("other", "coordinator", programs=("another",))
    assert (await stranger.get(url)).status_code == 404


async def test_a_preview_says_what_a_round_would_find_and_proposes_nothing(
    empty: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def solve_all(task: Task, heard: Heard) -> Result:
        found = await solve_here(task, heard)
        assert task.order.what_if
        tried = what_if(task.pool(), task.order.policy, task.order.seed, UNWATCHED)
        return replace(found, what_if=tried)

    monkeypatch.setattr(previews, "solve_apart", solve_all)
    await empty.publish(
        published(), enrolled("m1"), enrolled("m2", level=3), senior("s1"), senior("s2")
    )
    url = f"{BASE}/programs/{PROGRAM}/preview"
    asked = {"what_if": True, "changes": {"min_overlap_minutes": 30}}
    assert json_of(await empty.coordinator.post(url, json=asked), 202)["status"] == "requested"
    assert code_of(await empty.coordinator.post(url, json=asked), 409) == "preview_requested"
    async with asyncio.timeout(20):
        while (told := json_of(await empty.coordinator.get(url)))["status"] == "requested":
            await empty.tick()
    figures: Any = told["figures"]
    assert (figures["proposed"], figures["pool"]) == (1, {"mentors": 2, "mentees": 2})
    policy: Any = told["policy"]
    assert policy["min_overlap_minutes"] == 30
    more = {one["rule"]: one["more_mentees"] for one in told["what_if"]}  # type: ignore[attr-defined]
    assert (more["level_gap"], more["same_boss"]) == (1, 0)
    assert await empty.pairs("proposed") == []
    assert await empty.rounds() == []
    assert not empty.running.events(PairProposed)

    # The round itself still follows the program.
    assert (await empty.round())["figures"]["proposed"] == 1
    bad = {"changes": {"weights": {"coverage": 2000}}}
    assert code_of(await empty.coordinator.post(url, json=bad), 422) == "policy_invalid"
    assert (
        await empty.coordinator.post(url, json={"changes": {"min_level_gap": -1}})
    ).status_code == 422
    stranger = await empty.running.client("other", "coordinator", programs=("another",))
    assert (await stranger.get(url)).status_code == 403
    assert (await stranger.post(url, json={})).status_code == 403


async def test_a_round_cut_off_by_a_stop_is_run_again_after_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = asyncio.Event()

    async def cut_off(_task: Task, _heard: Heard) -> Result:
        started.set()
        raise asyncio.CancelledError

    async with running_platform(tmp_path, services=["matching"], start=NOW) as running:
        office = Office(running)
        await office.connect()
        await office.publish(published(), enrolled("m"), senior("s"))
        monkeypatch.setattr(rounds, "solve_apart", cut_off)
        requested = json_of(await office.request(), 202)
        await started.wait()
        (begun,) = await office.rounds()
        assert begun["status"] == "running"
        assert not await office.pairs("proposed")

    monkeypatch.setattr(rounds, "solve_apart", solve_here)
    async with running_platform(tmp_path, services=["matching"]) as running:
        office = Office(running)
        await office.connect()
        await office.tick()
        (done,) = await office.rounds()
        assert (done["round_id"], done["status"]) == (requested["round_id"], "completed")
        assert len(running.events(PairProposed)) == len(running.events(RoundCompleted)) == 1


async def test_the_service_answers_while_a_large_round_is_solved_in_its_own_process(
    empty: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    await empty.publish(published())
    people = [enrolled(f"m{n}", teaches=_topics(n)) for n in range(2000)]
    people += [senior(f"s{n}", wants=_topics(n)) for n in range(500)]

    async def fill(tx: Transaction) -> None:
        for event in people:
            tx.put(PoolMember.placeholder(event).apply(event, 1))

    (service,) = empty.running.platform.services
    await service.store.transact(fill)
    solvers: list[int] = []
    start = asyncio.create_subprocess_exec

    async def watched(*args: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await start(*args, **options)
        solvers.append(process.pid)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", watched)
    url = f"{BASE}/rounds/{json_of(await empty.request(), 202)['round_id']}"
    anybody = await empty.running.anonymous()
    answered = 0
    async with asyncio.timeout(120):
        while (found := json_of(await empty.coordinator.get(url)))["status"] != "completed":
            assert (await anybody.get("/livez")).status_code == 200
            answered += found["status"] == "running"
            await asyncio.sleep(0.01)
    assert answered > 0
    assert len(solvers) == 1
    assert solvers[0] != os.getpid()
    figures = found["figures"]
    assert isinstance(figures, dict)
    assert figures["matched"] == {"mentors": 500, "mentees": 500}


def _topics(number: int) -> list[Json]:
    return [{"topic_id": f"t{number % 7}", "proficiency": 1 + number % 5}]


# -- answers --------------------------------------------------------------------------------------


async def test_a_pair_exists_once_both_have_accepted(office: Office, proposed: Json) -> None:
    half = json_of(await office.answer(proposed, "m", "accept"))
    await office.running.settle()
    assert (half["status"], half["you_accepted"]) == ("proposed", True)
    assert not office.running.events(Paired)
    seen = json_of(await (await office.person("s")).get(f"{BASE}/pairs/{proposed['pair_id']}"))
    assert seen == proposed | {"you_accepted": False}

    whole = json_of(await office.answer(proposed, "s", "accept"))
    await office.running.settle()
    assert whole["status"] == "active"
    (event,) = office.running.events(Paired)
    assert event.pair_id == proposed["pair_id"]
    assert event.started_at == office.running.clock.now()
    assert event.waited_days == pytest.approx({"m": 0, "s": 0}, abs=1e-6)
    assert await office.waiting() == {}


async def test_accepting_twice_is_accepting_once_by_key_and_by_state(
    office: Office, proposed: Json
) -> None:
    await office.answer(proposed, "m", "accept")
    key = {"Idempotency-Key": "yes"}
    answers = [await office.answer(proposed, "s", "accept", **key) for _ in range(2)]
    answers += [await office.answer(proposed, "s", "accept") for _ in range(2)]
    await office.running.settle()
    assert len({answer.content for answer in answers}) == 1
    assert json_of(answers[0])["status"] == "active"
    assert len(office.running.events(Paired)) == 1


async def test_one_no_frees_both_tells_nobody_whose_and_is_not_asked_again(
    office: Office, proposed: Json
) -> None:
    json_of(await office.answer(proposed, "s", "accept"))
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    json_of(await office.answer(proposed, "m", "decline", traceparent=trace))
    await office.running.settle()

    ((envelope, _),) = [
        (envelope, event)
        for envelope, event in office.running.records()
        if isinstance(event, PairDeclined)
    ]
    assert (envelope.causationid, envelope.correlationid, envelope.traceparent) == (None,) * 3
    coordinator = json_of(await office.coordinator.get(f"{BASE}/pairs/{proposed['pair_id']}"))
    assert coordinator == proposed | {"status": "declined", "closed_at": coordinator["closed_at"]}
    waiting = items(await office.coordinator.get(f"{BASE}/programs/{PROGRAM}/waiting-list"))
    about = [
        {name: value for name, value in entry.items() if name not in who(PROGRAM) | {"role": ""}}
        for entry in waiting
    ]
    assert about[0] == about[1]
    told = {"reason", "ready", "waiting_days", "nearest", "excluded", "eligible"}
    assert about[0].keys() == told

    again = await office.round()
    assert again["figures"]["proposed"] == 0
    assert await office.waiting() == {"m": "no_partner", "s": "no_partner"}
    assert code_of(await office.answer(proposed, "s", "accept"), 409) == "pair_declined"


async def test_silence_expires_and_frees_both(office: Office, proposed: Json) -> None:
    await office.answer(proposed, "m", "accept")
    expires_at = datetime.fromisoformat(proposed["expires_at"])
    await office.at(expires_at - timedelta(microseconds=1))
    assert not office.running.events(PairExpired)
    await office.at(expires_at)
    (event,) = office.running.events(PairExpired)
    assert event.at == expires_at
    assert code_of(await office.answer(proposed, "s", "accept"), 409) == "pair_expired"
    assert await office.waiting() == {"m": "next_round", "s": "next_round"}
    assert (await office.round())["figures"]["proposed"] == 1


async def test_a_circle_has_its_capacity_also_when_all_accept_at_once(empty: Office) -> None:
    await empty.publish(
        published(format="circle", circle_capacity=2),
        *(enrolled(f"m{n}") for n in range(2)),
        *(senior(f"s{n}") for n in range(5)),
    )
    await empty.round()
    circles = await empty.pairs("proposed")
    assert sorted(len(circle["mentees"]) for circle in circles) == [2, 2]
    answers = await asyncio.gather(
        *(
            empty.answer(circle, name, "accept")
            for circle in circles
            for name in names(circle)
            for _ in range(2)
        )
    )
    await empty.running.settle()
    assert {answer.status_code for answer in answers} == {200}
    paired = empty.running.events(Paired)
    assert len(paired) == 2
    assert len({side.participant_id for event in paired for side in event.mentees}) == 4
    assert (await empty.round())["figures"]["proposed"] == 0


async def test_a_proposal_that_a_newer_program_forbids_never_becomes_a_pair(
    office: Office, proposed: Json
) -> None:
    await office.answer(proposed, "m", "accept")
    await office.publish(published(version=2, min_level_gap=5))
    assert json_of(await office.answer(proposed, "s", "accept"))["status"] == "declined"
    await office.running.settle()
    assert not office.running.events(Paired)
    assert await office.waiting() == {"m": "next_round", "s": "next_round"}


# -- who may what ---------------------------------------------------------------------------------


async def test_a_pair_of_others_does_not_exist_for_a_participant(
    office: Office, proposed: Json
) -> None:
    await office.publish(enrolled("m9"))
    other = await office.person("m9")
    url = f"{BASE}/pairs/{proposed['pair_id']}"
    answers = [
        await other.get(url),
        await other.post(f"{url}/accept"),
        await other.post(f"{url}/decline"),
        await other.get(f"{BASE}/pairs/unknown"),
    ]
    assert {code_of(answer, 404) for answer in answers} == {"not_found"}
    for stranger in (other, await office.person("nobody")):
        assert items(await stranger.get(f"{BASE}/pairs", params={"program": PROGRAM})) == []
    own = await office.person("m")
    (mine,) = items(await own.get(f"{BASE}/pairs", params={"program": PROGRAM}))
    assert mine["pair_id"] == proposed["pair_id"]
    assert (await own.get(f"{BASE}/programs/{PROGRAM}/rounds")).status_code == 403


async def test_a_coordinator_sees_own_programs_and_answers_for_nobody(
    office: Office, proposed: Json
) -> None:
    url = f"{BASE}/pairs/{proposed['pair_id']}"
    for verb in ("accept", "decline"):
        assert (await office.coordinator.post(f"{url}/{verb}")).status_code == 403
    both = await office.running.client("office", "coordinator", "participant", programs=(PROGRAM,))
    assert (await both.post(f"{url}/accept")).status_code == 404
    assert json_of(await both.get(url))["you_accepted"] is None

    foreign = await office.running.client("person-m", "coordinator", programs=("other",))
    (found,) = await office.rounds()
    statuses = {
        path: (await foreign.get(f"{BASE}/{path}")).status_code
        for path in (
            f"pairs/{proposed['pair_id']}",
            f"rounds/{found['round_id']}",
            f"pairs?program={PROGRAM}",
            f"programs/{PROGRAM}/rounds",
            f"programs/{PROGRAM}/waiting-list",
        )
    }
    assert sorted(statuses.values()) == [403, 403, 403, 404, 404], statuses
    refused = await foreign.post(f"{BASE}/programs/{PROGRAM}/rounds", json={})
    assert refused.status_code == 403


async def test_what_a_round_does_not_know_is_refused(office: Office) -> None:
    assert (await office.request(pool="everybody")).status_code == 422
    assert (await office.request(seed=-1)).status_code == 422
    programs = (PROGRAM, "unpublished")
    coordinator = await office.running.client("office", "coordinator", programs=programs)
    unknown = await coordinator.post(f"{BASE}/programs/unpublished/rounds", json={})
    assert code_of(unknown, 404) == "not_found"


# -- the waiting list -----------------------------------------------------------------------------


async def test_who_waits_is_told_why_and_a_participant_sees_only_themself(empty: Office) -> None:
    await empty.publish(
        published(),
        enrolled("m"),
        enrolled("untrained", ready=False, ready_at=None),
        enrolled("nowhere", timezone=None),
        enrolled("resting"),
        senior("s1"),
        senior("s2"),
        Paused(**who("resting"), at=NOW),
    )
    await empty.round()
    await empty.publish(senior("late"))
    (left,) = {"s1", "s2"} - {
        name for pair in await empty.pairs("proposed") for name in names(pair)
    }
    reasons = {
        "untrained": "not_ready",
        "nowhere": "timezone_unknown",
        "resting": "paused",
        left: "no_partner_left",
        "late": "next_round",
    }
    assert await empty.waiting() == reasons
    for name, reason in reasons.items():
        assert await empty.waiting(await empty.person(name)) == {name: reason}
    assert await empty.waiting(await empty.person("m")) == {}

    await empty.at(NOW + timedelta(days=2))
    url = f"{BASE}/programs/{PROGRAM}/waiting-list"
    days = {
        entry["participant_id"]: entry["waiting_days"]
        for entry in items(await empty.coordinator.get(url))
    }
    assert (days[left], days["untrained"]) == (2, None)


async def test_who_waits_is_told_how_near_a_partner_is_and_coordinators_how_many_are_not(
    empty: Office,
) -> None:
    near, far = WorkingHours(start="16:10", end="20:00"), WorkingHours(start="18:00", end="22:00")
    await empty.publish(
        published(min_overlap_minutes=60),
        enrolled("m1", working_hours=near),
        enrolled("m2", level=3, working_hours=far),
        senior("s"),
    )
    await empty.round()
    url = f"{BASE}/programs/{PROGRAM}/waiting-list"
    by_id = {entry["participant_id"]: entry for entry in items(await empty.coordinator.get(url))}
    assert by_id["s"]["reason"] == "working_hours"
    assert by_id["s"]["excluded"] == {"level_gap": 1, "working_hours": 2}
    assert by_id["s"]["eligible"] == 0
    assert by_id["s"]["nearest"] == {
        "rules": ["working_hours"],
        "levels": 0,
        "minutes": 10,
        "text": "With the nearest partner, 10 more minutes a day of shared working time are"
        " needed.",
    }
    assert by_id["m2"]["nearest"]["rules"] == ["level_gap", "working_hours"]
    assert (by_id["m2"]["nearest"]["levels"], by_id["m2"]["nearest"]["minutes"]) == (1, 60)

    (own,) = items(await (await empty.person("s")).get(url))
    assert own == by_id["s"] | {"excluded": None, "eligible": None}


async def test_nothing_that_is_told_of_who_waits_says_that_somebody_does_not_want_them(
    empty: Office,
) -> None:
    await empty.publish(published(), enrolled("m"), senior("s"))
    await empty.round()
    (pair,) = await empty.pairs("proposed")
    await empty.answer(pair, "m", "decline")
    await empty.running.settle()
    await empty.round()
    url = f"{BASE}/programs/{PROGRAM}/waiting-list"
    for entry in items(await empty.coordinator.get(url)):
        assert (entry["reason"], entry["excluded"], entry["nearest"]) == ("no_partner", {}, None)


async def test_the_waiting_list_is_read_page_by_page(empty: Office) -> None:
    await empty.publish(published(), *(senior(f"s{n}") for n in range(5)))
    url, seen, cursor = f"{BASE}/programs/{PROGRAM}/waiting-list", [], None
    for _ in range(3):
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        answer = await empty.coordinator.get(url, params=query)
        seen += [entry["participant_id"] for entry in items(answer)]
        cursor = answer.json()["next_cursor"]
    assert (sorted(seen), cursor) == ([f"s{n}" for n in range(5)], None)


# -- what others tell -----------------------------------------------------------------------------


async def test_a_program_and_its_people_may_arrive_in_any_order(empty: Office) -> None:
    trained = TrainingCompleted(**who("m"), module="start", ready=True, ready_at=NOW)
    await empty.running.publish(trained, version=2)
    await empty.running.publish(enrolled("m", ready=False, ready_at=None), version=1)
    await empty.running.publish(senior("s"))
    await empty.running.settle()
    assert (await empty.request()).status_code == 404
    await empty.publish(published())
    assert (await empty.round())["figures"]["proposed"] == 1
    assert await empty.dead_letters() == []


async def test_a_policy_that_contradicts_itself_is_a_dead_letter_and_the_former_one_stays(
    office: Office,
) -> None:
    await office.publish(published(version=2, weights={"coverage": 1001}))
    assert await office.dead_letters() == [
        "policy_invalid: The matching policy contradicts itself."
    ]
    assert (await office.round())["figures"]["proposed"] == 1


@pytest.mark.parametrize(
    "event",
    [
        Paused(**who("m"), at=NOW),
        Withdrawn(**who("m"), at=NOW),
        Departed(**who("s"), left_on=date(2026, 3, 2)),
        moved("m", department="department of s"),
        ProfileChanged.model_validate(enrolled("m", role="mentee", level=6).model_dump()),
        ProfileChanged.model_validate(senior("s", ready=False, ready_at=None).model_dump()),
    ],
    ids=["paused", "withdrawn", "departed", "moved", "changed role", "needs training"],
)
async def test_a_proposal_is_called_off_when_a_member_can_not_stand_by_it(
    office: Office, proposed: Json, event: Event
) -> None:
    await office.publish(event)
    (pair,) = await office.pairs("declined")
    assert pair["pair_id"] == proposed["pair_id"]
    (declined,) = [
        envelope for envelope, found in office.running.records() if isinstance(found, PairDeclined)
    ]
    assert (declined.causationid, declined.correlationid) == (None, None)
    other = ({"m", "s"} - {event.subject}).pop()
    assert (await office.waiting())[other] == "next_round"


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Withdrawn(**who("m"), at=NOW), "withdrawn"),
        (Departed(**who("s"), left_on=date(2026, 3, 2)), "departed"),
    ],
)
async def test_a_pair_ends_with_who_leaves(
    office: Office, active: Json, event: Event, reason: str
) -> None:
    await office.publish(event)
    (ended,) = office.running.events(PairEnded)
    assert (ended.pair_id, ended.reason) == (active["pair_id"], reason)
    stays = ({"m", "s"} - {event.subject}).pop()
    assert await office.waiting() == {stays: "next_round"}
    # Back again, the two are former partners.
    if reason == "withdrawn":
        await office.publish(enrolled("m"))
        assert (await office.round())["figures"]["unmatched"] == {"former_partner": 2}


@pytest.mark.parametrize(
    ("name", "facts", "reason"),
    [
        ("m", {"manager_chain": ("person-s", "head")}, "reporting_line"),
        ("s", {"manager_chain": ("boss-of-s", "person-m")}, "reporting_line"),
        ("m", {"department": "department of s"}, "same_department"),
        ("m", {"department": None}, "same_department"),
        ("s", {"manager_chain": ("boss-of-m",)}, "same_boss"),
        ("m", {"level": 3}, "level_gap"),
        ("s", {"level": None}, "level_gap"),
    ],
)
async def test_a_move_that_breaks_a_rule_pauses_the_pair_and_a_move_back_resumes_it(
    office: Office, active: Json, name: str, facts: Json, reason: str
) -> None:
    await office.publish(moved(name, **facts))
    (paused,) = office.running.events(PairPaused)
    assert (paused.pair_id, paused.reason) == (active["pair_id"], reason)
    for client in (office.coordinator, await office.person("m"), await office.person("s")):
        seen = json_of(await client.get(f"{BASE}/pairs/{active['pair_id']}"))
        assert (seen["status"], seen["pause_reason"]) == ("paused", reason)

    await office.publish(moved(name))
    (resumed,) = office.running.events(PairResumed)
    assert (resumed.pair_id, resumed.reason) == (active["pair_id"], reason)
    assert [pair["pause_reason"] for pair in await office.pairs("active")] == [None]


async def test_a_pair_rests_while_any_reason_lasts_and_says_which(
    office: Office, active: Json
) -> None:
    await office.publish(Paused(**who("s"), at=NOW))
    await office.publish(moved("m", department="department of s"))
    await office.publish(Resumed(**who("s"), at=NOW))
    assert [event.reason for event in office.running.events(PairPaused)] == [
        "participant_paused",
        "same_department",
    ]
    assert not office.running.events(PairResumed)
    await office.publish(moved("m"))
    (resumed,) = office.running.events(PairResumed)
    assert (resumed.pair_id, resumed.reason) == (active["pair_id"], "same_department")


# -- time and the program's end -------------------------------------------------------------------


async def test_all_pairs_of_a_term_rotate_into_one_round_and_meet_nobody_again(
    empty: Office,
) -> None:
    await empty.publish(
        published(),
        *(enrolled(f"m{n}") for n in range(3)),
        *(senior(f"s{n}") for n in range(3)),
    )
    await empty.round()
    before = {tuple(names(pair)) for pair in await empty.accept_all()}
    assert len(before) == 3
    await empty.at(NOW + TERM)

    rotated = empty.running.events(PairRotated)
    first, rotation = empty.running.events(RoundCompleted)
    assert [event.reason for event in rotated] == ["term"] * 3
    assert {event.next_round_id for event in rotated} == {rotation.round_id}
    assert (first.kind, rotation.kind) == ("round", "rotation")
    assert rotation.pool.model_dump() == {"mentors": 3, "mentees": 3}
    after = await empty.pairs("proposed")
    assert {pair["origin"] for pair in after} == {"rotation"}
    assert len(after) == 3
    assert not before & {tuple(names(pair)) for pair in after}


async def test_a_paused_pair_rotates_too_and_who_rests_is_not_proposed(
    office: Office, active: Json
) -> None:
    await office.publish(Paused(**who("m"), at=NOW))
    await office.at(NOW + TERM)
    (rotated,) = office.running.events(PairRotated)
    assert rotated.pair_id == active["pair_id"]
    assert office.running.events(RoundCompleted)[-1].pool.model_dump() == {
        "mentors": 0,
        "mentees": 1,
    }


async def test_a_term_that_ends_behind_a_round_rotates_before_time_goes_on(
    office: Office, active: Json
) -> None:
    requested = json_of(await office.request(), 202)
    await office.at(NOW + TERM)
    (rotated,) = office.running.events(PairRotated)
    assert rotated.pair_id == active["pair_id"]
    assert [event.round_id for event in office.running.events(RoundCompleted)][1:] == [
        requested["round_id"],
        rotated.next_round_id,
    ]


@pytest.mark.parametrize(
    ("closed_at", "reason"),
    [
        (NOW + timedelta(days=20), "program_closed"),
        (datetime.fromisoformat("2026-06-30T00:00:00+00:00"), "completed"),
    ],
)
async def test_closing_a_program_ends_its_pairs_and_calls_its_proposals_off(
    empty: Office, closed_at: datetime, reason: str
) -> None:
    await empty.publish(
        published(ends_on=date(2026, 6, 30), proposal_expiry_days=90),
        enrolled("m"),
        senior("s"),
    )
    await empty.round()
    (pair,) = await empty.accept_all()
    await empty.at(closed_at)
    await empty.publish(enrolled("m2"), senior("s2"))
    await empty.round()
    (open_,) = await empty.pairs("proposed")
    await empty.publish(ProgramClosed(program_id=PROGRAM, version=1))
    await empty.tick()

    (ended,) = empty.running.events(PairEnded)
    assert (ended.pair_id, ended.reason) == (pair["pair_id"], reason)
    (declined,) = empty.running.events(PairDeclined)
    assert declined.pair_id == open_["pair_id"]
    assert code_of(await empty.request(), 409) == "program_closed"


async def test_pairs_whose_term_ends_with_the_program_are_completed_not_rotated(
    empty: Office,
) -> None:
    await empty.publish(published(ends_on=date(2026, 5, 1)), enrolled("m"), senior("s"))
    await empty.round()
    (pair,) = await empty.accept_all()
    await empty.at(datetime.fromisoformat(pair["ends_at"]))
    (ended,) = empty.running.events(PairEnded)
    assert (ended.pair_id, ended.reason) == (pair["pair_id"], "completed")
    assert not empty.running.events(PairRotated)
    assert len(await empty.rounds()) == 1


async def test_a_rolling_program_asks_for_no_round_while_only_those_are_free_whom_the_last_one_left(
    empty: Office,
) -> None:
    day = timedelta(days=1)
    # The two share no language, whatever the day.
    await empty.publish(published(mode="rolling"), enrolled("m1"), senior("s1", languages=("ja",)))
    for number in range(1, 4):
        await empty.at(NOW + number * day)
        assert len(await empty.rounds()) == 1
    assert await empty.pairs("proposed") == []
    await empty.at(NOW + 8 * day)
    # Rules may have changed with a release: once a week it is tried again.
    assert len(await empty.rounds()) == 2
    await empty.publish(enrolled("m2"))
    await empty.at(NOW + 9 * day)
    await empty.at(NOW + 10 * day)
    assert len(await empty.rounds()) == 3
    await empty.publish(ProfileChanged.model_validate(senior("s1").model_dump()))
    await empty.at(NOW + 11 * day)
    assert len(await empty.rounds()) == 4
    assert len(await empty.pairs("proposed")) == 1


async def test_a_rolling_program_asks_for_one_round_a_day_when_both_sides_have_somebody(
    empty: Office,
) -> None:
    day = timedelta(days=1)
    await empty.publish(published(mode="rolling"), enrolled("m1"))
    await empty.at(NOW + day)
    assert await empty.rounds() == []
    await empty.publish(senior("s1"))
    await empty.at(NOW + 2 * day)
    assert len(await empty.pairs("proposed")) == 1
    await empty.publish(enrolled("m2"), senior("s2"))
    await empty.at(NOW + 2 * day + timedelta(hours=10))
    assert len(await empty.rounds()) == 1
    await empty.at(NOW + 3 * day)
    assert len(await empty.rounds()) == 2
    await empty.at(NOW + 4 * day)
    assert len(await empty.rounds()) == 2
    assert len(await empty.pairs("proposed")) == 2
