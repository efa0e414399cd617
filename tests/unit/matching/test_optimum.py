"""The best matching of some pairs, and what proves it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from services.matching.engine.optimum import Graph, best_owners, proving_prices

ROWS, COLUMNS = 6, 5
PAIRS = st.dictionaries(
    st.tuples(st.integers(0, ROWS - 1), st.integers(0, COLUMNS - 1)), st.integers(0, 5)
)
SEATS = st.lists(st.integers(1, 3), min_size=ROWS, max_size=ROWS)


def graph_of(pairs: dict[tuple[int, int], int], seats: list[int], *, of_rows: bool) -> Graph:
    known = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    return Graph(
        rows=known[:, 0],
        columns=known[:, 1],
        scores=np.array([pairs[pair] for pair in sorted(pairs)], dtype=np.int64),
        row_seats=np.array(seats if of_rows else [1] * ROWS, dtype=np.int64),
        column_seats=np.array([1] * COLUMNS if of_rows else seats[:COLUMNS], dtype=np.int64),
    )


@given(PAIRS, SEATS, st.booleans())
def test_the_prices_prove_that_no_other_matching_is_better(
    pairs: dict[tuple[int, int], int], seats: list[int], of_rows: bool
) -> None:
    graph = graph_of(pairs, seats, of_rows=of_rows)
    owners, worth = best_owners(graph), {pair: of + graph.base for pair, of in pairs.items()}
    column_of = np.repeat(np.arange(COLUMNS), graph.column_seats)
    total = sum(worth[int(row), int(column_of[at])] for at, row in enumerate(owners) if row >= 0)

    prices = proving_prices(graph, owners)
    bound = int((prices * graph.column_seats).sum())
    for row, places in enumerate(graph.row_seats.tolist()):
        nets = sorted(
            (of - int(prices[c]) for (r, c), of in worth.items() if r == row), reverse=True
        )
        bound += sum(max(net, 0) for net in nets[:places])
    assert (prices >= 0).all()
    assert bound == total

    rows = np.repeat(np.arange(ROWS), graph.row_seats)
    table = np.array([[worth.get((r, c), 0) for c in column_of.tolist()] for r in rows.tolist()])
    assert total == table[linear_sum_assignment(table, maximize=True)].sum()


def test_prices_are_refused_to_a_matching_that_is_not_the_best() -> None:
    graph = graph_of({(0, 0): 1, (0, 1): 3, (1, 0): 3, (1, 1): 1}, [1] * ROWS, of_rows=True)
    with pytest.raises(AssertionError, match="not the best"):
        proving_prices(graph, np.array([0, 1, -1, -1, -1], dtype=np.int32))
