from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from services.matching.engine.model import (
    DEFAULT_WEIGHTS,
    MAX_SCORE,
    Candidate,
    Policy,
    Snapshot,
)
from services.matching.engine.score import topics_covered
from services.matching.engine.solve import assess
from shared.events.participants import Preferences, WorkingHours
from tests.unit.matching.builders import mentee, mentor, policy, topics


def points(
    term: str, junior: dict[str, Any] | None = None, senior: dict[str, Any] | None = None
) -> int:
    alone = policy(weights={term: 100})
    found = assess(mentor(**(junior or {})), [mentee(**(senior or {}))], alone)
    assert found.score == sum(found.terms.values())
    return {str(name): value for name, value in found.terms.items()}[term]


@pytest.mark.parametrize(("taught", "share"), [(1, 0), (2, 0), (3, 40), (4, 70), (5, 90)])
def test_a_wanted_topic_counts_by_how_far_the_mentor_is_ahead(taught: int, share: int) -> None:
    assert points("coverage", {"teaches": topics(ai=taught)}) == share


def test_coverage_is_the_share_of_all_that_the_mentee_wants() -> None:
    wants = {"wants": topics(ai=1, law=1, culture=5)}
    assert points("coverage", {"teaches": topics(ai=5, culture=5)}, wants) == 33
    assert points("coverage", {"teaches": topics(other=5)}, wants) == 0
    assert points("coverage", senior={"wants": ()}) == 0


def test_what_can_be_learned_is_named_the_most_first() -> None:
    junior = mentor(teaches=topics(ai=4, law=5, culture=2))
    senior = mentee(wants=topics(ai=3, law=1, culture=2, other=1))
    assert topics_covered(junior, senior) == ("law", "ai")


@pytest.mark.parametrize(
    ("senior", "share"),
    [
        ({"level": 6, "department": "department of m"}, 0),
        ({"level": 6}, 40),
        ({"level": 5}, 46),
        ({"level": 0}, 70),
        ({"level": 6, "country": "FR"}, 55),
        ({"level": 6, "country": "US", "region": "amer"}, 70),
        ({"level": 6, "country": None, "region": None}, 40),
        ({"level": 0, "region": "amer"}, 100),
        ({"level": None, "department": None}, 0),
    ],
)
def test_difference_is_department_place_and_level_and_unknown_is_no_difference(
    senior: dict[str, Any], share: int
) -> None:
    assert points("difference", senior=senior) == share


@pytest.mark.parametrize(("end", "share"), [("09:00", 0), ("11:00", 50), ("13:00", 100)])
def test_four_common_hours_are_plenty(end: str, share: int) -> None:
    early = WorkingHours(start="08:00", end=end)
    assert points("overlap", {"working_hours": early}) == share


@pytest.mark.parametrize(
    ("mentors", "mentees", "share"),
    [
        (("en",), ("en-US", "de"), 100),
        (("en", "fr"), ("fr", "en"), 100),
        (("en",), ("fr", "en"), 75),
        (("de", "en"), ("fr", "en"), 50),
        (("de",), ("fr",), 0),
        ((), ("fr",), 0),
    ],
)
def test_language_is_comfortable_where_each_can_use_their_first(
    mentors: tuple[str, ...], mentees: tuple[str, ...], share: int
) -> None:
    assert points("language", {"languages": mentors}, {"languages": mentees}) == share


def test_wishes_for_format_and_region_count_a_quarter_each() -> None:
    circle = {"preferences": Preferences(format="circle")}
    abroad = {"preferences": Preferences(regions=("apac", "amer"))}
    assert points("preference") == 100
    assert points("preference", circle) == 75
    assert points("preference", circle | {"capacity": 3}, circle) == 100
    assert points("preference", senior=circle) == 75
    assert points("preference", abroad) == 75
    assert points("preference", abroad, {"region": "apac"}) == 100
    assert points("preference", abroad, abroad | {"region": None}) == 50
    assert points("preference", senior={"preferences": Preferences(format="mixed")}) == 100


def test_waiting_and_others_refusals_bring_forward_up_to_a_limit() -> None:
    assert points("waiting") == 0
    assert points("waiting", {"waited_days": 45}) == 15
    assert points("waiting", {"waited_days": 9000}) == 30
    assert points("waiting", {"declines": 1}) == 10
    assert points("waiting", {"waited_days": 90, "declines": 7}, {"waited_days": 90}) == 80


def test_the_default_weights_make_a_thousand() -> None:
    assert sum(DEFAULT_WEIGHTS.values()) == MAX_SCORE
    assert policy().weight("coverage") == DEFAULT_WEIGHTS["coverage"]
    assert policy(weights={"difference": 10}).weight("coverage") == 0


@pytest.mark.parametrize("weights", [{"coverage": -1}, {"coverage": 900, "difference": 101}])
def test_weights_that_cannot_be_are_refused(weights: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        policy(weights=weights)


def test_a_snapshot_is_the_content_of_pool_and_policy() -> None:
    def snapshot(pool: Sequence[Candidate], rules: Policy) -> str:
        found = Snapshot()
        lines = [found.add(candidate) for candidate in pool]
        assert [Candidate.model_validate_json(line) for line in lines] == list(pool)
        return found.id(rules)

    pool = [mentee(), mentor(vetoes=("b", "a"))]
    same = [mentee(), mentor(vetoes=("a", "b", "a"))]
    assert snapshot(pool, policy()) == snapshot(same, policy(weights=DEFAULT_WEIGHTS))
    assert snapshot(pool, policy()) != snapshot(pool[:1], policy())
    assert snapshot(pool, policy()) != snapshot(pool, policy(min_level_gap=3))
