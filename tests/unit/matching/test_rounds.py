import pytest

from services.matching.engine.model import FoundPair, Result
from services.matching.rounds import without
from shared.events.pairs import RoleCounts


def pair(mentor: str, *mentees: str, score: int, difference: int) -> FoundPair:
    return FoundPair(
        mentor_id=mentor,
        mentee_ids=mentees,
        score=score,
        terms={"coverage": score - difference, "difference": difference},
        rules=("veto",),
    )


RESULT = Result(
    pairs=(
        pair("a", "b", score=500, difference=100),
        pair("b", "c", score=300, difference=200),
        pair("d", "e", "f", score=800, difference=400),
    ),
    unmatched={"g": "level_gap"},
    pool=RoleCounts(mentors=4, mentees=5),
    matched=RoleCounts(mentors=3, mentees=4),
    objective=1600,
    bound=1600,
    gap=0.0,
    mean_dissimilarity=175.0,
    mean_dissimilarity_random=90.0,
)


@pytest.mark.parametrize("moved", [set(), {"g"}, {"somebody else"}])
def test_a_result_stays_as_it_is_when_no_pair_changed(moved: set[str]) -> None:
    assert without(RESULT, moved) is RESULT


def test_a_result_without_a_pair_says_what_is_left() -> None:
    left = without(RESULT, {"c"})
    assert [found.mentor_id for found in left.pairs] == ["a", "d"]
    assert left.matched == RoleCounts(mentors=2, mentees=3)
    assert (left.objective, left.bound, left.gap) == (1300, 1600, 1 - 1300 / 1600)
    assert left.mean_dissimilarity == 500 / 3
    assert (left.pool, left.mean_dissimilarity_random) == (RESULT.pool, 90.0)


def test_who_is_still_matched_in_another_role_is_not_counted_as_unmatched() -> None:
    assert without(RESULT, {"c"}).unmatched == {"c": "no_partner_left", "g": "level_gap"}


def test_a_circle_is_dropped_as_a_whole() -> None:
    left = without(RESULT, {"f"})
    assert left.unmatched == {
        "d": "no_partner_left",
        "e": "no_partner_left",
        "f": "no_partner_left",
        "g": "level_gap",
    }
    assert left.matched == RoleCounts(mentors=2, mentees=2)


def test_a_result_without_any_pair_has_nothing_to_average() -> None:
    left = without(RESULT, {"a", "b", "d"})
    assert (left.pairs, left.objective, left.gap) == ((), 0, 1.0)
    assert left.mean_dissimilarity is None
