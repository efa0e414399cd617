"""A pair follows matching's events, in whatever order they come."""

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import permutations

import pytest

from services.sessions.domain.pair import PairRecord
from services.sessions.domain.program import Program
from shared.errors import InvalidInputError, RuleViolationError
from shared.events.programs import ProgramPublished
from tests.support.golden import golden_event
from tests.unit.sessions.builders import (
    MENTEE,
    MENTOR,
    NOW,
    OTHER_MENTEE,
    pair,
    paired,
    placeholder,
    program,
)

ENDED = NOW + timedelta(days=30)
STEPS: dict[int, Callable[[PairRecord], PairRecord]] = {
    2: lambda known: known.form(paired(), 2),
    3: lambda known: known.pause(3),
    4: lambda known: known.resume(4),
    5: lambda known: known.end(ENDED, 5),
}


@pytest.mark.parametrize("order", list(permutations(STEPS)))
def test_events_of_a_pair_lead_to_one_state_in_any_order(order: tuple[int, ...]) -> None:
    known = placeholder()
    for version in order:
        known = STEPS[version](known)

    assert (known.status, known.ended_at) == ("ended", ENDED)
    assert known.members == pair().members
    assert known.started_at == paired().started_at


@pytest.mark.parametrize("version", STEPS)
def test_an_event_that_comes_again_changes_nothing(version: int) -> None:
    known = placeholder()
    for step in STEPS.values():
        known = step(known)

    assert STEPS[version](known) is known


def test_a_pair_without_its_start_is_unknown_and_has_nobody() -> None:
    known = placeholder()

    assert known.members == ()
    with pytest.raises(RuleViolationError) as caught:
        known.must_be_active(program())
    assert caught.value.code == "pair_not_active"


def test_a_pair_of_a_closed_program_is_not_active() -> None:
    with pytest.raises(RuleViolationError) as caught:
        pair().must_be_active(program().close())
    assert caught.value.code == "program_closed"


def test_the_mentees_of_a_circle_are_one_side() -> None:
    circle = pair(MENTEE, OTHER_MENTEE)

    assert circle.same_side(MENTEE, OTHER_MENTEE)
    assert not circle.same_side(MENTOR, OTHER_MENTEE)


@pytest.mark.parametrize(
    "starts_at", [paired().started_at - timedelta(microseconds=1), paired().ends_at]
)
def test_a_session_starts_in_the_pairs_term(starts_at: datetime) -> None:
    with pytest.raises(InvalidInputError) as caught:
        pair().must_cover(starts_at)
    assert (caught.value.code, caught.value.field) == ("outside_term", "starts_at")


def test_an_older_configuration_that_comes_later_is_ignored() -> None:
    event = golden_event(ProgramPublished)
    newest = program().publish(event.model_copy(update={"cadence_days": 7}), 3)

    assert newest.publish(event, 2) is newest
    assert newest.cadence_days == 7


def test_a_program_closed_before_its_configuration_came_stays_closed() -> None:
    event = golden_event(ProgramPublished)
    closed = Program(id=event.program_id).close()

    assert closed.publish(event, 1).closed
    assert closed.close() is closed


@pytest.mark.parametrize(
    ("topics", "code"),
    [(("cooking",), "unknown_topic"), (("generative-ai", "generative-ai"), "repeated")],
)
def test_topics_of_a_session_are_the_programs_each_once(topics: tuple[str, ...], code: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        program().must_have(topics)
    assert caught.value.code == code


def test_no_topic_is_judged_before_the_configuration_came() -> None:
    with pytest.raises(RuleViolationError) as caught:
        Program(id="p").must_have(())
    assert caught.value.code == "program_unknown"
