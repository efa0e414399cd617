"""A company of 20,000 a side, checked in plain Python; for minutes, so not with the other tests."""

import random

import numba
import pytest

from services.matching.engine.large import solve_large
from tests.load.matching.pools import POLICY, Shape
from tests.load.matching.pools import pool as drawn
from tests.unit.matching.oracle import explain, score, unknown
from tests.unit.matching.strategies import check_near

SIZE = 20_000
ASKED = 60


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shape", ["usual", "tight", "circles", "unknown_levels"])
def test_no_pair_breaks_a_rule_and_every_score_and_reason_can_be_recomputed(shape: Shape) -> None:
    pool = list(drawn(SIZE, SIZE, 1, shape))
    by_id = {person.participant_id: person for person in pool}
    found = solve_large(pool, POLICY, 1)
    check_near(found, pool, POLICY)
    for pair in found.pairs:
        told = [score(by_id[pair.mentor_id], by_id[who], POLICY) for who in pair.mentee_ids]
        assert pair.terms == {term: sum(one[term] for one in told) for term in pair.terms}
        assert pair.score == sum(pair.terms.values())
    assert found.objective <= found.bound <= 1.001 * found.objective
    assert found.explained.keys() == {who for who in found.unmatched if not unknown(by_id[who])}
    for who in random.Random(1).sample(sorted(found.explained), min(ASKED, len(found.explained))):
        why = found.explained[who]
        nearest = why.nearest and (why.nearest.rules, why.nearest.levels, why.nearest.minutes)
        assert (why.eligible, why.excluded, nearest) == explain(by_id[who], pool, POLICY)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_any_number_of_threads_gives_the_same_company() -> None:
    pool = list(drawn(SIZE, SIZE, 2))
    threads = numba.get_num_threads()
    found = solve_large(pool, POLICY, 3)
    numba.set_num_threads(1)
    try:
        assert solve_large(pool, POLICY, 3) == found
    finally:
        numba.set_num_threads(threads)
