import random
from collections.abc import Callable
from functools import partial

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from services.matching.engine.assignment import FINE, SCALE, Kernels, sell
from services.matching.engine.columns import Ints, Offers, pack
from services.matching.engine.compiled import Compiled
from services.matching.engine.constraints import forbidden
from services.matching.engine.grid import Grid
from services.matching.engine.instance import instance, parts
from services.matching.engine.large import solve_large
from services.matching.engine.model import Candidate, Policy, Result
from services.matching.engine.plain import Plain, row_scores
from services.matching.engine.score import term_points
from services.matching.engine.solve import solve_dense
from services.matching.engine.watch import Watch
from tests.load.matching.pools import pool as drawn
from tests.unit.matching.builders import mentee, mentor, policy, topics
from tests.unit.matching.oracle import explain, may_pair, score, unknown
from tests.unit.matching.strategies import POLICIES, check_near, people

KERNELS: list[Kernels] = [Compiled(), Plain()]
Solver = Callable[..., Result]
# As pools are solved that are too large to be solved to the optimum.
nearly = partial(solve_large, proved_up_to=0)
in_parts = partial(nearly, least_part=3)
LARGE: list[Solver] = [nearly, in_parts]
ALL: list[Solver] = [solve_large, *LARGE]


def crowd(mentors: int, mentees: int, seed: int, **fields: object) -> list[Candidate]:
    """Return a drawn company, some of whose regions are unknown; `fields` are its mentors'."""
    return [
        one.model_copy(
            update=(fields if one.role == "mentor" else {})
            | ({} if number % 7 else {"region": None})
        )
        for number, one in enumerate(drawn(mentors, mentees, seed))
    ]


@pytest.fixture(params=["rows are mentees", "rows are mentors"])
def pool(request: pytest.FixtureRequest) -> list[Candidate]:
    return crowd(60, 40, 1) if request.param == "rows are mentees" else crowd(30, 70, 2)


def scores_by_grid(pool: list[Candidate], rules: Policy) -> dict[tuple[str, str], int]:
    grid = Grid([p for p in pool if p.role != "mentee"], [p for p in pool if p.role != "mentor"],
                rules)  # fmt: skip
    allowed = np.ones(grid.shape, dtype=np.bool_)
    for _, mask in forbidden(grid):
        allowed &= ~mask
    total = np.zeros(grid.shape, dtype=np.int64)
    for points in term_points(grid).values():
        total += points
    return {
        (grid.mentors[row].participant_id, grid.mentees[column].participant_id): int(
            total[row, column]
        )
        for row, column in np.argwhere(allowed).tolist()
    }


@pytest.mark.parametrize("rules", [policy(), policy(cross_region=False, different_boss=False)])
def test_the_columns_give_every_pair_the_score_of_the_grid(
    pool: list[Candidate], rules: Policy
) -> None:
    columns = pack(pool, 1, rules.term_middle)
    inst = instance(columns, rules)
    found = {}
    for row, person in enumerate(inst.rows.people.tolist()):
        scores = row_scores(inst, row)
        for place in np.flatnonzero(scores >= 0).tolist():
            pair = columns.ids[person], columns.ids[inst.columns.people[place]]
            found[pair if inst.tables.rows_are_mentors else pair[::-1]] = int(scores[place])
    assert found == scores_by_grid(pool, rules)


@pytest.mark.parametrize("number", [1, 3, 30])
def test_parts_have_everybody_once_and_the_whole_pools_scores(
    pool: list[Candidate], number: int
) -> None:
    rules = policy()
    inst = instance(pack(pool, 1, rules.term_middle), rules)
    everybody: tuple[list[int], list[int]] = ([], [])
    for smaller, rows, columns in parts(inst, number):
        for side, of_part in zip(everybody, (rows, columns), strict=True):
            side.extend(of_part.tolist())
        assert abs(len(rows) * number - len(inst.rows.people)) < number
        assert smaller.row_seats.tolist() == inst.row_seats[rows].tolist()
        assert smaller.column_seats.tolist() == inst.column_seats[columns].tolist()
        for place, row in enumerate(rows.tolist()):
            assert row_scores(smaller, place).tolist() == row_scores(inst, row)[columns].tolist()
    assert sorted(everybody[0]) == list(range(len(inst.rows.people)))
    assert sorted(everybody[1]) == list(range(len(inst.columns.people)))


def fair(bidders: int, seats: int, seed: int) -> Offers:
    """Return offers of everybody for five drawn objects, two of three of which have two seats."""
    luck = np.random.default_rng(seed)
    objects = np.stack([luck.permutation(seats)[:5] for _ in range(bidders)])
    return Offers(
        np.arange(bidders + 1, dtype=np.int64) * 5,
        objects.astype(np.int32).ravel(),
        luck.integers(100, 1000, bidders * 5) * SCALE,
        np.concatenate([[0], np.cumsum(1 + np.arange(seats) % 3 % 2)]).astype(np.int64),
    )


def total(offers: Offers, buyers: Ints) -> int:
    sizes = np.diff(offers.seat_starts)
    things = np.repeat(np.arange(len(sizes)), sizes)
    worth = {
        (bidder, int(offers.objects[at])): int(offers.values[at])
        for bidder in range(len(offers.starts) - 1)
        for at in range(offers.starts[bidder], offers.starts[bidder + 1])
    }
    taken = np.flatnonzero(buyers >= 0).tolist()
    return sum(worth[int(buyers[seat]), int(things[seat])] for seat in taken)


@pytest.mark.parametrize("kernels", KERNELS, ids=["compiled", "plain"])
@pytest.mark.parametrize(("bidders", "seats"), [(40, 60), (60, 60), (90, 40)])
def test_where_bidding_begins_changes_how_long_it_takes_and_not_how_good_it_is(
    kernels: Kernels, bidders: int, seats: int
) -> None:
    offers = fair(bidders, seats, bidders)
    nothing = np.zeros(offers.seat_starts[-1], dtype=np.int64)
    prices, buyers = sell(kernels, offers, nothing, FINE)
    best = total(offers, buyers)
    luck = np.random.default_rng(1)
    for known in (prices, 3 * prices, luck.integers(0, 4000, len(prices))):
        prices, buyers = sell(kernels, offers, known, FINE)
        wasted = int(prices[buyers < 0].sum())
        assert abs(total(offers, buyers) - best) <= bidders * FINE + wasted
        assert 32 * wasted <= SCALE * int((buyers >= 0).sum())


@settings(max_examples=60, deadline=None)
@given(people("a"), people("b"), POLICIES, st.integers(0, 3), st.sampled_from(LARGE))
def test_as_many_are_matched_as_can_be_and_the_total_is_as_near_as_it_says(
    mentors: list[Candidate], mentees: list[Candidate], rules: Policy, seed: int, solver: Solver
) -> None:
    pool = [*mentors, *mentees]
    found, exact = solver(pool, rules, seed), solve_dense(pool, rules, seed)
    check_near(found, pool, rules)
    assert found.matched.mentees == exact.matched.mentees
    assert found.objective <= exact.objective <= found.bound
    # Each bidder may be content with one point less than the best.
    assert exact.objective - found.objective <= 2 * exact.matched.mentees
    both = found.unmatched.keys() & exact.unmatched.keys()
    for who in both:
        assert found.unmatched[who] == exact.unmatched[who]
        assert found.explained.get(who) == exact.explained.get(who)


@settings(max_examples=60, deadline=None)
@given(people("a"), people("b"), POLICIES, st.integers(0, 3))
def test_a_pool_of_thousands_at_most_has_the_best_total_proved(
    mentors: list[Candidate], mentees: list[Candidate], rules: Policy, seed: int
) -> None:
    pool = [*mentors, *mentees]
    found, exact = solve_large(pool, rules, seed), solve_dense(pool, rules, seed)
    assert (found.matched.mentees, found.objective) == (exact.matched.mentees, exact.objective)
    assert (found.bound, found.gap) == (found.objective, 0)


@settings(max_examples=30, deadline=None)
@given(people("a"), people("b"), POLICIES, st.integers(0, 3), st.sampled_from(ALL))
def test_without_numba_the_result_is_the_same(
    mentors: list[Candidate], mentees: list[Candidate], rules: Policy, seed: int, solver: Solver
) -> None:
    pool = [*mentors, *mentees]
    one, other = (solver(pool, rules, seed, kernels) for kernels in KERNELS)
    assert one == other


@pytest.mark.parametrize("solver", ALL, ids=["proved", "nearly", "in parts"])
@pytest.mark.parametrize("both", [0, 20])
def test_a_crowd_is_matched_the_same_by_any_kernel_order_and_number_of_threads(
    both: int, solver: Solver
) -> None:
    rules = policy(min_level_gap=0 if both else 2)
    pool = crowd(120, 90, 3, capacity=2)
    pool += [p.model_copy(update={"role": "both", "participant_id": f"b{n}", "person_id": f"pb{n}"})
             for n, p in enumerate(pool[:both])]  # fmt: skip
    expected = solver(pool, rules, 5, KERNELS[1])
    threads = numba.get_num_threads()
    try:
        for number in range(1, threads + 1):
            numba.set_num_threads(number)
            assert solver(pool[::-1], rules, 5, KERNELS[0]) == expected
    finally:
        numba.set_num_threads(threads)
    exact = solve_dense(pool, rules, 5)
    assert expected.matched.mentees == exact.matched.mentees
    assert expected.objective <= exact.objective <= expected.bound


def highs(scores: dict[tuple[str, str], int], places: dict[str, int]) -> tuple[int, int]:
    """Return the most pairs and the most points of as many, by integer programming."""
    pairs = list(scores)
    if not pairs:
        return 0, 0
    people = sorted({who for pair in pairs for who in pair})
    rows = np.zeros((len(people), len(pairs)))
    for column, pair in enumerate(pairs):
        for who in pair:
            rows[people.index(who), column] = 1
    limits = LinearConstraint(rows, ub=[places.get(who, 1) for who in people])
    # One pair more outweighs all points.
    worth = np.array([scores[pair] + 1001 * len(people) for pair in pairs])
    found = milp(
        -worth,
        integrality=np.ones(len(pairs), dtype=np.int64),
        bounds=Bounds(0, 1),
        constraints=limits,
    )
    assert found.x is not None
    chosen = np.flatnonzero(found.x > 0.5)
    return len(chosen), sum(scores[pairs[place]] for place in chosen)


@pytest.mark.parametrize("seed", range(200))
def test_a_round_equals_an_integer_programs_optimum_and_a_plain_checkers_scores(seed: int) -> None:
    luck = random.Random(seed)
    pool = crowd(
        luck.randint(0, 12), luck.randint(1, 14), seed, **({"capacity": 2} if seed % 3 else {})
    )
    rules = policy(
        min_level_gap=luck.choice([1, 2, 4]),
        cross_region=luck.random() < 0.7,
        different_boss=luck.random() < 0.5,
        min_overlap_minutes=luck.choice([0, 60, 300]),
        weights=luck.choice([{}, {"waiting": 1000}, {"coverage": 500, "preference": 500}]),
    )
    by_id = {person.participant_id: person for person in pool}
    scores = {
        (one.participant_id, other.participant_id): sum(score(one, other, rules).values())
        for one in pool
        for other in pool
        if (one.role, other.role) == ("mentor", "mentee") and may_pair(one, other, rules)
    }
    most, points = highs(scores, {person.participant_id: person.capacity for person in pool})
    dense, proved, near = (one(pool, rules, seed) for one in (solve_dense, solve_large, nearly))
    for exact in (dense, proved):
        assert (exact.matched.mentees, exact.objective) == (most, points)
    assert proved.gap == 0
    assert near.matched.mentees == most
    assert near.objective <= points <= near.bound
    for pair in (*dense.pairs, *proved.pairs, *near.pairs):
        told = [score(by_id[pair.mentor_id], by_id[who], rules) for who in pair.mentee_ids]
        assert pair.terms == {term: sum(one[term] for one in told) for term in pair.terms}
    for result in (dense, proved, near):
        assert result.explained.keys() == {
            who for who in result.unmatched if not unknown(by_id[who])
        }
        for who, why in result.explained.items():
            nearest = why.nearest and (why.nearest.rules, why.nearest.levels, why.nearest.minutes)
            assert (why.eligible, why.excluded, nearest) == explain(by_id[who], pool, rules)


@pytest.mark.parametrize("solver", ALL, ids=["proved", "nearly", "in parts"])
def test_the_seed_chooses_among_equals(solver: Solver) -> None:
    pool = [*(mentor(f"m{n}") for n in range(4)), *(mentee(f"s{n}") for n in range(4))]
    found = {
        tuple((pair.mentor_id, pair.mentee_ids) for pair in solver(pool, policy(), seed).pairs)
        for seed in range(8)
    }
    assert len(found) > 2


@pytest.mark.parametrize("solver", [nearly, partial(nearly, least_part=100)])
def test_a_pool_of_hundreds_is_within_the_tolerance_of_the_optimum(solver: Solver) -> None:
    pool = crowd(500, 450, 4)
    found, exact = solver(pool, policy(), 1), solve_dense(pool, policy(), 1)
    check_near(found, pool, policy())
    assert found.matched == exact.matched
    assert exact.objective <= found.bound
    assert found.objective >= 0.999 * exact.objective
    assert found.gap <= 0.002


@pytest.mark.parametrize("mentees", [1600, 1700])
def test_people_of_few_kinds_are_matched_at_once(mentees: int) -> None:
    # All but department, level, region and line is the same: everybody's best are the same few.
    like: dict[str, Candidate] = {}
    pool = []
    for one in drawn(1600, mentees, 1):
        first = like.setdefault(one.role, one)
        kept = one.model_dump(include={"participant_id", "person_id", "department", "level"})
        lines = one.model_dump(include={"region", "country", "manager_chain"})
        pool.append(first.model_copy(update=kept | lines))
    stages: list[str] = []
    watch = Watch(lambda progress: stages.append(progress.stage))
    found, exact = nearly(pool, policy(), 1, watch=watch), solve_large(pool, policy(), 1)
    assert (found.matched.mentees, found.objective) == (exact.matched.mentees, exact.objective)
    assert found.gap <= 0.0001
    assert len(stages) <= 8


@pytest.mark.parametrize("places", [20, 100])
def test_the_bound_holds_for_mentors_of_many_places(places: int) -> None:
    pool = crowd(6, 8 * places, 5, capacity=places)
    found, exact = nearly(pool, policy(), 1), solve_dense(pool, policy(), 1)
    assert found.matched.mentees == exact.matched.mentees
    assert found.objective <= exact.objective <= found.bound
    assert found.gap <= 0.002


def test_who_could_be_matched_is_although_others_would_have_more_points() -> None:
    # Each mentor suits two mentees, next to each other in a row: all fit if each takes the first.
    pool = [mentee(f"s{n}", wants=topics(ai=1 + n % 4)) for n in range(12)]
    for n in range(12):
        others = tuple(p.person_id for place, p in enumerate(pool[:12]) if place not in (n, n + 1))
        pool.append(mentor(f"m{n}", vetoes=others))
    for kernels in KERNELS:
        for solver in ALL:
            assert solver(pool, policy(), 1, kernels).matched.mentees == 12


@pytest.mark.parametrize("sides", [([], []), ([mentor("m")], []), ([], [mentee("s")])])
def test_without_one_side_everybody_waits(sides: tuple[list[Candidate], list[Candidate]]) -> None:
    pool = [*sides[0], *sides[1]]
    found = solve_large(pool, policy(), 1)
    assert (found.pairs, found.objective, found.bound, found.gap) == ((), 0, 0, 0.0)
    assert set(found.unmatched) == {person.participant_id for person in pool}


def test_a_repeated_participant_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        solve_large([mentor("m"), mentor("m")], policy(), 1)


def test_65536ths_round_down_as_whole_numbers_do() -> None:
    percent = np.arange(101)
    for weight in range(1001):
        assert (percent * -(-weight * 65536 // 100) >> 16 == weight * percent // 100).all()
    for count in range(1, 61):
        tens = np.arange(10 * count + 1)
        assert (tens * -(-10 * 65536 // count) >> 16 == 10 * tens // count).all()
