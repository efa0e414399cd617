"""Who takes part in the demo, and what they say of themselves: decided by the seed alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deploy.client import Json

_KNOWN_ZONE_SHARE = 0.92
_LANGUAGES = {
    "France": "fr",
    "Spain": "es",
    "Germany": "de",
    "Brazil": "pt-BR",
    "Japan": "ja",
    "China": "zh-CN",
    "India": "hi",
}


def chance(*parts: object) -> float:
    """Return a number in [0, 1) that the parts decide, the same on any machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass(frozen=True)
class Actor:
    """Somebody of the roster who takes part."""

    person_id: str
    role: Literal["mentor", "mentee"]
    manager_person_id: str | None
    country: str | None


@dataclass(frozen=True)
class Plan:
    """What fits this roster: levels that may take part, and who enrolls."""

    mentee_max_level: int
    mentor_min_level: int
    min_level_gap: int
    actors: tuple[Actor, ...]


def make_plan(people: Sequence[Json], *, mentors: int, mentees: int, seed: int) -> Plan:
    """Choose levels and people. Raises ValueError for a roster without two levels.

    Seniors are the fewest top levels that hold enough people (a tenth of the roster, or as many
    as asked for); juniors stand two levels below, or one where the roster is flat.
    """
    known = [person for person in people if person["level"] is not None and person["name"]]
    levels = sorted({person["level"] for person in known})
    if len(levels) < 2:
        msg = "The roster needs people of at least two known levels."
        raise ValueError(msg)
    wanted = max(1, min(mentees, len(known) // 10))
    top = next(
        (lvl for lvl in levels[:-1] if sum(p["level"] <= lvl for p in known) >= wanted), levels[-2]
    )
    gap = 2 if sum(person["level"] >= top + 2 for person in known) >= wanted else 1
    seniors = [person for person in known if person["level"] <= top]
    juniors = [person for person in known if person["level"] >= top + gap]
    actors = (
        *_choose(seniors, "mentee", mentees, seed),
        *_choose(juniors, "mentor", mentors, seed),
    )
    return Plan(top, top + gap, gap, actors)


def _choose(
    people: Sequence[Json], role: Literal["mentor", "mentee"], count: int, seed: int
) -> list[Actor]:
    """Choose by the seed, mostly people whose zone is known; the others show what waiting is."""

    def rank(person: Json) -> float:
        key = person["employee_id"]
        luck = chance(seed, "choose", role, key)
        blind = person["timezone"] is None and chance(seed, "zone", key) < _KNOWN_ZONE_SHARE
        return luck + (1 if blind else 0)

    chosen = sorted(people, key=lambda person: (rank(person), person["employee_id"]))[:count]
    return [
        Actor(person["person_id"], role, person["manager_person_id"], person["country"])
        for person in chosen
    ]


def profile(actor: Actor, topics: Sequence[str], seed: int) -> dict[str, Any]:
    """Return what an actor sends to enroll."""

    def luck(*parts: object) -> float:
        return chance(seed, "profile", actor.person_id, *parts)

    def some(kind: str, fewest: int, spread: int) -> list[str]:
        ranked = sorted(topics, key=lambda topic: luck(kind, topic))
        return ranked[: fewest + int(luck(kind, "count") * spread)]

    languages = ["en"] if luck("english") < 0.97 else []
    other = _LANGUAGES.get(actor.country or "")
    if other is not None and luck("other") < 0.6:
        languages.append(other)
    start = 8 + int(luck("start") * 3)
    body: dict[str, Any] = {
        "role": actor.role,
        "languages": languages or ["fr"],
        "working_hours": {"start": f"{start:02}:00", "end": f"{start + 8:02}:00"},
    }
    if actor.role == "mentor":
        body["eagerness"] = "I want leaders to see how our work has changed."
        body["teaches"] = [
            {"topic_id": topic, "proficiency": 3 + int(luck("skill", topic) * 3)}
            for topic in some("teaches", 2, 3)
        ]
    else:
        body["intent"] = "I want to understand what my juniors take for granted."
        body["wants"] = [
            {"topic_id": topic, "proficiency": 1 + int(luck("skill", topic) * 3)}
            for topic in some("wants", 2, 2)
        ]
    return body
