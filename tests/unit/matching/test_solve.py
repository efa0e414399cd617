import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.matching.engine.grid import Grid
from services.matching.engine.model import Candidate, Policy
from services.matching.engine.optimum import pair_base
from services.matching.engine.score import term_points
from services.matching.engine.solve import assess, solve
from shared.events.pairs import RoleCounts
from tests.unit.matching.builders import mentee, mentor, policy, topics
from tests.unit.matching.oracle import best, may_pair
from tests.unit.matching.strategies import POLICIES, ZONES, check, people


@settings(max_examples=80, deadline=None)
@given(people("a"), people("b"), POLICIES, st.integers(0, 3), st.randoms())
def test_a_round_is_the_best_that_trying_everything_finds_in_any_order(
    mentors: list[Candidate],
    mentees: list[Candidate],
    rules: Policy,
    seed: int,
    shuffle: random.Random,
) -> None:
    pool = mentors + mentees
    result = solve(pool, rules, seed)
    check(result, pool, rules)

    terms = term_points(Grid(mentors, mentees, rules)).values()
    allowed: list[list[int | None]] = [
        [
            sum(int(points[row, column]) for points in terms)
            if may_pair(junior, senior, rules)
            else None
            for column, senior in enumerate(mentees)
        ]
        for row, junior in enumerate(mentors)
    ]
    assert (result.matched.mentees, result.objective) == best(
        allowed, [junior.capacity for junior in mentors]
    )

    shuffle.shuffle(pool)
    assert solve(pool, rules, seed) == result


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["mentor", "mentee", "both"]), max_size=7), st.integers(0, 9))
def test_no_two_pairs_of_a_round_join_the_same_people_even_among_peers(
    roles: list[str], seed: int
) -> None:
    pool = [
        mentor(f"p{number}", role=role, level=3, wants=topics(ai=1))
        for number, role in enumerate(roles)
    ]
    rules = policy(min_level_gap=0)
    result = solve(pool, rules, seed)
    check(result, pool, rules)
    joined = [frozenset((pair.mentor_id, *pair.mentee_ids)) for pair in result.pairs]
    assert len(set(joined)) == len(joined)
    assert all(len(people) == 2 for people in joined)


def test_peers_who_teach_each_other_all_find_a_partner_in_each_role() -> None:
    pool = [mentor(f"p{number}", role="both", level=3) for number in range(5)]
    result = solve(pool, policy(min_level_gap=0), seed=1)
    assert result.matched == RoleCounts(mentors=5, mentees=5)


def test_one_pair_more_is_better_than_any_score() -> None:
    star = mentor("star", teaches=topics(ai=5))
    plain = mentor("plain", teaches=(), department="Legal")
    keen = mentee("keen", wants=topics(ai=1))
    # Only the star may go with the lawyer: the keen one, who would suit the star best, yields.
    lawyer = mentee("lawyer", wants=(), department="Legal")
    result = solve([star, plain, keen, lawyer], policy(), seed=0)
    assert {pair.mentor_id: pair.mentee_ids for pair in result.pairs} == {
        "star": ("lawyer",),
        "plain": ("keen",),
    }


def test_the_seed_chooses_among_equals_and_nothing_else_does() -> None:
    pool = [mentor(f"m{number}", department="IT") for number in range(6)] + [mentee()]
    chosen = {solve(pool, policy(), seed).pairs[0].mentor_id for seed in range(40)}
    assert len(chosen) > 1
    assert solve(pool, policy(), 7) == solve(pool[::-1], policy(), 7)


def test_a_mentor_never_has_more_mentees_than_places() -> None:
    pool = [mentor(capacity=3)] + [mentee(f"s{number}") for number in range(5)]
    result = solve(pool, policy(), seed=0)
    assert [len(pair.mentee_ids) for pair in result.pairs] == [3]
    assert list(result.unmatched.values()) == ["no_partner_left"] * 2
    assert result.matched == RoleCounts(mentors=1, mentees=3)


def test_a_circles_points_are_the_sum_over_its_mentees() -> None:
    circle = [mentee("a"), mentee("b", region="apac")]
    found = solve([mentor(capacity=2), *circle], policy(), seed=0).pairs[0]
    alone = [assess(mentor(capacity=2), [one], policy()) for one in circle]
    assert found.score == sum(pair.score for pair in alone)
    assert found == assess(mentor(capacity=2), circle, policy())


def test_who_teaches_and_learns_may_be_in_a_pair_of_each_kind() -> None:
    middle = mentor("middle", role="both", level=4, wants=topics(ai=1))
    result = solve([mentor("m"), middle, mentee("s")], policy(), seed=0)
    pairs = {(pair.mentor_id, *pair.mentee_ids) for pair in result.pairs}
    assert pairs == {("m", "middle"), ("middle", "s")}
    assert result.matched == RoleCounts(mentors=2, mentees=2)
    assert result.pool == RoleCounts(mentors=2, mentees=2)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"level": None}, "level_unknown"),
        ({"department": None}, "department_unknown"),
        ({"timezone": "Mars/Phobos"}, "timezone_unknown"),
        ({"level": 6}, "level_gap"),
        ({"languages": ("fi",)}, "no_common_language"),
        ({"timezone": "Asia/Tokyo"}, "working_hours"),
        ({"former_partners": ("person-m",)}, "former_partner"),
        # The one who is not wanted is not told so.
        ({"vetoes": ("person-m",)}, "no_partner"),
    ],
)
def test_who_cannot_be_matched_waits_with_the_reason(facts: dict[str, Any], reason: str) -> None:
    result = solve([mentor(), mentee(**facts)], policy(), seed=0)
    assert result.unmatched["s"] == reason
    assert result.pairs == ()
    assert (result.objective, result.bound, result.gap) == (0, 0, 0.0)
    assert result.mean_dissimilarity is None
    assert result.mean_dissimilarity_random is None


def test_the_reason_told_is_what_excluded_most() -> None:
    senior = mentee(languages=("en",))
    juniors = [mentor("m0", level=3)] + [
        mentor(f"m{number}", languages=("fi",)) for number in (1, 2)
    ]
    assert solve([*juniors, senior], policy(), seed=0).unmatched["s"] == "no_common_language"


@pytest.mark.parametrize("pool", [[], [mentor()], [mentee()]])
def test_an_empty_side_is_an_empty_round(pool: list[Candidate]) -> None:
    result = solve(pool, policy(), seed=0)
    assert result.pairs == ()
    assert result.unmatched == {person.participant_id: "no_partner" for person in pool}


def test_dissimilarity_is_told_beside_that_of_a_random_eligible_pair() -> None:
    near = mentor("near", teaches=())
    far = mentor("far", region="apac", teaches=topics(ai=5))
    result = solve([near, far, mentee()], policy(weights={"difference": 100}), seed=0)
    assert result.mean_dissimilarity == 94
    assert result.mean_dissimilarity_random == (94 + 64) / 2


def test_a_participant_who_is_in_the_pool_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        solve([mentor(), mentor()], policy(), seed=0)


def test_a_pool_too_large_for_exact_sums_is_refused() -> None:
    assert pair_base(10**9) == 10**12 + 1
    with pytest.raises(OverflowError):
        pair_base(10**13)


def test_a_large_round_holds_every_constraint() -> None:
    drawn = random.Random(5)
    pool = [
        (mentor if number < 300 else mentee)(
            f"p{number}",
            level=drawn.randrange(4, 8) if number < 300 else drawn.randrange(3),
            department=drawn.choice("ABCDEF"),
            timezone=drawn.choice(ZONES[:4]),
            manager_chain=tuple(f"person-p{drawn.randrange(380)}" for _ in range(5)),
            teaches=topics(**{drawn.choice("xyz"): drawn.randrange(3, 6)}),
            wants=topics(**{drawn.choice("xyz"): drawn.randrange(1, 4)}),
        )
        for number in range(380)
    ]
    result = solve(pool, policy(), seed=3)
    check(result, pool, policy())
    assert result.matched.mentees == 80
    assert result.mean_dissimilarity is not None
