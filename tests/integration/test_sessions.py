"""Sessions on the embedded platform: events in, HTTP commands, events out."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.events.envelope import Event
from shared.events.pairs import Paired, PairEnded, PairPaused, PairResumed, PairRotated
from shared.events.programs import ProgramClosed, ProgramPublished
from shared.events.sessions import (
    GroundRulesAgreed,
    SessionCancelled,
    SessionHeld,
    SessionMissed,
    SessionMoved,
    SessionScheduled,
)
from tests.support.golden import golden_event
from tests.support.platform import RunningPlatform, json_of, running_platform

NOW = datetime.fromisoformat("2026-01-22T08:00:00+00:00")
START = NOW + timedelta(days=2)
PAIRED = golden_event(Paired)
PAIR, PROGRAM = PAIRED.pair_id, PAIRED.program_id
MENTOR, MENTEE = PAIRED.mentor.participant_id, PAIRED.mentees[0].participant_id
AGENDA: dict[str, object] = {"goal": "Judge a model's answer", "items": ["Where they fail"]}
BASE = "/sessions/v1"


class Pair:
    """A running service with one pair in it, and its people's clients."""

    def __init__(self, running: RunningPlatform) -> None:
        self.running = running
        self.mentor = self.mentee = self.stranger = self.coordinator = httpx.AsyncClient()

    async def connect(self) -> None:
        running = self.running
        self.mentor = await running.person(PAIRED.mentor.person_id)
        self.mentee = await running.person(PAIRED.mentees[0].person_id)
        self.stranger = await running.person("p_stranger")
        self.coordinator = await running.client("office", "coordinator", programs=(PROGRAM,))

    async def publish(self, *events: Event) -> None:
        for event in events:
            await self.running.publish(event)
        await self.running.settle()

    async def agree(self) -> None:
        for client in (self.mentor, self.mentee):
            json_of(
                await client.put(f"{BASE}/pairs/{PAIR}/ground-rules", json={"scope": "general"})
            )

    async def plan(self, client: httpx.AsyncClient | None = None, **fields: object) -> str:
        answer = await (client or self.mentee).post(
            f"{BASE}/pairs/{PAIR}/sessions", json=plan(**fields)
        )
        return str(json_of(answer, 201)["session_id"])

    async def schedule(self) -> str:
        session_id = await self.plan(agenda=AGENDA)
        json_of(await self.mentor.post(f"{BASE}/sessions/{session_id}/confirm"))
        return session_id

    async def act(self, session_id: str, what: str, **body: object) -> dict[str, Any]:
        url = f"{BASE}/sessions/{session_id}/{what}"
        return json_of(await self.mentor.post(url, json=body or None))


def plan(**fields: object) -> dict[str, object]:
    return {
        "starts_at": START.isoformat(),
        "minutes": 60,
        "mode": "virtual",
        "topics": ["generative-ai"],
    } | fields


def code_of(answer: httpx.Response, status: int) -> str:
    return str(json_of(answer, status)["code"])


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[Pair]:
    async with running_platform(tmp_path / "data", services=["sessions"], start=NOW) as running:
        pair = Pair(running)
        await pair.connect()
        yield pair


@pytest.fixture
async def pair(empty: Pair) -> Pair:
    await empty.publish(golden_event(ProgramPublished), PAIRED)
    return empty


async def test_a_pair_agrees_plans_meets_and_the_events_tell_it(pair: Pair) -> None:
    await pair.agree()
    session_id = await pair.schedule()
    await pair.act(session_id, "move", starts_at=(START + timedelta(hours=1)).isoformat())
    pair.running.clock.set(START + timedelta(hours=1, minutes=50))
    notes = {"learned": True, "takeaways": ["Ask for its sources"]}
    json_of(await pair.mentee.post(f"{BASE}/sessions/{session_id}/notes", json=notes))
    held = await pair.act(
        session_id, "hold", minutes=50, attended=[MENTOR, MENTEE], learned=False, tags=[]
    )
    await pair.running.settle()

    assert (held["status"], held["number"]) == ("held", 1)
    (rules,) = pair.running.events(GroundRulesAgreed)
    assert (rules.by, rules.scope, rules.at) == ((MENTOR, MENTEE), "general", NOW)
    (scheduled,) = pair.running.events(SessionScheduled)
    assert (scheduled.session_id, scheduled.number, scheduled.agenda_by) == (session_id, 1, MENTEE)
    (moved,) = pair.running.events(SessionMoved)
    assert moved.starts_at == START + timedelta(hours=1)
    (event,) = pair.running.events(SessionHeld)
    assert event.learned == {MENTEE: True, MENTOR: False}
    assert (event.takeaways, event.attended, event.topics) == (
        1,
        (MENTOR, MENTEE),
        ("generative-ai",),
    )
    assert event.held_at == pair.running.clock.now()
    assert {event.program_id for _, event in pair.running.records()} == {PROGRAM}


async def test_nothing_that_members_wrote_is_on_the_bus(pair: Pair) -> None:
    rules = {"scope": "individuals", "off_limits": ["zebra-rules"]}
    for client in (pair.mentor, pair.mentee):
        json_of(await client.put(f"{BASE}/pairs/{PAIR}/ground-rules", json=rules))
    session_id = await pair.plan(agenda={"goal": "zebra-goal", "items": ["zebra-item"]})
    await pair.act(session_id, "confirm")
    pair.running.clock.set(START)
    record = {"minutes": 5, "attended": [MENTOR, MENTEE], "takeaways": ["zebra-takeaway"]}
    json_of(await pair.mentee.post(f"{BASE}/sessions/{session_id}/hold", json=record))
    await pair.running.settle()

    written = [event.model_dump_json() for _, event in pair.running.records()]
    assert len(pair.running.events(SessionHeld)) == 1
    assert not [text for text in written if "zebra" in text]


async def test_confirming_is_refused_with_the_name_of_what_is_missing(pair: Pair) -> None:
    session_id = await pair.plan(pair.mentor)
    url = f"{BASE}/sessions/{session_id}/confirm"

    assert code_of(await pair.mentee.post(url), 409) == "ground_rules_not_agreed"
    await pair.agree()
    assert code_of(await pair.mentee.post(url), 409) == "agenda_missing"
    json_of(await pair.mentee.put(f"{BASE}/sessions/{session_id}/agenda", json=AGENDA))
    assert code_of(await pair.mentor.post(url), 409) == "other_side_confirms"
    await pair.publish(golden_event(PairPaused))
    assert code_of(await pair.mentee.post(url), 409) == "pair_not_active"
    await pair.publish(golden_event(PairResumed))
    assert json_of(await pair.mentee.post(url))["status"] == "scheduled"


async def test_only_a_mentee_writes_the_agenda_and_the_takeaways(pair: Pair) -> None:
    await pair.agree()
    proposal = plan(agenda=AGENDA)
    answer = await pair.mentor.post(f"{BASE}/pairs/{PAIR}/sessions", json=proposal)
    assert code_of(answer, 403) == "forbidden"
    session_id = await pair.schedule()
    url = f"{BASE}/sessions/{session_id}"
    assert code_of(await pair.mentor.put(f"{url}/agenda", json=AGENDA), 403) == "forbidden"
    pair.running.clock.set(START)
    record = {"minutes": 5, "attended": [MENTOR, MENTEE], "takeaways": ["Mine"]}
    assert code_of(await pair.mentor.post(f"{url}/hold", json=record), 403) == "forbidden"
    notes = {"takeaways": ["Mine"]}
    assert code_of(await pair.mentor.post(f"{url}/notes", json=notes), 403) == "forbidden"


async def test_another_scope_publishes_nothing_until_all_agree_to_it(pair: Pair) -> None:
    url = f"{BASE}/pairs/{PAIR}/ground-rules"
    general, individuals = {"scope": "general"}, {"scope": "individuals"}
    json_of(await pair.mentor.put(url, json=general))
    answer = json_of(await pair.mentee.put(url, json=individuals))
    assert (answer["agreed"], answer["by"]) == (False, [MENTEE])
    await pair.running.settle()
    assert pair.running.events(GroundRulesAgreed) == []

    for _ in range(2):
        assert json_of(await pair.mentor.put(url, json=individuals))["agreed"] is True
    assert code_of(await pair.mentor.put(url, json=general), 409) == "ground_rules_agreed"
    await pair.running.settle()
    (event,) = pair.running.events(GroundRulesAgreed)
    assert event.scope == "individuals"


async def test_members_who_agree_at_once_publish_one_event(pair: Pair) -> None:
    await asyncio.gather(
        *(
            client.put(f"{BASE}/pairs/{PAIR}/ground-rules", json={"scope": "general"})
            for client in (pair.mentor, pair.mentee) * 3
        )
    )
    await pair.running.settle()

    (event,) = pair.running.events(GroundRulesAgreed)
    assert event.by == (MENTOR, MENTEE)


async def test_sessions_planned_and_confirmed_at_once_get_different_numbers(pair: Pair) -> None:
    await pair.agree()
    ids = await asyncio.gather(*(pair.plan(agenda=AGENDA) for _ in range(6)))
    assert len(set(ids)) == 6
    # One is given up before it is scheduled: it leaves no gap.
    await pair.act(ids[0], "cancel")
    await asyncio.gather(*(pair.act(each, "confirm") for each in ids[1:] * 2))
    await pair.running.settle()

    numbers = sorted(event.number for event in pair.running.events(SessionScheduled))
    assert numbers == [1, 2, 3, 4, 5]
    assert pair.running.events(SessionCancelled) == []


async def test_every_transition_repeats_without_a_second_event(pair: Pair) -> None:
    await pair.agree()
    cancelled, missed, held = [await pair.schedule() for _ in range(3)]
    for _ in range(2):
        await pair.act(cancelled, "cancel")
        later = (START + timedelta(hours=3)).isoformat()
        await pair.act(missed, "move", starts_at=later, minutes=30)
        await pair.act(held, "confirm")
    pair.running.clock.set(START + timedelta(hours=3))
    for _ in range(2):
        await pair.act(missed, "miss")
        await pair.act(held, "hold", minutes=30, attended=[MENTOR, MENTEE])
    await pair.running.settle()

    for kind, session_id in (
        (SessionCancelled, cancelled),
        (SessionMoved, missed),
        (SessionMissed, missed),
        (SessionHeld, held),
    ):
        assert [event.subject for event in pair.running.events(kind)] == [session_id]
    url = f"{BASE}/sessions/{held}/cancel"
    assert code_of(await pair.mentor.post(url), 409) == "session_held"


async def test_the_same_idempotency_key_plans_one_session(pair: Pair) -> None:
    url, headers = f"{BASE}/pairs/{PAIR}/sessions", {"Idempotency-Key": "one"}
    answers = [await pair.mentee.post(url, json=plan(), headers=headers) for _ in range(2)]
    assert answers[0].content == answers[1].content
    other = await pair.mentee.post(url, json=plan(minutes=30), headers=headers)
    assert code_of(other, 422) == "idempotency_key_reused"

    listed = json_of(await pair.mentee.get(f"{BASE}/sessions", params={"pair": PAIR}))
    assert isinstance(listed["items"], list)
    assert len(listed["items"]) == 1


@pytest.mark.parametrize("end", [PairEnded, PairRotated])
async def test_the_end_of_a_pair_cancels_its_open_sessions(
    pair: Pair, end: type[PairEnded | PairRotated]
) -> None:
    await pair.agree()
    planned, scheduled = await pair.plan(), await pair.schedule()
    event = golden_event(end).model_copy(update={"pair_id": PAIR})
    await pair.publish(event)

    assert [(each.session_id, each.at) for each in pair.running.events(SessionCancelled)] == [
        (scheduled, event.ended_at)
    ]
    for session_id in (planned, scheduled):
        session = json_of(await pair.mentee.get(f"{BASE}/sessions/{session_id}"))
        assert session["status"] == "cancelled"
    answer = await pair.mentee.post(f"{BASE}/pairs/{PAIR}/sessions", json=plan())
    assert code_of(answer, 409) == "pair_not_active"


async def test_a_session_is_not_held_while_the_pair_is_paused(pair: Pair) -> None:
    await pair.agree()
    session_id = await pair.schedule()
    await pair.publish(golden_event(PairPaused))
    pair.running.clock.set(START)
    record = {"minutes": 30, "attended": [MENTOR, MENTEE]}
    url = f"{BASE}/sessions/{session_id}/hold"

    assert code_of(await pair.mentor.post(url, json=record), 409) == "pair_not_active"
    await pair.publish(golden_event(PairResumed))
    assert json_of(await pair.mentor.post(url, json=record))["held_minutes"] == 30


async def test_topics_that_come_in_another_order_end_in_the_same_state(empty: Pair) -> None:
    pair, running = empty, empty.running
    await running.publish(golden_event(PairResumed), version=4)
    await running.publish(golden_event(PairPaused), version=3)
    await running.settle()
    assert code_of(await pair.mentee.get(f"{BASE}/pairs/{PAIR}"), 404) == "not_found"
    assert code_of(await pair.coordinator.get(f"{BASE}/pairs/{PAIR}"), 404) == "not_found"

    await running.publish(PAIRED, version=2)
    await running.settle()
    answer = await pair.mentee.post(f"{BASE}/pairs/{PAIR}/sessions", json=plan())
    assert code_of(answer, 409) == "program_unknown"

    await pair.publish(golden_event(ProgramPublished))
    await pair.plan()
    assert json_of(await pair.mentee.get(f"{BASE}/pairs/{PAIR}"))["status"] == "active"


async def test_a_closed_program_plans_no_more_sessions(pair: Pair) -> None:
    await pair.publish(golden_event(ProgramClosed))

    answer = await pair.mentee.post(f"{BASE}/pairs/{PAIR}/sessions", json=plan())

    assert code_of(answer, 409) == "program_closed"


async def test_a_stranger_finds_nothing_and_is_not_told_that_there_is_something(
    pair: Pair,
) -> None:
    session_id = await pair.plan()
    elsewhere = await pair.running.client("office", "coordinator", programs=("other",))
    for client in (pair.stranger, elsewhere):
        for path in (f"pairs/{PAIR}", f"sessions/{session_id}", f"sessions?pair={PAIR}"):
            found = await client.get(f"{BASE}/{path}")
            absent = await client.get(f"{BASE}/{path}".replace(PAIR, "x").replace(session_id, "x"))
            assert (found.status_code, absent.status_code) == (404, 404)
            assert found.text.replace(PAIR, "x").replace(session_id, "x") == absent.text
    commands: list[tuple[str, str, dict[str, object] | None]] = [
        ("PUT", f"pairs/{PAIR}/ground-rules", {"scope": "general"}),
        ("POST", f"pairs/{PAIR}/sessions", plan()),
        ("PUT", f"sessions/{session_id}/agenda", AGENDA),
        ("POST", f"sessions/{session_id}/confirm", None),
        ("POST", f"sessions/{session_id}/move", {"starts_at": START.isoformat()}),
        ("POST", f"sessions/{session_id}/cancel", None),
        ("POST", f"sessions/{session_id}/miss", None),
        ("POST", f"sessions/{session_id}/hold", {"minutes": 5, "attended": [MENTOR, MENTEE]}),
        ("POST", f"sessions/{session_id}/notes", {"learned": True}),
    ]
    for method, path, body in commands:
        answer = await pair.stranger.request(method, f"{BASE}/{path}", json=body)
        assert code_of(answer, 404) == "not_found", path
        refused = await pair.coordinator.request(method, f"{BASE}/{path}", json=body)
        assert code_of(refused, 403) == "forbidden", path
    for params in ({}, {"program": PROGRAM}):
        listed = json_of(await pair.stranger.get(f"{BASE}/pairs", params=params))
        assert listed["items"] == []
        refused = await elsewhere.get(f"{BASE}/pairs", params=params)
        assert code_of(refused, 403) == "forbidden"


async def test_a_coordinator_sees_the_schedule_and_no_words(pair: Pair) -> None:
    rules = {"scope": "general", "off_limits": ["zebra-rules"]}
    for client in (pair.mentor, pair.mentee):
        json_of(await client.put(f"{BASE}/pairs/{PAIR}/ground-rules", json=rules))
    session_id = await pair.plan(agenda={"goal": "zebra-goal", "items": ["zebra-item"]})
    await pair.act(session_id, "confirm")
    seen_before = await pair.coordinator.get(f"{BASE}/pairs/{PAIR}")
    pair.running.clock.set(START)
    record = {
        "minutes": 5,
        "attended": [MENTOR, MENTEE],
        "takeaways": ["zebra-takeaway"],
        "learned": True,
    }
    json_of(await pair.mentee.post(f"{BASE}/sessions/{session_id}/hold", json=record))

    seen = [
        seen_before,
        await pair.coordinator.get(f"{BASE}/sessions/{session_id}"),
        await pair.coordinator.get(f"{BASE}/sessions", params={"pair": PAIR}),
        await pair.coordinator.get(f"{BASE}/pairs", params={"program": PROGRAM}),
    ]
    assert [answer.status_code for answer in seen] == [200] * 4
    assert not [answer for answer in seen if "zebra" in answer.text]
    session = json_of(seen[1])
    assert (session["status"], session["agenda_set"], session["takeaway_count"]) == (
        "held",
        True,
        1,
    )
    assert session["learned"] is None
    mine = json_of(await pair.mentor.get(f"{BASE}/sessions/{session_id}"))
    assert mine["takeaways"] == {MENTEE: ["zebra-takeaway"]}
    assert mine["agenda"] == {"goal": "zebra-goal", "items": ["zebra-item"]}


async def test_a_pair_shows_its_ground_rules_and_its_next_session(pair: Pair) -> None:
    later = await pair.plan(starts_at=(START + timedelta(days=9)).isoformat())
    sooner = await pair.plan()
    detail = json_of(await pair.mentor.get(f"{BASE}/pairs/{PAIR}"))

    program = golden_event(ProgramPublished)
    assert detail["ground_rules"] == list(program.ground_rules)
    assert detail["cadence_days"] == program.cadence_days
    agreement, upcoming = detail["agreement"], detail["next_session"]
    assert isinstance(agreement, dict)
    assert isinstance(upcoming, dict)
    assert (agreement["agreed"], agreement["by"], upcoming["session_id"]) == (False, [], sooner)
    await pair.act(sooner, "cancel")
    detail = json_of(await pair.mentor.get(f"{BASE}/pairs/{PAIR}"))
    assert isinstance(detail["next_session"], dict)
    assert detail["next_session"]["session_id"] == later


async def test_pairs_are_listed_by_status_and_say_whether_the_ground_rules_are_agreed(
    pair: Pair,
) -> None:
    async def listed(status: str) -> list[tuple[str, bool]]:
        params = {"program": PROGRAM, "status": status}
        items = json_of(await pair.coordinator.get(f"{BASE}/pairs", params=params))["items"]
        assert isinstance(items, list)
        return [(item["pair_id"], item["ground_rules_agreed"]) for item in items]

    assert await listed("active") == [(PAIR, False)]
    assert await listed("paused") == []
    await pair.agree()
    await pair.publish(golden_event(PairPaused))
    assert await listed("active") == []
    assert await listed("paused") == [(PAIR, True)]


async def test_a_session_that_began_later_is_moved_to_when_it_did(pair: Pair) -> None:
    await pair.agree()
    session_id = await pair.schedule()
    pair.running.clock.set(START + timedelta(minutes=55))
    began = START + timedelta(minutes=25)
    await pair.act(session_id, "move", starts_at=began.isoformat())
    held = await pair.act(session_id, "hold", minutes=30, attended=[MENTOR, MENTEE])

    assert held["status"] == "held"


async def test_sessions_are_listed_page_by_page_in_the_order_they_were_proposed(
    pair: Pair,
) -> None:
    ids = [await pair.plan(minutes=minutes) for minutes in (30, 45, 60)]
    seen: list[str] = []
    cursor: object = None
    while True:
        params = {"pair": PAIR, "limit": "2"} | ({"cursor": str(cursor)} if cursor else {})
        listed = json_of(await pair.mentee.get(f"{BASE}/sessions", params=params))
        assert isinstance(listed["items"], list)
        seen += [item["session_id"] for item in listed["items"]]
        if (cursor := listed["next_cursor"]) is None:
            break

    assert seen == ids


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"starts_at": "2026-01-24T08:00:00"}, "starts_at"),
        ({"starts_at": (PAIRED.started_at - timedelta(days=1)).isoformat()}, "starts_at"),
        ({"starts_at": PAIRED.ends_at.isoformat()}, "starts_at"),
        ({"minutes": 4}, "minutes"),
        ({"mode": "by_letter"}, "mode"),
        ({"topics": ["cooking"]}, "topics"),
        ({"agenda": {"goal": "Without items", "items": []}}, "agenda.items"),
        ({"agenda": {"goal": "  ", "items": ["One"]}}, "agenda.goal"),
        ({"number": 7}, "number"),
    ],
)
async def test_a_plan_that_breaks_a_rule_is_refused_with_its_field(
    pair: Pair, fields: dict[str, object], field: str
) -> None:
    answer = await pair.mentee.post(f"{BASE}/pairs/{PAIR}/sessions", json=plan(**fields))

    errors = json_of(answer, 422)["errors"]
    assert isinstance(errors, list)
    assert [error["field"] for error in errors] == [field]
