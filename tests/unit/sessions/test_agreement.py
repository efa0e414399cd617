"""Ground rules hold when all members agreed to the same."""

import pytest

from services.sessions.domain.agreement import Agreement, GroundRules
from services.sessions.domain.pair import PairRecord
from shared.errors import RuleViolationError
from shared.events.sessions import Scope
from tests.unit.sessions.builders import (
    MENTEE,
    MENTOR,
    NOW,
    OTHER_MENTEE,
    agreed,
    pair,
    program,
)


def say(agreement: Agreement, of: PairRecord, by: str, scope: Scope = "general") -> Agreement:
    return agreement.agree(by, GroundRules(scope=scope), of, program(), NOW)


def test_ground_rules_are_agreed_only_when_every_member_of_a_circle_agreed() -> None:
    circle = pair(MENTEE, OTHER_MENTEE)
    agreement = say(say(Agreement.open(circle), circle, OTHER_MENTEE), circle, MENTOR)
    assert not agreement.agreed

    agreement = say(agreement, circle, MENTEE)

    assert agreement.agreed
    event = agreement.as_agreed()
    assert (event.by, event.scope, event.at) == ((MENTOR, MENTEE, OTHER_MENTEE), "general", NOW)


def test_another_scope_makes_the_others_agree_anew() -> None:
    one = pair()
    agreement = say(say(Agreement.open(one), one, MENTOR), one, MENTEE, "individuals")

    assert not agreement.agreed
    assert [said.participant_id for said in agreement.consents] == [MENTEE]
    assert say(agreement, one, MENTOR, "individuals").as_agreed().scope == "individuals"


def test_off_limit_topics_are_each_members_own() -> None:
    one = pair()
    mine = GroundRules(scope="general", off_limits=("my team's pay",))
    agreement = Agreement.open(one).agree(MENTOR, mine, one, program(), NOW)

    assert say(agreement, one, MENTEE).agreed


def test_repeating_the_agreed_rules_changes_nothing_even_after_the_pair_ended() -> None:
    one = pair()
    agreement = agreed(one)

    assert say(agreement, one.end(NOW, 3), MENTEE) is agreement


@pytest.mark.parametrize(
    "other",
    [GroundRules(scope="individuals"), GroundRules(scope="general", off_limits=("family",))],
)
def test_agreed_rules_can_not_be_changed(other: GroundRules) -> None:
    one = pair()
    with pytest.raises(RuleViolationError) as caught:
        agreed(one).agree(MENTOR, other, one, program(), NOW)
    assert caught.value.code == "ground_rules_agreed"


def test_a_paused_pair_does_not_agree() -> None:
    one = pair()
    with pytest.raises(RuleViolationError) as caught:
        say(Agreement.open(one), one.pause(3), MENTOR)
    assert caught.value.code == "pair_not_active"
