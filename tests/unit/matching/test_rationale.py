from typing import get_args

from services.matching.engine.model import Candidate, Nearest, RuleCode
from services.matching.engine.rationale import pair_topics, rationale
from services.matching.engine.reasons import UNTOLD, in_words
from services.matching.engine.solve import assess
from shared.events.participants import Preferences, WorkingHours
from tests.unit.matching.builders import mentee, mentor, policy, topics


def texts(junior: Candidate, *seniors: Candidate) -> dict[str, str]:
    found = assess(junior, seniors, policy())
    terms = rationale(found, junior, seniors, policy(), {"ai": "Working with AI"})
    assert sum(term.points for term in terms) == found.score
    return {term.term: term.text for term in terms}


def test_a_rationale_says_every_term_in_words_and_its_points_are_the_score() -> None:
    told = texts(mentor(teaches=topics(ai=5, law=4)), mentee(wants=topics(ai=1, law=2)))
    assert told["coverage"] == "Taught and wanted: Working with AI, law."
    assert told["difference"] == "You work in different departments and 4 levels apart."
    assert told["overlap"] == "Your working hours share 8 h of a day."
    assert told["language"] == "You have in common: en."
    assert set(told) == {
        "coverage", "difference", "overlap", "language", "preference", "waiting"
    }  # fmt: skip


def test_a_rationale_is_silent_about_what_does_not_hold() -> None:
    told = texts(
        mentor(level=2, department="Legal", timezone="Asia/Tokyo", languages=("fr",)),
        mentee(department="Legal", wants=()),
    )
    assert told["coverage"] == "No topic is both taught and wanted; you will find your own."
    assert told["difference"] == "You work close to each other."
    assert told["overlap"] == "Your working hours do not meet."
    assert told["language"] == "You have no language in common."


def test_a_circle_is_told_what_holds_for_all_of_it() -> None:
    junior = mentor(languages=("en", "fr"), teaches=topics(ai=5, law=5))
    seniors = (
        mentee("a", region="apac", wants=topics(ai=1), languages=("en",), level=5),
        mentee("b", region="amer", wants=topics(law=1, ai=2), languages=("fr",),
               working_hours=WorkingHours(start="15:15")),
    )  # fmt: skip
    told = texts(junior, *seniors)
    assert pair_topics(junior, seniors) == ("ai", "law")
    assert told["difference"] == (
        "You work in different departments, in different regions and 1 level apart."
    )
    assert told["overlap"] == "Your working hours share 1 h 45 min of a day."
    assert told["language"] == "Each of you shares a language with the mentor."


def test_another_country_is_told_where_the_region_is_the_same() -> None:
    told = texts(mentor(), mentee(country="FR"))
    assert "in different countries" in told["difference"]


def test_what_one_of_them_wishes_refuses_or_went_through_changes_no_word() -> None:
    plain = texts(mentor(), mentee())
    wishful = texts(
        mentor(vetoes=("x",), declines=2, former_partners=("y",), waited_days=80),
        mentee(preferences=Preferences(format="circle", regions=("apac",))),
    )
    assert plain == wishful


def test_a_rationale_names_nobody() -> None:
    told = " ".join(texts(mentor("zoe"), mentee("max")).values())
    assert "zoe" not in told
    assert "max" not in told


def test_a_term_that_the_policy_does_not_weigh_is_not_told() -> None:
    only = policy(weights={"difference": 500})
    junior, seniors = mentor(), [mentee()]
    terms = rationale(assess(junior, seniors, only), junior, seniors, only, {})
    assert [term.term for term in terms] == ["difference"]


def test_what_is_between_somebody_and_their_nearest_partner_is_said_in_words() -> None:
    rules: tuple[RuleCode, ...] = ("level_gap", "same_department", "working_hours")
    assert in_words(Nearest(rules, levels=1, minutes=30)) == (
        "With the nearest partner, 1 more level between you would be needed and you are in the"
        " same department and 30 more minutes a day of shared working time are needed."
    )
    for rule in get_args(RuleCode):
        if rule not in UNTOLD:
            assert in_words(Nearest((rule,), levels=2, minutes=1)).endswith(".")
