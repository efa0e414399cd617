"""A small company that lives a few days on all five services, and who may know what of it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import orjson

from shared.events.participants import Enrolled
from shared.events.topics import PARTICIPANTS
from tests.support.golden import golden_event, golden_record
from tests.support.platform import PROGRAM, RunningPlatform, json_of

OTHER_PROGRAM = "other-program"
TOPIC = "digital-ai"
MODULE = "listening"
GONE_WRONG = "zebra-poison"
"""Where a number should be in a record, so that each of its readers keeps it as a dead letter."""

_SENIORS, _JUNIORS = 4, 8
SPEC: dict[str, Any] = {
    "title": "Reverse mentoring",
    "topics": [{"topic_id": TOPIC, "title": "Digital tools"}],
    "starts_on": "2026-01-05",
    "ends_on": "2026-12-31",
    "eligibility": {"mentor_min_level": 4, "mentee_max_level": 2},
    "training": {"mentor": [MODULE], "mentee": [MODULE]},
    "surveys": [{"kind": "pulse", "instrument": "pulse", "instrument_version": 1}],
}

_RATING = [{"topic_id": TOPIC, "proficiency": 1}]
_TIME = {"starts_at": "2026-01-20T09:00:00+00:00", "minutes": 30}
BODIES: Mapping[str, object] = {
    "profile": {"role": "mentor", "teaches": _RATING, "languages": ["fr"], "eagerness": "x"},
    "training": {"module": MODULE},
    "ground-rules": {"scope": "individuals", "off_limits": ["x"]},
    "sessions": {**_TIME, "mode": "virtual", "topics": [TOPIC]},
    "agenda": {"goal": "x", "items": ["x"]},
    "move": _TIME,
    "hold": {"minutes": 30, "attended": ["x", "y"], "takeaways": ["x"], "learned": False},
    "notes": {"takeaways": ["x"], "learned": False},
    "responses": {"answers": {"satisfaction": 1}},
    "participants": {"role": "mentor", "teaches": _RATING, "languages": ["fr"], "eagerness": "x"},
    "rounds": {"seed": 2},
    "replay": {"topic": "upward.pairs.v1", "since": "2026-01-05T00:00:00Z"},
    "{program_id}": {**SPEC, "title": "Taken over", "cadence_days": 7, "cross_region": True},
}
"""A valid body for every command that takes one, by the last part of its path."""


@dataclass
class Story:
    """What happened: the ids of everything, whose it is, and who may read which text.

    A reader is a person id, a role (`hr`, `operator`), or `coordinator_of(program)`.
    """

    running: RunningPlatform
    people: list[str] = field(default_factory=list)
    """Those enrolled, by person id: the seniors first."""
    owners: dict[str, dict[str, frozenset[str]]] = field(default_factory=dict)
    """By the name of a path parameter: the ids, and the people whose object each one is."""
    readers: dict[str, frozenset[str]] = field(default_factory=dict)
    """By text (an id, a name, what somebody wrote): who may find it in an answer."""
    words: list[str] = field(default_factory=list)
    """Names, employee ids and whatever people wrote: on no event and in no log."""

    async def office(self) -> httpx.AsyncClient:
        """Return the client of the program's coordinator."""
        return await self.running.client("office", "coordinator")

    def owned(self, kind: str, object_id: object, *people: str, to: Sequence[str] = ()) -> str:
        """Remember an object of these people, whose id others may read as well."""
        name = str(object_id)
        self.owners.setdefault(kind, {})[name] = frozenset(people)
        self.may_read(name, *people, *to)
        return name

    def said(self, text: str, *readers: str) -> str:
        """Remember a text for these readers alone, and return it."""
        self.words.append(text)
        self.may_read(text, *readers)
        return text

    def may_read(self, text: str, *readers: str) -> None:
        """Remember that these, too, may read a text."""
        self.readers[text] = self.readers.get(text, frozenset()) | set(readers)


def coordinator_of(program_id: str) -> str:
    """Return the reader who is a program's coordinator."""
    return f"coordinator of {program_id}"


OFFICE = coordinator_of(PROGRAM)


async def live(running: RunningPlatform) -> Story:
    """Run the story: four seniors and eight juniors, four proposals, three pairs, two sessions."""
    story = Story(running)
    await _enroll(story)
    pairs = await _pair(story)
    await _meet(story, pairs[0])
    await _plan(story, pairs[1])
    await _poison(story)
    return story


async def _enroll(story: Story) -> None:
    hr = await story.running.client("hr", "hr", programs=())
    report = json_of(
        await hr.post(
            "/enrollment/v1/roster/imports",
            content=_roster(story),
            headers={"Content-Type": "text/csv"},
        ),
        201,
    )
    story.owned("import_id", report["import_id"], to=["hr"])
    found = await _items(hr, "/enrollment/v1/roster/people")
    story.people = [str(person["person_id"]) for person in found]
    for program_id in (PROGRAM, OTHER_PROGRAM):
        office = await story.running.client("office", "coordinator", programs=(program_id,))
        json_of(await office.put(f"/enrollment/v1/programs/{program_id}", json=SPEC))
    levels = {str(person["person_id"]): person["level"] for person in found}
    story.people.sort(key=lambda person: (levels[person], person))
    for person_id in story.people:
        await _join(story, person_id, PROGRAM, senior=levels[person_id] == 1)
    await _join(story, story.people[-1], OTHER_PROGRAM, senior=False)
    await story.running.settle()


def _roster(story: Story) -> str:
    lines = ["employee_id,name,job_title,level,department,manager_id,country,region,timezone"]
    for number in range(_SENIORS + _JUNIORS):
        employee = story.said(f"zebra-employee-{number:02}", "hr")
        name = story.said(f"Zebra Name {number:02}", "hr")
        level = 1 if number < _SENIORS else 5
        lines.append(
            f"{employee},{name},Job,{level},Department {number},boss-{number},GB,EU,Europe/London"
        )
    return "\n".join(lines)


async def _join(story: Story, person_id: str, program_id: str, *, senior: bool) -> None:
    person = await story.running.person(person_id)
    office = coordinator_of(program_id)
    story.may_read(person_id, person_id, office, "hr")
    rating = [{"topic_id": TOPIC, "proficiency": 3}]
    profile: dict[str, Any] = {"role": "mentor", "teaches": rating, "languages": ["en"]}
    if senior:
        profile = {"role": "mentee", "wants": rating, "languages": ["en"]}
    word = "intent" if senior else "eagerness"
    profile[word] = story.said(f"zebra-{word}-{person_id}-in-{program_id}", person_id, office)
    path = f"/enrollment/v1/programs/{program_id}/participants"
    enrolled = json_of(await person.post(path, json=profile), 201)
    participant_id = story.owned(
        "participant_id", enrolled["participant_id"], person_id, to=[office]
    )
    path = f"/enrollment/v1/participants/{participant_id}/training"
    json_of(await person.post(path, json={"module": MODULE}))


async def _pair(story: Story) -> list[dict[str, Any]]:
    office = await story.office()
    asked = json_of(
        await office.post(f"/matching/v1/programs/{PROGRAM}/rounds", json={"seed": 1}), 202
    )
    path = f"/matching/v1/rounds/{asked['round_id']}"
    async with asyncio.timeout(20):
        while json_of(await office.get(path))["status"] != "completed":
            await story.running.settle()
    pairs = await _items(office, "/matching/v1/pairs", program=PROGRAM)
    assert len(pairs) == _SENIORS
    story.owned("round_id", asked["round_id"], *story.people, to=[OFFICE])
    for pair in pairs:
        both = members(pair)
        story.owned("pair_id", pair["pair_id"], *both, to=[OFFICE])
        for side in (pair["mentor"], *pair["mentees"]):
            # Partners know each other by their ids, and by nothing else.
            story.may_read(side["participant_id"], *both)
            story.may_read(side["person_id"], *both)
    for pair in pairs[:3]:
        for person_id in members(pair):
            person = await story.running.person(person_id)
            json_of(await person.post(f"/matching/v1/pairs/{pair['pair_id']}/accept"))
    # The last proposal has one yes, and waits.
    mentor = await story.running.person(pairs[3]["mentor"]["person_id"])
    json_of(await mentor.post(f"/matching/v1/pairs/{pairs[3]['pair_id']}/accept"))
    await story.running.settle()
    return pairs


def members(pair: dict[str, Any]) -> tuple[str, ...]:
    """Return the person ids of a pair as matching shows it, the mentor first."""
    return tuple(side["person_id"] for side in (pair["mentor"], *pair["mentees"]))


async def _plan(story: Story, pair: dict[str, Any], hours: int = 48) -> str:
    """Agree to the ground rules, and propose a session with an agenda."""
    people, pair_id = members(pair), pair["pair_id"]
    for person_id in people:
        off_limits = story.said(f"zebra-off-limits-{person_id}", *people)
        rules = {"scope": "general", "off_limits": [off_limits]}
        person = await story.running.person(person_id)
        json_of(await person.put(f"/sessions/v1/pairs/{pair_id}/ground-rules", json=rules))
    agenda = {
        "goal": story.said(f"zebra-goal-{pair_id}-{hours}", *people),
        "items": [story.said(f"zebra-item-{pair_id}-{hours}", *people)],
    }
    plan = {
        "starts_at": _moment(story, hours).isoformat(),
        "minutes": 60,
        "mode": "virtual",
        "topics": [TOPIC],
        "agenda": agenda,
    }
    mentee = await story.running.person(people[1])
    planned = json_of(await mentee.post(f"/sessions/v1/pairs/{pair_id}/sessions", json=plan), 201)
    return story.owned("session_id", planned["session_id"], *people, to=[OFFICE])


async def _meet(story: Story, pair: dict[str, Any]) -> None:
    """Hold a session with takeaways; the mentee answers the pulse, the mentor has not yet."""
    people = members(pair)
    mentor, mentee = [await story.running.person(person_id) for person_id in people]
    session_id = await _plan(story, pair, hours=24)
    json_of(await mentor.post(f"/sessions/v1/sessions/{session_id}/confirm"))
    story.running.clock.set(_moment(story, 25))
    record = {
        "minutes": 55,
        "attended": [pair["mentor"]["participant_id"], pair["mentees"][0]["participant_id"]],
        "learned": True,
        "takeaways": [story.said(f"zebra-takeaway-{session_id}", *people)],
    }
    json_of(await mentee.post(f"/sessions/v1/sessions/{session_id}/hold", json=record))
    await story.running.settle()
    for person_id, client in zip(people, (mentor, mentee), strict=True):
        (survey,) = await _items(client, "/feedback/v1/surveys")
        survey_id = story.owned("survey_id", survey["survey_id"], person_id)
        if client is mentee:
            path = f"/feedback/v1/surveys/{survey_id}/responses"
            response = json_of(await client.post(path, json={"answers": {"satisfaction": 4}}), 201)
            story.owned("response_id", response["response_id"], person_id)
    await story.running.settle()


async def _poison(story: Story) -> None:
    """Put a record on the log that nobody can read, with a text in it that nobody should repeat."""
    event = golden_event(Enrolled).model_dump(mode="json") | {"level": GONE_WRONG}
    key, _, headers = golden_record(Enrolled)
    await story.running.publish_record(PARTICIPANTS, key.decode(), orjson.dumps(event), headers)
    story.words.append(GONE_WRONG)
    await story.running.settle()
    operator = await story.running.client("ops", "operator", programs=())
    for letter in await _items(operator, "/matching/v1/operations/dead-letters"):
        story.owned("letter_id", letter["id"], to=["operator"])


def _moment(story: Story, hours: int) -> datetime:
    return story.running.clock.now() + timedelta(hours=hours)


async def _items(client: httpx.AsyncClient, path: str, **query: str) -> list[dict[str, Any]]:
    answer = await client.get(path, params={**query, "limit": "200"})
    items: list[dict[str, Any]] = orjson.loads(answer.content)["items"]
    return items
