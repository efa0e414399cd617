from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.matching.domain.pair import Pair, pause_reasons, propose, stands, violations
from services.matching.domain.pool import PoolMember
from services.matching.domain.program import Program
from services.matching.engine.solve import assess
from shared.errors import RuleViolationError
from shared.events.participants import OrgChanged, OrgFacts, Paused, Resumed
from tests.unit.matching.builders import NOW, enrolled, published

PROGRAM = Program(id="program", published=published(format="circle"))
LATER = NOW + timedelta(days=2)
TOO_LATE = NOW + timedelta(days=7)


def member(name: str, **fields: Any) -> PoolMember:
    event = enrolled(name, **fields)
    return PoolMember.placeholder(event).apply(event, 1)


MEMBERS = {
    "m": member("m", ready_at=NOW - timedelta(days=3)),
    "s": member("s", role="mentee", ready_at=NOW + timedelta(days=3)),
    "t": member("t", role="mentee"),
}


def proposal(*mentees: str, program: Program = PROGRAM) -> Pair:
    seniors = [MEMBERS[name] for name in mentees or ("s",)]
    found = assess(
        MEMBERS["m"].facts(program, "mentor"),
        [senior.facts(program, "mentee") for senior in seniors],
        program.policy(NOW),
    )
    return propose(
        "pair", found, MEMBERS["m"], seniors, program, round_id="round", origin="round", now=NOW
    )


def started() -> Pair:
    return proposal().accept("m", LATER).accept("s", LATER)


def refused(code: str) -> Any:
    return pytest.raises(RuleViolationError, check=lambda error: error.code == code)


def test_a_proposal_tells_its_members_everything() -> None:
    event = proposal("s", "t").as_proposed()
    assert event.pair_id == "pair"
    assert event.mentor.person_id == "person-m"
    assert [side.participant_id for side in event.mentees] == ["s", "t"]
    assert event.score == sum(term.points for term in event.rationale) > 0
    assert event.topics == ("ai",)
    assert "Working with AI" in event.rationale[0].text
    assert "reporting_line" in event.rules
    assert event.expires_at == NOW + timedelta(days=7)


def test_a_pair_exists_once_all_have_accepted() -> None:
    pair = proposal("s", "t")
    for name in ("t", "m"):
        pair = pair.accept(name, LATER)
        assert pair.status == "proposed"
        with refused("pair_proposed"):
            pair.as_paired()
    pair = pair.accept("s", LATER)
    event = pair.as_paired()
    assert (pair.status, event.started_at) == ("active", LATER)
    assert event.ends_at == PROGRAM.term_ends_at(NOW)
    # Who became ready only after the pair began has not waited, and nobody waits less than that.
    assert event.waited_days == {"m": 5.0, "s": 0.0, "t": 2.0}


def test_accepting_again_changes_nothing() -> None:
    once = proposal().accept("m", NOW)
    assert once.accept("m", TOO_LATE) is once
    pair = started()
    assert pair.accept("s", TOO_LATE) is pair


def test_one_no_ends_a_proposal_and_tells_nobody_whose() -> None:
    by_mentor = proposal().decline("m", LATER)
    assert by_mentor.status == "declined"
    assert by_mentor == proposal().decline("s", LATER) == proposal().call_off(LATER)
    assert by_mentor.decline("s", LATER) is by_mentor
    assert by_mentor.call_off(LATER) is by_mentor
    with refused("pair_declined"):
        by_mentor.accept("m", LATER)


def test_a_member_may_change_a_yes_into_a_no_while_others_think() -> None:
    assert proposal().accept("m", NOW).decline("m", LATER).status == "declined"


@pytest.mark.parametrize("answer", [Pair.accept, Pair.decline])
def test_an_answer_after_the_time_to_answer_is_refused(
    answer: Callable[[Pair, str, Any], Pair],
) -> None:
    with refused("proposal_expired"):
        answer(proposal(), "s", TOO_LATE)
    with refused("pair_expired"):
        answer(proposal().expire(TOO_LATE), "s", TOO_LATE)


def test_silence_expires_when_the_time_is_over_and_no_earlier() -> None:
    with refused("not_expired"):
        proposal().expire(TOO_LATE - timedelta(microseconds=1))
    gone = proposal().expire(TOO_LATE)
    assert gone.status == "expired"
    assert gone.expire(TOO_LATE) is gone


def test_nobody_answers_for_a_pair_that_they_are_not_in() -> None:
    for answer in (proposal().accept, proposal().decline):
        with refused("not_a_member"):
            answer("x", NOW)


def test_members_know_their_role_and_their_partners() -> None:
    circle = proposal("s", "t")
    assert (circle.role_of("m"), circle.role_of("t")) == ("mentor", "mentee")
    assert circle.partners_of("m") == ("person-s", "person-t")
    assert circle.partners_of("t") == ("person-m",)


def test_a_paused_pair_goes_on_or_ends() -> None:
    paused = started().pause("participant_paused")
    assert paused.pause("participant_paused") is paused
    assert paused.pause("level_gap").pause_reason == "level_gap"
    resumed = paused.resume()
    assert (resumed.status, resumed.pause_reason) == ("active", None)
    assert resumed.resume() is resumed
    assert paused.end("withdrawn", LATER).status == "ended"
    assert paused.rotate("term", "next", LATER).next_round_id == "next"


def moved(name: str, **facts: Any) -> dict[str, PoolMember]:
    before = MEMBERS[name].org
    event = OrgChanged(
        participant_id=name,
        person_id=f"person-{name}",
        program_id="program",
        previous=before,
        current=OrgFacts.model_validate(before.model_dump() | facts),
    )
    return MEMBERS | {name: MEMBERS[name].apply(event, 2)}


@pytest.mark.parametrize(
    ("name", "facts", "reasons"),
    [
        ("m", {"level": 3}, ("level_gap",)),
        ("s", {"level": 5}, ("level_gap",)),
        ("m", {"level": None}, ("level_gap",)),
        ("m", {"manager_chain": ("person-s",)}, ("reporting_line",)),
        ("m", {"manager_chain": ("a", "b", "c", "person-s", "d")}, ("reporting_line",)),
        ("s", {"manager_chain": ("a", "person-m")}, ("reporting_line",)),
        ("m", {"department": "department of s"}, ("same_department",)),
        ("m", {"department": None}, ("same_department",)),
        ("m", {"manager_chain": ("boss-of-s",)}, ("same_boss",)),
        ("m", {"level": 7, "department": "elsewhere"}, ()),
        (
            "m",
            {"level": 1, "department": "department of s"},
            ("level_gap", "same_department"),
        ),
    ],
)
def test_a_pair_is_paused_when_a_move_breaks_a_rule(
    name: str, facts: dict[str, Any], reasons: tuple[str, ...]
) -> None:
    assert violations(started(), MEMBERS, PROGRAM) == ()
    assert violations(started(), moved(name, **facts), PROGRAM) == reasons
    assert pause_reasons(started(), moved(name, **facts), PROGRAM) == reasons


def test_a_pair_whose_members_have_been_partners_since_breaks_no_rule() -> None:
    partners = MEMBERS | {"m": MEMBERS["m"].paired_with(["person-s"])}
    assert violations(started(), partners, PROGRAM) == ()


def test_a_pair_rests_while_a_member_does_and_while_a_rule_is_broken() -> None:
    who: dict[str, Any] = {"participant_id": "s", "person_id": "person-s", "program_id": "program"}
    members = moved("m", level=3)
    members["s"] = members["s"].apply(Paused(**who, at=NOW), 2)
    assert pause_reasons(started(), members, PROGRAM) == ("level_gap", "participant_paused")
    members["m"] = MEMBERS["m"]
    assert pause_reasons(started(), members, PROGRAM) == ("participant_paused",)
    members["s"] = members["s"].apply(Resumed(**who, at=NOW), 3)
    assert pause_reasons(started(), members, PROGRAM) == ()


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({}, True),
        ({"languages": ("fr",)}, True),
        ({"ready": False, "ready_at": None}, False),
        ({"role": "mentor"}, False),
        ({"department": "department of m"}, False),
    ],
)
def test_a_proposal_stands_while_its_members_are_trained_in_their_role_and_break_no_rule(
    change: dict[str, Any], allowed: bool
) -> None:
    members = MEMBERS | {"s": member("s", **({"role": "mentee", "level": 2} | change))}
    pair = proposal()
    stand_by = {name: members[name] for name in pair.participant_ids}
    assert stands(pair, stand_by, PROGRAM) == allowed
    assert not stands(pair, stand_by, PROGRAM.changed(closed=True))


def test_a_pair_survives_being_stored_and_read_back() -> None:
    pair = started().rotate("mismatch", "next", LATER)
    assert Pair.model_validate_json(pair.model_dump_json()) == pair


CALLS: dict[str, Callable[[Pair], Pair]] = {
    "accept": lambda pair: pair.accept("m", LATER),
    "decline": lambda pair: pair.decline("m", LATER),
    "call_off": lambda pair: pair.call_off(LATER),
    "expire": lambda pair: pair.expire(TOO_LATE),
    "pause": lambda pair: pair.pause("level_gap"),
    "resume": Pair.resume,
    "rotate": lambda pair: pair.rotate("term", "next", LATER),
    "end": lambda pair: pair.end("completed", LATER),
}
ALLOWED: dict[str, dict[str, str]] = {
    "proposed": {"accept": "proposed", "decline": "declined", "call_off": "declined",
                 "expire": "expired"},
    "active": {"accept": "active", "pause": "paused", "resume": "active", "rotate": "rotated",
               "end": "ended"},
    "paused": {"accept": "paused", "pause": "paused", "resume": "active", "rotate": "rotated",
               "end": "ended"},
    "declined": {"decline": "declined", "call_off": "declined"},
    "expired": {"expire": "expired"},
    "rotated": {"rotate": "rotated"},
    "ended": {"end": "ended"},
}  # fmt: skip
IN_STATE: dict[str, Callable[[], Pair]] = {
    "proposed": proposal,
    "active": started,
    "paused": lambda: started().pause("level_gap"),
    "declined": lambda: proposal().decline("s", LATER),
    "expired": lambda: proposal().expire(TOO_LATE),
    "rotated": lambda: started().rotate("term", "next", LATER),
    "ended": lambda: started().end("completed", LATER),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("state", ALLOWED)
def test_each_state_allows_its_transitions_and_names_itself_to_refuse_the_others(
    state: str, call: str
) -> None:
    pair = IN_STATE[state]()
    assert pair.status == state
    if call in ALLOWED[state]:
        assert CALLS[call](pair).status == ALLOWED[state][call]
    else:
        with refused(f"pair_{state}"):
            CALLS[call](pair)


class Life(RuleBasedStateMachine):
    """Anything happens to a circle in any order; refusals leave it as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = proposal("s", "t")
        self.now = NOW
        self.history = ["proposed"]
        self.yes: set[str] = set()

    def attempt(self, transition: Callable[[Pair], Pair]) -> None:
        before = self.pair
        try:
            self.pair = transition(before)
        except RuleViolationError as refusal:
            assert refusal.code in {  # noqa: PT017
                f"pair_{before.status}", "proposal_expired", "not_expired"
            }  # fmt: skip
            return
        # Repeating what has just happened is a no-op.
        assert transition(self.pair) is self.pair
        if self.pair.status != before.status:
            self.history.append(self.pair.status)

    @rule(hours=st.integers(1, 60))
    def time_passes(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(by=st.sampled_from(["m", "s", "t"]))
    def accept(self, by: str) -> None:
        self.attempt(lambda pair: pair.accept(by, self.now))
        if by in self.pair.accepted:
            self.yes.add(by)

    @precondition(lambda self: self.yes)
    @rule(by=st.sampled_from(["m", "s", "t"]))
    def decline(self, by: str) -> None:
        self.attempt(lambda pair: pair.decline(by, self.now))

    @rule()
    def expire(self) -> None:
        self.attempt(lambda pair: pair.expire(self.now))

    @rule(reason=st.sampled_from(["level_gap", "participant_paused"]))
    def pause(self, reason: Any) -> None:
        self.attempt(lambda pair: pair.pause(reason))

    @rule()
    def resume(self) -> None:
        self.attempt(Pair.resume)

    @rule()
    def rotate(self) -> None:
        self.attempt(lambda pair: pair.rotate("request", "next", self.now))

    @rule()
    def end(self) -> None:
        self.attempt(lambda pair: pair.end("departed", self.now))

    @invariant()
    def there_is_one_end_at_most(self) -> None:
        ends = {"declined", "expired", "rotated", "ended"}
        assert sum(state in ends for state in self.history) == (self.pair.status in ends)
        assert all(state not in ends for state in self.history[:-1])

    @invariant()
    def it_starts_only_by_everybodys_yes_in_time(self) -> None:
        existed = "active" in self.history
        assert existed == (self.yes == {"m", "s", "t"})
        assert existed == (self.pair.started_at is not None)
        if self.pair.started_at is not None:
            assert self.pair.started_at < self.pair.expires_at
            assert self.pair.as_paired().waited_days.keys() == self.yes
        assert not existed or self.history[1] == "active"

    @invariant()
    def it_says_when_it_was_over_and_why_it_rests(self) -> None:
        over = self.pair.status in ("declined", "expired", "rotated", "ended")
        assert (self.pair.closed_at is not None) == over
        if self.pair.status == "paused":
            assert self.pair.pause_reason is not None


TestLife = Life.TestCase
