"""People, programs and profiles to begin a test with; what matters to it, it says itself."""

from datetime import UTC, date, datetime
from typing import Any

from services.enrollment.domain import Participant, Person, Profile, Program, ProgramSpec
from shared.events.participants import OrgFacts

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)

SPEC: dict[str, Any] = {
    "title": "Reverse mentoring",
    "topics": [{"topic_id": "ai", "title": "AI"}, {"topic_id": "media", "title": "Media"}],
    "starts_on": "2026-01-05",
    "ends_on": "2026-12-31",
    "eligibility": {"mentor_min_level": 4, "mentee_max_level": 2},
    "training": {"mentor": ["upward", "trust"], "mentee": ["listening"]},
}
MENTOR: dict[str, Any] = {
    "role": "mentor",
    "teaches": [{"topic_id": "ai", "proficiency": 5}],
    "languages": ["en"],
    "eagerness": "I like to explain.",
}
MENTEE: dict[str, Any] = {
    "role": "mentee",
    "wants": [{"topic_id": "ai", "proficiency": 1}],
    "languages": ["en"],
    "intent": "I want to understand.",
}


def spec(**changes: Any) -> ProgramSpec:
    return ProgramSpec.model_validate(SPEC | changes)


def program(**changes: Any) -> Program:
    return Program.publish("rm", spec(**changes), NOW)


def profile(base: dict[str, Any] = MENTOR, **changes: Any) -> Profile:
    return Profile.model_validate(base | changes)


def person(level: int | None = 5, left_on: date | None = None) -> Person:
    return Person(
        id="p_1",
        employee_id="E1",
        name="Ada",
        job_title=None,
        level=level,
        department="Digital",
        manager_person_id=None,
        location=None,
        country=None,
        region=None,
        timezone="Europe/London",
        hired_on=None,
        left_on=left_on,
    )


def org(level: int | None = 5) -> OrgFacts:
    return OrgFacts(level=level, department="Digital", manager_chain=())


def participant(base: dict[str, Any] = MENTOR) -> Participant:
    level = 5 if base["role"] == "mentor" else 1
    return Participant.enroll(program(), person(level), org(level), profile(base), NOW)
