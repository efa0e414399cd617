"""The rules of enrollment, one by one."""

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.enrollment.domain import Participant, manager_chain
from shared.errors import InvalidInputError, RuleViolationError
from tests.unit.enrollment.builders import (
    MENTEE,
    MENTOR,
    NOW,
    SPEC,
    org,
    participant,
    person,
    profile,
    program,
    spec,
)

LATER = NOW + timedelta(days=1)
NAMES = st.sampled_from("abcdefg")


@given(st.dictionaries(NAMES, NAMES | st.none()), NAMES)
def test_a_reporting_line_ends_and_never_holds_its_person(
    manager_of: dict[str, str | None], start: str
) -> None:
    chain = manager_chain(start, manager_of)
    assert start not in chain
    assert len(set(chain)) == len(chain)
    for below, above in zip((start, *chain), chain, strict=False):
        assert manager_of[below] == above


def test_everybody_of_a_cycle_is_above_everybody_else_of_it() -> None:
    cycle = {"a": "b", "b": "c", "c": "a", "d": "a"}
    assert manager_chain("a", cycle) == ("b", "c")
    assert manager_chain("d", cycle) == ("a", "b", "c")
    assert manager_chain("e", {"e": "e"}) == ()
    assert manager_chain("f", {"f": "not-in-the-file"}) == ("not-in-the-file",)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"unknown": 1}, "unknown"),
        ({"thresholds": {"scores": 2}}, "thresholds.scores"),
        ({"thresholds": {"score": 9}}, "thresholds.score"),
        ({"eligibility": {"mentor_min_level": 4, "mentee_max_level": 2, "x": 1}}, "eligibility.x"),
        ({"training": {"mentor": ["No Slug"]}}, "training.mentor.0"),
        ({"topics": []}, "topics"),
        ({"topics": [{"topic_id": "a", "title": "A"}] * 2}, ""),
        ({"topics": [{"topic_id": "a", "title": "A", "x": 1}]}, "topics.0.x"),
        ({"ends_on": SPEC["starts_on"]}, ""),
        ({"circle_capacity": 3}, ""),
        ({"weights": {"coverage": 600, "difference": 600}}, ""),
        ({"weights": {"charm": 1}}, "weights.charm.[key]"),
        ({"surveys": [{"kind": "start", "instrument": "i", "instrument_version": 1, "x": 1}]},
         "surveys.0.x"),
    ],
)  # fmt: skip
def test_a_program_that_breaks_a_rule_is_refused_by_the_field(
    changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        spec(**changes)
    assert ".".join(map(str, refusal.value.errors()[0]["loc"])) == field


def test_a_program_counts_its_versions_and_keeps_its_thresholds() -> None:
    first = program()
    assert first.republish(spec(), LATER) is first
    second = first.republish(spec(title="Another"), LATER)
    assert (second.program_version, second.published_at) == (2, LATER)
    with pytest.raises(RuleViolationError) as refusal:
        first.republish(spec(thresholds={"scores": 9}), LATER)
    assert refusal.value.code == "thresholds_frozen"


def test_a_closed_program_stays_closed() -> None:
    closed = program().close(LATER)
    assert closed.close(LATER + timedelta(days=1)) is closed
    for refused in (
        lambda: closed.republish(spec(title="x"), LATER),
        lambda: Participant.enroll(closed, person(), org(), profile(), LATER),
        lambda: participant().change_profile(closed, profile(), LATER),
    ):
        with pytest.raises(RuleViolationError) as refusal:
            refused()
        assert refusal.value.code == "program_closed"


@pytest.mark.parametrize(
    ("base", "level", "taken"),
    [
        (MENTOR, 4, True),
        (MENTOR, 3, False),
        (MENTEE, 2, True),
        (MENTEE, 3, False),
        (MENTOR, None, True),
        (MENTEE, None, True),
        (MENTOR | MENTEE | {"role": "both"}, 5, False),
        (MENTOR | MENTEE | {"role": "both"}, None, True),
    ],
)
def test_a_level_may_take_the_roles_that_the_program_gives_it(
    base: dict[str, Any], level: int | None, taken: bool
) -> None:
    def enroll() -> Participant:
        return Participant.enroll(program(), person(level), org(level), profile(base), NOW)

    if taken:
        assert enroll().takes_part
    else:
        with pytest.raises(RuleViolationError) as refusal:
            enroll()
        assert refusal.value.code == "not_eligible"


@pytest.mark.parametrize(
    ("base", "changes", "field"),
    [
        (MENTEE, {"intent": None}, "intent"),
        (MENTEE, {"wants": []}, "wants"),
        (MENTOR, {"eagerness": None}, "eagerness"),
        (MENTOR, {"teaches": []}, "teaches"),
        (MENTOR, {"teaches": [{"topic_id": "x", "proficiency": 1}]}, "teaches.0.topic_id"),
        (MENTOR, {"teaches": MENTOR["teaches"] * 2}, "teaches"),
        (MENTOR, {"languages": ["en", "English"]}, "languages.1"),
        (MENTOR, {"languages": ["en\n"]}, "languages.0"),
        (MENTOR, {"working_hours": {"start": "17:00", "end": "09:00"}}, "working_hours.end"),
        (MENTOR, {"working_hours": {"days": []}}, "working_hours.days"),
        (MENTOR, {"working_hours": {"days": [8]}}, "working_hours.days"),
    ],
)
def test_a_profile_says_what_its_role_needs(
    base: dict[str, Any], changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        profile(base, **changes).check(program())
    assert refusal.value.field == field
    known = "unknown_topic" if field.endswith("topic_id") else "missing_or_invalid"
    assert refusal.value.code == known


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "x"},
        {"teaches": [{"topic_id": "ai", "proficiency": 6}]},
        {"teaches": [{"topic_id": "ai", "proficiency": 5, "x": 1}]},
        {"preferences": {"gender": "x"}},
        {"working_hours": {"zone": "x"}},
        {"languages": []},
        {"languages": ["x" * 21]},
        {"eagerness": "x" * 2001},
        {"preferences": {"regions": ["x"] * 51}},
    ],
)
def test_a_profile_has_no_unknown_and_no_endless_fields(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        profile(**changes)


def test_somebody_who_left_can_t_enroll_and_somebody_about_to_leave_can() -> None:
    with pytest.raises(RuleViolationError) as refusal:
        Participant.enroll(program(), person(left_on=NOW.date()), org(), profile(), NOW)
    assert refusal.value.code == "departed"
    soon = person(left_on=NOW.date() + timedelta(days=1))
    assert Participant.enroll(program(), soon, org(), profile(), NOW).takes_part


def test_training_makes_ready_once_and_for_the_role() -> None:
    enrolled = participant()
    assert not enrolled.ready
    half = enrolled.complete(program(), "upward", NOW)
    assert not half.ready
    assert half.complete(program(), "upward", LATER) is half
    ready = half.complete(program(), "trust", LATER)
    assert (ready.ready, ready.ready_at) == (True, LATER)
    with pytest.raises(InvalidInputError) as refusal:
        ready.complete(program(), "listening", LATER)
    assert refusal.value.field == "module"
    # Another role needs other modules.
    changed = ready.changed(org=org(None)).change_profile(program(), profile(MENTEE), LATER)
    assert not changed.ready


def test_without_training_everybody_is_ready_at_once() -> None:
    plain = program(training={})
    assert Participant.enroll(plain, person(), org(), profile(), NOW).ready_at == NOW


def test_what_already_happened_changes_nothing() -> None:
    enrolled = participant()
    assert enrolled.resume() is enrolled
    assert enrolled.change_profile(program(), profile(), LATER) is enrolled
    assert enrolled.moved(org()) is enrolled
    paused = enrolled.pause()
    assert paused.pause() is paused
    withdrawn = paused.withdraw()
    assert withdrawn.withdraw() is withdrawn
    departed = enrolled.depart()
    assert departed.depart() is departed


@pytest.mark.parametrize("gone", [participant().withdraw(), participant().depart()])
def test_who_does_not_take_part_only_enrolls_again(gone: Participant) -> None:
    for refused in (
        gone.pause,
        gone.resume,
        lambda: gone.complete(program(), "upward", LATER),
        lambda: gone.change_profile(program(), profile(), LATER),
    ):
        with pytest.raises(RuleViolationError) as refusal:
            refused()
        assert refusal.value.code == "not_enrolled"
    back = gone.enroll_again(program(), person(), org(), profile(), LATER)
    assert (back.status, back.enrolled_at, back.id) == ("enrolled", LATER, gone.id)


def test_training_done_before_a_withdrawal_counts() -> None:
    trained = participant().complete(program(), "upward", NOW).complete(program(), "trust", NOW)
    back = trained.withdraw().enroll_again(program(), person(), org(), profile(), LATER)
    assert back.ready_at == LATER


def test_who_takes_part_does_not_enroll_twice() -> None:
    for status in (participant(), participant().pause()):
        with pytest.raises(RuleViolationError) as refusal:
            status.enroll_again(program(), person(), org(), profile(), LATER)
        assert refusal.value.code == "already_enrolled"


def test_who_departed_by_a_date_is_gone_from_that_day_on() -> None:
    leaver = person(left_on=date(2026, 1, 6))
    assert not leaver.has_left(NOW)
    assert leaver.has_left(LATER)
    assert not person().has_left(LATER)
