"""A session is planned, confirmed by the other side, and held, missed or cancelled once."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pydantic import ValidationError

from services.sessions.domain.agreement import Agreement, GroundRules
from services.sessions.domain.pair import PairRecord
from services.sessions.domain.session import Agenda, NewTime, Notes, Record, Session
from shared.errors import InvalidInputError, RuleViolationError, UpwardError
from shared.events.sessions import Scope
from tests.unit.sessions.builders import (
    AGENDA,
    MENTEE,
    MENTOR,
    NOW,
    OTHER_MENTEE,
    START,
    agreed,
    pair,
    plan,
    planned,
    program,
    scheduled,
)

BOTH = (MENTOR, MENTEE)


def record(**fields: object) -> Record:
    return Record.model_validate({"minutes": 50, "attended": BOTH} | fields)


def hold(session: Session, by: str = MENTOR, at: datetime = START, **fields: object) -> Session:
    return session.hold(by, record(**fields), pair(), program(), at)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(UpwardError) as caught:
        act()
    return caught.value.code


def test_the_first_session_is_not_confirmed_before_all_agreed_the_ground_rules() -> None:
    one = pair()
    rules = GroundRules(scope="general")
    half = Agreement.open(one).agree(MENTOR, rules, one, program(), NOW)

    code = refusal(lambda: planned(one).confirm(MENTOR, one, program(), half))

    assert code == "ground_rules_not_agreed"


def test_a_session_is_not_confirmed_without_a_mentees_agenda() -> None:
    one = pair()
    session = planned(one, agenda=None)

    assert refusal(lambda: session.confirm(MENTOR, one, program(), agreed(one))) == "agenda_missing"
    with_agenda = session.set_agenda(MENTEE, AGENDA)
    event = with_agenda.confirm(MENTOR, one, program(), agreed(one)).as_scheduled()
    assert (event.agenda_set, event.agenda_by) == (True, MENTEE)


@pytest.mark.parametrize("by", [MENTEE, OTHER_MENTEE])
def test_the_side_that_proposed_a_session_does_not_confirm_it(by: str) -> None:
    circle = pair(MENTEE, OTHER_MENTEE)
    session = planned(circle)

    code = refusal(lambda: session.confirm(by, circle, program(), agreed(circle)))

    assert code == "other_side_confirms"


@pytest.mark.parametrize("inactive", [pair().pause(3), pair().end(NOW, 3)])
def test_nothing_is_planned_confirmed_moved_or_held_in_a_pair_that_is_not_active(
    inactive: PairRecord,
) -> None:
    active = pair()
    late = NewTime(starts_at=START + timedelta(days=1))
    acts: list[Callable[[], object]] = [
        lambda: planned(inactive),
        lambda: planned(active).confirm(MENTOR, inactive, program(), agreed(active)),
        lambda: scheduled(active).move(late, inactive, program()),
        lambda: scheduled(active).hold(MENTOR, record(), inactive, program(), START),
    ]

    assert [refusal(act) for act in acts] == ["pair_not_active"] * 4


def test_numbers_count_what_was_scheduled_and_ids_what_was_planned() -> None:
    one = pair().count_planned().count_planned().count_scheduled()
    session = scheduled(one)

    assert (session.place, session.number) == (3, 2)
    assert planned(one).number is None
    assert session.id == planned(one).id != planned(pair()).id


def test_a_moved_session_stays_scheduled_and_keeps_its_number() -> None:
    session = scheduled(pair())
    later = NewTime(starts_at=START + timedelta(days=2))

    moved = session.move(later, pair(), program())

    assert (moved.status, moved.number, moved.minutes) == ("scheduled", 1, 60)
    assert moved.as_moved().starts_at == later.starts_at
    assert moved.move(later, pair(), program()) is moved


def test_a_planned_session_is_not_moved() -> None:
    time = NewTime(starts_at=START)
    assert refusal(lambda: planned(pair()).move(time, pair(), program())) == "session_planned"


def test_a_session_is_neither_held_missed_nor_noted_before_it_starts() -> None:
    session, early = scheduled(pair()), START - timedelta(microseconds=1)

    assert refusal(lambda: hold(session, at=early)) == "too_early"
    assert refusal(lambda: session.miss(early)) == "too_early"
    assert refusal(lambda: session.note(MENTEE, Notes(learned=True), early)) == "too_early"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"attended": (MENTEE, MENTEE)}, "repeated"),
        ({"attended": (MENTOR, "pt_stranger")}, "not_a_member"),
        ({"attended": (MENTEE, OTHER_MENTEE)}, "one_sided"),
        ({"tags": ("tech_support", "tech_support")}, "repeated"),
    ],
)
def test_members_of_both_sides_attend_a_held_session(fields: dict[str, object], code: str) -> None:
    circle = pair(MENTEE, OTHER_MENTEE)

    def act() -> Session:
        return scheduled(circle).hold(MENTOR, record(**fields), circle, program(), START)

    assert refusal(act) == code


def test_the_event_of_a_held_session_counts_what_is_known_of_both_sides() -> None:
    notes = Notes(learned=True, takeaways=("Ask for sources", "Try twice"))
    noted = scheduled(pair()).note(MENTEE, notes, START)

    event = hold(noted, learned=False, tags=("tech_support",)).as_held()

    assert event.learned == {MENTEE: True, MENTOR: False}
    assert (event.takeaways, event.minutes, event.held_at) == (2, 50, START)
    assert event.tags == ("tech_support",)


def test_holding_again_keeps_the_record_and_adds_the_callers_notes() -> None:
    held = hold(scheduled(pair()), learned=True)

    later = START + timedelta(hours=1)
    noted = hold(held, by=MENTEE, at=later, minutes=5, takeaways=("Ask for sources",))

    assert (noted.held_at, noted.held_minutes) == (START, 50)
    assert noted.takeaways == {MENTEE: ("Ask for sources",)}
    assert hold(noted, by=MENTEE, at=later, takeaways=("Ask for sources",)) is noted


def test_notes_replace_the_same_members_former_ones_and_no_others() -> None:
    first = hold(scheduled(pair()), learned=True)
    noted = first.note(MENTEE, Notes(takeaways=("One", "Two")), START)

    assert noted.note(MENTEE, Notes(takeaways=("Three",)), START).takeaway_count == 1
    assert noted.note(MENTEE, Notes(takeaways=()), START).takeaway_count == 0
    assert noted.note(MENTOR, Notes(learned=False), START).learned == {MENTOR: False}


def test_who_did_not_attend_writes_no_notes() -> None:
    circle = pair(MENTEE, OTHER_MENTEE)
    session = scheduled(circle)
    held = session.hold(MENTOR, record(), circle, program(), START)
    absent = Notes(learned=True)

    assert refusal(lambda: held.note(OTHER_MENTEE, absent, START)) == "did_not_attend"
    noted = session.note(OTHER_MENTEE, absent, START)
    assert (
        refusal(lambda: noted.hold(MENTOR, record(), circle, program(), START))
        == "missing_attendee"
    )


def test_an_agenda_changes_until_the_session_and_not_after() -> None:
    session = scheduled(pair())
    other = Agenda(goal="Another goal", items=("One",))

    assert session.set_agenda(MENTEE, other).agenda == other
    held = hold(session)
    assert held.set_agenda(MENTEE, AGENDA) is held
    assert refusal(lambda: held.set_agenda(MENTEE, other)) == "session_held"


@pytest.mark.parametrize(
    "starts_at", [1_900_000_000, "1900000000", "2026-03-02", "2026-03-02T09:30:00", True, None]
)
def test_a_start_is_a_date_and_time_with_offset(starts_at: object) -> None:
    with pytest.raises(ValidationError):
        plan(starts_at=starts_at)


def test_a_start_in_any_offset_is_kept_as_the_same_moment() -> None:
    assert plan(starts_at="2026-01-13T14:30:00+05:30").starts_at == START


class LifeOfASession(RuleBasedStateMachine):
    """Any sequence of acts by anybody in a circle that pauses, goes on and ends."""

    members = st.sampled_from([MENTOR, MENTEE, OTHER_MENTEE])
    steps = st.integers(0, 4).map(lambda days: timedelta(days=days))

    @initialize(by=members, agenda=st.none() | st.just(AGENDA))
    def propose(self, by: str, agenda: Agenda | None) -> None:
        self.now = NOW
        self.pair = pair(MENTEE, OTHER_MENTEE)
        self.agreement = Agreement.open(self.pair)
        self.session = Session.plan(
            by, plan(agenda=None if by == MENTOR else agenda), self.pair, program()
        )
        self.states = [self.session.status]

    @initialize()
    def schedule(self) -> None:
        self.now = START
        self.pair = pair(MENTEE, OTHER_MENTEE)
        self.agreement = agreed(self.pair)
        self.session = scheduled(self.pair)
        self.pair = self.pair.count_scheduled()
        self.states = ["planned", self.session.status]

    def act(self, transition: Callable[[Session], Session]) -> None:
        before = self.session
        try:
            self.session = transition(before)
        except (RuleViolationError, InvalidInputError):
            return
        if self.session.status != before.status:
            self.states.append(self.session.status)
        after = self.session
        assert transition(after) is after

    @rule(step=steps)
    def time_passes(self, step: timedelta) -> None:
        self.now += step

    @rule(what=st.sampled_from(["pause", "resume", "resume", "end"]))
    def pair_changes(self, what: str) -> None:
        version = self.pair.source_version + 1
        if self.pair.status == "ended":
            return
        if what == "end":
            self.pair = self.pair.end(self.now, version)
            self.act(lambda session: session.cancel() if session.is_open else session)
        else:
            self.pair = self.pair.pause(version) if what == "pause" else self.pair.resume(version)

    @rule(by=members, scope=st.sampled_from(["general", "general", "individuals"]))
    def agree(self, by: str, scope: Scope) -> None:
        rules = GroundRules(scope=scope)
        try:
            self.agreement = self.agreement.agree(by, rules, self.pair, program(), self.now)
        except RuleViolationError:
            return

    @rule(by=st.sampled_from([MENTEE, OTHER_MENTEE]))
    def set_agenda(self, by: str) -> None:
        self.act(lambda session: session.set_agenda(by, AGENDA))

    @rule(by=members)
    def confirm(self, by: str) -> None:
        pair, agreement = self.pair, self.agreement
        self.act(lambda session: session.confirm(by, pair, program(), agreement))
        if self.states[-1] == "scheduled" and self.pair.scheduled == 0:
            assert agreement.agreed
            assert self.session.agenda_by in (MENTEE, OTHER_MENTEE)
            assert (pair.status, self.session.number) == ("active", 1)
            assert pair.same_side(by, self.session.proposed_by) is False
            self.pair = pair.count_scheduled()

    @rule(step=steps)
    def move(self, step: timedelta) -> None:
        time = NewTime(starts_at=self.now + step)
        self.act(lambda session: session.move(time, self.pair, program()))

    @rule(by=members, learned=st.none() | st.booleans())
    def hold(self, by: str, learned: bool | None) -> None:
        done, now = record(learned=learned), self.now
        before = self.session.status
        self.act(lambda session: session.hold(by, done, self.pair, program(), now))
        if (before, self.session.status) == ("scheduled", "held"):
            assert self.pair.status == "active"
            assert self.session.as_held().held_at == now

    @rule(by=members, learned=st.booleans())
    def note(self, by: str, learned: bool) -> None:
        now = self.now
        self.act(lambda session: session.note(by, Notes(learned=learned), now))

    @rule()
    def miss(self) -> None:
        self.act(lambda session: session.miss(self.now))

    @rule()
    def cancel(self) -> None:
        self.act(Session.cancel)

    @invariant()
    def the_states_follow_the_life_of_a_session(self) -> None:
        steps = list(zip(self.states, self.states[1:], strict=False))
        legal = {("planned", "scheduled"), ("planned", "cancelled")} | {
            ("scheduled", end) for end in ("held", "missed", "cancelled")
        }
        assert set(steps) <= legal
        assert len(steps) == len(set(steps))

    @invariant()
    def a_session_is_not_held_before_it_starts(self) -> None:
        held_at = self.session.held_at
        assert (held_at is None) == (self.session.status != "held")
        assert held_at is None or held_at >= self.session.starts_at

    @invariant()
    def only_who_attended_wrote_notes(self) -> None:
        if self.session.status == "held":
            assert set(self.session.learned) <= set(self.session.attended)

    @invariant()
    def an_ended_pair_has_no_open_session(self) -> None:
        assert self.pair.status != "ended" or not self.session.is_open


TestLifeOfASession = LifeOfASession.TestCase
TestLifeOfASession.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
