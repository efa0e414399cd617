"""A company of 20,000 a side, checked in plain Python; for minutes, so not with the other tests."""

import random

import numba
import pytest

from services.matching.engine.large import solve_large
from tests.load.matching.pools import POLICY, Shape
from tests.load.matching.pools import pool as drawn
from tests.unit.matching.oracle import explain, may_pair, score, unknown

SIZE = 20_000
ASKED = 60


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shape", ["usual", "tight", "circles", "unknown_levels"])
def test_no_pair_breaks_a_rule_and_every_score_and_reason_can_be_recomputed(shape: Shape) -> None:
    pool = list(drawn(SIZE, SIZE, 1, shape))
    by_id = {person.participant_id: person for person in pool}
    found = solve_large(pool, POLICY, 1)
    seats: dict[str, int] = {}
    for pair in found.pairs:
        mentor = by_id[pair.mentor_id]
        for who in pair.mentee_ids:
            assert may_pair(mentor, by_id[who], POLICY)
            assert by_id[who].role == "mentee"
            seats[who] = seats.get(who, 0) + 1
        assert len(pair.mentee_ids) <= mentor.capacity
        assert mentor.participant_id not in seats
        seats[mentor.participant_id] = 1
        told = [score(mentor, by_id[who], POLICY) for who in pair.mentee_ids]
        assert pair.terms == {term: sum(one[term] for one in told) for term in pair.terms}
        assert pair.score == sum(pair.terms.values())
    assert set(seats.values()) == {1}
    assert found.unmatched.keys() == by_id.keys() - seats.keys()
    assert found.objective == sum(pair.score for pair in found.pairs)
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
