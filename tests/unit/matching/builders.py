"""People, policies and programs for tests: allowed to be paired unless a test says otherwise."""

from datetime import UTC, date, datetime
from typing import Any

from services.matching.engine.model import Candidate, Policy
from shared.events.participants import Enrolled, TopicLevel
from shared.events.programs import (
    Eligibility,
    ProgramPublished,
    ProgramTopic,
    Thresholds,
    Training,
)

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)


def topics(**proficiency: int) -> tuple[TopicLevel, ...]:
    return tuple(TopicLevel(topic_id=t, proficiency=p) for t, p in proficiency.items())


def mentor(name: str = "m", **fields: Any) -> Candidate:
    known = {
        "participant_id": name,
        "person_id": f"person-{name}",
        "role": "mentor",
        "level": 6,
        "department": f"department of {name}",
        "region": "emea",
        "country": "GB",
        "timezone": "Europe/London",
        "manager_chain": (f"boss-of-{name}", "head"),
        "teaches": topics(ai=5),
        "languages": ("en",),
    }
    return Candidate.model_validate(known | fields)


def mentee(name: str = "s", **fields: Any) -> Candidate:
    known = {"role": "mentee", "level": 2, "teaches": (), "wants": topics(ai=2)}
    return mentor(name, **(known | fields))


def policy(**fields: Any) -> Policy:
    known = {
        "min_level_gap": 2,
        "cross_department": True,
        "different_boss": True,
        "cross_region": True,
        "min_overlap_minutes": 60,
        "term_middle": date(2026, 7, 1),
    }
    return Policy.model_validate(known | fields)


def published(**fields: Any) -> ProgramPublished:
    known: dict[str, Any] = {
        "program_id": "program",
        "version": 1,
        "title": "Upward",
        "topics": (ProgramTopic(topic_id="ai", title="Working with AI"),),
        "format": "one_to_one",
        "circle_capacity": 3,
        "cadence_days": 14,
        "term_days": 180,
        "proposal_expiry_days": 7,
        "starts_on": date(2026, 1, 1),
        "ends_on": date(2026, 12, 31),
        "mode": "cohort",
        "min_level_gap": 2,
        "cross_department": True,
        "cross_region": True,
        "min_overlap_minutes": 60,
        "training": Training(),
        "surveys": (),
        "thresholds": Thresholds(),
        "eligibility": Eligibility(mentor_min_level=4, mentee_max_level=2),
    }
    return ProgramPublished.model_validate(known | fields)


def enrolled(name: str = "m", **fields: Any) -> Enrolled:
    facts = mentor(name) if fields.get("role", "mentor") != "mentee" else mentee(name)
    known = facts.model_dump(
        include={
            "participant_id",
            "person_id",
            "role",
            "level",
            "department",
            "region",
            "country",
            "timezone",
            "manager_chain",
            "teaches",
            "wants",
            "languages",
            "working_hours",
            "preferences",
        }
    ) | {
        "program_id": "program",
        "hired_on": None,
        "ready": True,
        "ready_at": NOW,
        "enrolled_at": NOW,
    }
    return Enrolled.model_validate(known | fields)
