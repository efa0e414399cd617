from datetime import date, timedelta
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.matching.domain.pool import PoolMember, digest_of
from services.matching.domain.program import Program
from shared.errors import RuleViolationError
from shared.events.participants import (
    Departed,
    OrgChanged,
    OrgFacts,
    ParticipantEvent,
    ParticipantState,
    Paused,
    ProfileChanged,
    Resumed,
    TrainingCompleted,
    Withdrawn,
)
from tests.unit.matching.builders import NOW, enrolled, published

PROGRAM = Program(id="program", published=published())
WHO: dict[str, Any] = {"participant_id": "m", "person_id": "person-m", "program_id": "program"}


def member(**fields: Any) -> PoolMember:
    event = enrolled(**fields)
    return PoolMember.placeholder(event).apply(event, 1)


def moved(level: int) -> OrgChanged:
    return OrgChanged(
        **WHO,
        previous=OrgFacts(level=6, department="department of m", manager_chain=()),
        current=OrgFacts(level=level, department="IT", manager_chain=("x",)),
    )


def refused(code: str) -> Any:
    return pytest.raises(RuleViolationError, check=lambda error: error.code == code)


HISTORY: list[ParticipantState | ParticipantEvent] = [
    enrolled(ready=False, ready_at=None),
    TrainingCompleted(**WHO, module="start", ready=True, ready_at=NOW),
    Paused(**WHO, at=NOW),
    moved(5),
    ProfileChanged.model_validate(enrolled(level=4, languages=("fr",)).model_dump()),
    Resumed(**WHO, at=NOW),
    moved(3),
    Withdrawn(**WHO, at=NOW),
    enrolled(languages=("de",)),
    Departed(**WHO, left_on=date(2026, 4, 1)),
]


def applied(events: list[tuple[int, ParticipantState | ParticipantEvent]]) -> PoolMember:
    return reduce(
        lambda so_far, event: so_far.apply(event[1], event[0]),
        events,
        PoolMember.placeholder(HISTORY[0]),
    )


@given(st.data(), st.integers(1, len(HISTORY)))
def test_a_member_is_the_same_whatever_order_events_arrive_in_and_however_often(
    data: st.DataObject, length: int
) -> None:
    in_order = list(enumerate(HISTORY[:length], start=1))
    again = data.draw(st.lists(st.sampled_from(in_order), max_size=4))
    shuffled = data.draw(st.permutations(in_order + again))
    assert applied(shuffled) == applied(in_order)


def test_each_event_tells_its_part() -> None:
    by_length = [
        applied(list(enumerate(HISTORY[:length], start=1))) for length in range(1, len(HISTORY) + 1)
    ]
    assert [one.status for one in by_length] == [
        "enrolled", "enrolled", "paused", "paused", "paused", "enrolled", "enrolled", "withdrawn",
        "enrolled", "departed",
    ]  # fmt: skip
    assert [one.org.level for one in by_length] == [6, 6, 6, 5, 4, 4, 3, 3, 6, 6]
    assert [one.ready for one in by_length] == [False] + [True] * 9
    profile = by_length[-1].profile
    assert profile is not None
    assert profile.languages == ("de",)


def test_an_event_of_an_unknown_participant_makes_a_placeholder_that_enrollment_completes() -> None:
    paused = Paused(**WHO, at=NOW)
    early = PoolMember.placeholder(paused).apply(paused, 2)
    assert not early.available("mentor")
    assert early.waiting_code("mentor") is None
    with refused("profile_unknown"):
        early.facts(PROGRAM, "mentor")
    with refused("facts_unknown"):
        early.side()
    late = early.apply(enrolled(), 1)
    assert (late.status, late.side().level) == ("paused", 6)


def test_a_stale_event_changes_nothing() -> None:
    known = member().apply(moved(5), 4)
    assert known.apply(moved(2), 3) is known
    assert known.apply(moved(2), 4) is known


def test_a_round_takes_who_is_enrolled_ready_and_free_in_the_role() -> None:
    assert member().available("mentor")
    assert not member().available("mentee")
    assert not member(ready=False).available("mentor")
    for event in (Paused(**WHO, at=NOW), Withdrawn(**WHO, at=NOW)):
        assert not member().apply(event, 2).available("mentor")
    assert not member().take_seat("mentor", "pair").available("mentor")


def test_a_place_is_held_by_one_pair_at_a_time() -> None:
    held = member().take_seat("mentor", "one")
    assert held.take_seat("mentor", "one") is held
    with refused("not_available"):
        held.take_seat("mentor", "two")
    assert held.leave_seat("mentor", "two") is held
    assert held.leave_seat("mentor", "one").available("mentor")


def test_who_is_both_may_hold_a_place_in_each_role() -> None:
    both = member(role="both")
    assert both.candidate(PROGRAM, NOW).role == "both"
    teaching = both.take_seat("mentor", "one")
    assert teaching.candidate(PROGRAM, NOW).role == "mentee"
    learning = teaching.take_seat("mentee", "two")
    with refused("not_available"):
        learning.candidate(PROGRAM, NOW)


def test_waiting_begins_when_ready_or_when_the_last_pair_ended() -> None:
    later = NOW + timedelta(days=10)
    fresh = member()
    assert fresh.ready_since("mentor") == NOW
    declined = fresh.take_seat("mentor", "one").leave_seat("mentor", "one")
    assert declined.ready_since("mentor") == NOW
    rotated = fresh.take_seat("mentor", "one").leave_seat("mentor", "one", ended_at=later)
    assert rotated.ready_since("mentor") == later
    assert rotated.candidate(PROGRAM, later + timedelta(days=3.9)).waited_days == 3
    again = rotated.take_seat("mentor", "two").leave_seat("mentor", "two")
    assert again.ready_since("mentor") == later
    with refused("not_ready"):
        member(ready=False).ready_since("mentor")
    assert member(ready_at=None).ready_since("mentor") == NOW


def test_a_partner_is_remembered_for_ever_and_a_declined_proposal_is_not_made_again() -> None:
    tried = (
        member().not_again(["b"], declined_by_other=True).not_again(["c"], declined_by_other=False)
    )
    assert tried.declines == 1
    asked = tried.candidate(PROGRAM, NOW)
    assert (asked.vetoes, asked.declines) == (("b", "c"), 1)
    paired = tried.paired_with(["d", "d"])
    then = paired.candidate(PROGRAM, NOW)
    assert (then.former_partners, then.vetoes, then.declines) == (("d",), ("b", "c"), 0)


def test_why_a_round_found_nobody_is_forgotten_when_one_finds_somebody() -> None:
    found = member().missed("no_partner_left").take_seat("mentor", "one")
    assert found.leave_seat("mentor", "one").waiting_code("mentor") == "next_round"


def test_a_member_stands_otherwise_when_anything_changes_that_decides_who_suits_them() -> None:
    winter, summer = date(2026, 1, 15), date(2026, 7, 15)
    before = member(role="both", timezone="Europe/London")
    standing = before.standing(winter)
    others = [
        before.standing(summer),
        before.seated("mentor", "pair").standing(winter),
        before.apply(moved(5), 2).standing(winter),
        before.paired_with(["person-s"]).standing(winter),
        before.not_again(["person-s"], declined_by_other=False).standing(winter),
    ]
    assert len({standing, *others}) == len(others) + 1
    assert before.missed("no_partner").standing(winter) == standing
    assert len({digest_of(1, {"m": one}) for one in (standing, *others)}) == len(others) + 1
    digests = {
        digest_of(1, {"m": standing}),
        digest_of(2, {"m": standing}),
        digest_of(1, {"x": standing}),
        digest_of(1, {"m": standing, "x": standing}),
    }
    assert len(digests) == 4
    assert digest_of(1, {"m": standing, "x": others[0]}) == digest_of(
        1, {"x": others[0], "m": standing}
    )


def test_who_waits_is_told_why() -> None:
    assert member().waiting_code("mentor") == "next_round"
    assert member().waiting_code("mentee") is None
    assert member().missed("level_gap").waiting_code("mentor") == "level_gap"
    assert member(ready=False).waiting_code("mentor") == "not_ready"
    assert member().apply(Paused(**WHO, at=NOW), 2).waiting_code("mentor") == "paused"
    assert member().apply(Withdrawn(**WHO, at=NOW), 2).waiting_code("mentor") is None
    assert member().take_seat("mentor", "one").waiting_code("mentor") is None


def test_a_member_survives_being_stored_and_read_back() -> None:
    known = member().take_seat("mentor", "one").leave_seat("mentor", "one", ended_at=NOW)
    assert PoolMember.model_validate_json(known.model_dump_json()) == known
