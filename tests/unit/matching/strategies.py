"""Random pools and policies, and what must be true of every result."""

from typing import Any

from hypothesis import strategies as st

from services.matching.engine.model import Candidate, Policy, Result
from shared.events.participants import Preferences, WorkingHours
from tests.unit.matching.builders import mentee, mentor, policy, topics
from tests.unit.matching.oracle import may_pair

ZONES = ("Europe/London", "Asia/Kathmandu", "Asia/Kolkata", "Australia/Lord_Howe", None)


@st.composite
def people(draw: st.DrawFn, side: str, most: int = 6) -> list[Candidate]:
    drawn = []
    for number in range(draw(st.integers(0, most))):
        name = f"{side}{number}"
        others = st.lists(st.sampled_from([f"person-{s}{n}" for s in "ab" for n in range(6)]),
                          max_size=2)  # fmt: skip
        fields: dict[str, Any] = {
            "level": draw(st.sampled_from([0, 1, 2, 3, 4, None] if side == "b" else [2, 3, 4, 5])),
            "department": draw(st.sampled_from(["Legal", "Sales", "IT", None])),
            "region": draw(st.sampled_from(["emea", "apac", None])),
            "timezone": draw(st.sampled_from(ZONES)),
            "manager_chain": tuple(draw(others)),
            "vetoes": tuple(draw(others)[:1]),
            "former_partners": tuple(draw(others)[:1]),
            "languages": draw(st.sampled_from([("en",), ("en", "fr"), ("fr-CA",), ()])),
            "working_hours": draw(st.sampled_from([
                WorkingHours(), WorkingHours(start="12:00", end="20:00", days=(1, 5))])),
            "teaches": topics(**draw(st.dictionaries(st.sampled_from("xyz"), st.integers(3, 5)))),
            "wants": topics(**draw(st.dictionaries(st.sampled_from("xyz"), st.integers(1, 3)))),
            "capacity": draw(st.integers(1, 3)),
            "waited_days": draw(st.sampled_from([0, 40])),
            "preferences": Preferences(format=draw(st.sampled_from([None, "circle"]))),
        }  # fmt: skip
        drawn.append(mentor(name, **fields) if side == "a" else mentee(name, **fields))
    return drawn


POLICIES = st.builds(
    policy,
    min_level_gap=st.integers(1, 3),
    cross_department=st.booleans(),
    different_boss=st.booleans(),
    cross_region=st.booleans(),
    min_overlap_minutes=st.sampled_from([0, 60, 200]),
    weights=st.sampled_from([{}, {"coverage": 1}, {"coverage": 600, "difference": 400}]),
)


def check(result: Result, pool: list[Candidate], rules: Policy) -> None:
    check_near(result, pool, rules)
    assert result.objective == result.bound


def check_near(result: Result, pool: list[Candidate], rules: Policy) -> None:
    by_id = {person.participant_id: person for person in pool}
    mentees: list[str] = []
    for pair in result.pairs:
        assert 1 <= len(pair.mentee_ids) <= by_id[pair.mentor_id].capacity
        assert by_id[pair.mentor_id].role != "mentee"
        assert all(by_id[who].role != "mentor" for who in pair.mentee_ids)
        assert all(may_pair(by_id[pair.mentor_id], by_id[who], rules) for who in pair.mentee_ids)
        mentees += pair.mentee_ids
    mentors = [pair.mentor_id for pair in result.pairs]
    assert len(set(mentees)) == len(mentees) == result.matched.mentees
    assert len(set(mentors)) == len(mentors) == result.matched.mentors
    assert {*mentors, *mentees}.isdisjoint(result.unmatched)
    assert {*mentors, *mentees, *result.unmatched} == set(by_id)
    assert sum(result.unmatched_counts().values()) == len(result.unmatched)
    assert result.objective == sum(pair.score for pair in result.pairs) <= result.bound
