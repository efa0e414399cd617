from datetime import UTC, date, datetime, timedelta

import pytest

from services.matching.domain.program import Program
from shared.errors import RuleViolationError
from shared.events.participants import Preferences
from shared.events.programs import ProgramClosed
from tests.unit.matching.builders import NOW, published


def program(**fields: object) -> Program:
    return Program(id="program", published=published(**fields))


def test_only_a_newer_version_replaces_a_programs_configuration() -> None:
    second = program(version=2, title="new")
    late = second.publish(published(version=1, thresholds={"scores": 9, "comments": 10}))
    assert late == second.changed(threshold=9)
    lower = published(version=3, thresholds={"scores": 3, "comments": 10})
    assert late.publish(lower).threshold == 9
    assert second.publish(published(version=2)) is second
    assert second.publish(published(version=3)).config.version == 3


def test_a_closed_program_stays_closed_in_whatever_order_its_events_arrive() -> None:
    closed = Program(id="program").close(ProgramClosed(program_id="program", version=2))
    known = closed.publish(published())
    assert known.close(ProgramClosed(program_id="program", version=2)) is known
    with pytest.raises(RuleViolationError) as refusal:
        known.require_open(NOW)
    assert refusal.value.code == "program_closed"


def test_a_program_whose_configuration_has_not_arrived_decides_nothing() -> None:
    with pytest.raises(RuleViolationError) as refusal:
        Program(id="program").require_open(NOW)
    assert refusal.value.code == "program_unknown"


def test_a_program_is_open_until_the_last_moment_of_its_last_day() -> None:
    open_ = program(ends_on=date(2026, 12, 31))
    open_.require_open(datetime(2026, 12, 31, 23, 59, tzinfo=UTC))
    with pytest.raises(RuleViolationError):
        open_.require_open(datetime(2027, 1, 1, tzinfo=UTC))


def test_a_closed_program_is_over_before_its_end() -> None:
    assert not program().is_over(NOW)
    assert program().close(ProgramClosed(program_id="program", version=1)).is_over(NOW)


def test_a_program_has_one_open_round_at_a_time() -> None:
    taken = program().open_round("one")
    assert taken.open_round_id == "one"
    with pytest.raises(RuleViolationError) as refusal:
        taken.open_round("two")
    assert refusal.value.code == "round_open"
    assert taken.finish_round("two") is taken
    assert taken.finish_round("one").open_round("two").open_round_id == "two"


def test_a_term_starts_counting_when_the_proposals_have_expired() -> None:
    assert program().expires_at(NOW) == NOW + timedelta(days=7)
    assert program().term_ends_at(NOW) == NOW + timedelta(days=7 + 180)


def test_no_term_and_no_proposal_outlives_the_program() -> None:
    short = program(ends_on=NOW.date() + timedelta(days=3))
    assert short.term_ends_at(NOW) == short.expires_at(NOW) == short.last_moment
    assert short.last_moment.date() == NOW.date() + timedelta(days=3)


def test_working_hours_are_compared_in_the_middle_of_the_term() -> None:
    policy = program(different_boss=False, weights={"coverage": 7}).policy(NOW)
    assert policy.term_middle == (NOW + timedelta(days=7 + 180 / 2)).date()
    assert policy.weight("coverage") == 7
    assert not policy.different_boss


@pytest.mark.parametrize(
    ("format_", "wish", "capacity"),
    [
        ("one_to_one", "circle", 1),
        ("circle", "one_to_one", 3),
        ("circle", None, 3),
        ("mixed", "one_to_one", 1),
        ("mixed", None, 3),
    ],
)
def test_a_mentor_has_several_mentees_where_the_programs_format_says_so(
    format_: str, wish: str | None, capacity: int
) -> None:
    wishes = Preferences.model_validate({"format": wish})
    assert program(format=format_).capacity(wishes) == capacity


def test_the_middle_is_that_of_the_term_which_the_programs_end_cuts_short() -> None:
    short = program(ends_on=NOW.date() + timedelta(days=27))
    expires_at = NOW + timedelta(days=7)
    middle = expires_at + (short.last_moment - expires_at) / 2
    assert short.policy(NOW).term_middle == middle.date()


def test_topics_go_by_their_titles() -> None:
    assert program().titles == {"ai": "Working with AI"}
