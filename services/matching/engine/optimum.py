"""The best matching of some pairs, and the prices that prove it: linear programming's duals."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from services.matching.engine.columns import Ints, Longs, starts_of
from services.matching.engine.model import MAX_SCORE

_EXACT = 2**53  # up to here every integer has its own float64


def pair_base(most_pairs: int) -> int:
    """Return the points that one pair more is worth, where at most `most_pairs` are possible.

    It is above all that any other choice of pairs could gain in points. Raises OverflowError where
    a solver's sums could leave the integers that float64 holds: its dual prices stay within one
    value of zero, and it adds four such numbers at most.
    """
    base = most_pairs * MAX_SCORE + 1
    if 4 * (base + MAX_SCORE) >= _EXACT:
        raise OverflowError(f"{most_pairs} pairs are too many for an exact solution")
    return base


@dataclass(frozen=True)
class Graph:
    """Some pairs of rows and columns, row by row, and how many seats each of them has.

    Only rows or only columns have more than one.
    """

    rows: Longs
    columns: Longs
    scores: Longs
    row_seats: Longs
    column_seats: Longs

    @property
    def base(self) -> int:
        """The points that one pair more is worth."""
        return pair_base(min(int(self.row_seats.sum()), int(self.column_seats.sum())))


def best_owners(graph: Graph) -> Ints:
    """Return the row that owns each seat of the columns, -1 for none.

    As many seats as can be are owned, and no other such choice has more points (shortest
    augmenting paths: Jonker and Volgenant, 1987, as SciPy has it for sparse graphs).
    """
    row_starts, seat_starts = starts_of(graph.row_seats), starts_of(graph.column_seats)
    # Every seat of the one with every seat of the other.
    row_seats, column_seats = graph.row_seats[graph.rows], graph.column_seats[graph.columns]
    copies = row_seats * column_seats
    pair = np.repeat(np.arange(len(graph.rows)), copies)
    copy = np.arange(len(pair)) - np.repeat(np.cumsum(copies) - copies, copies)
    rows = row_starts[graph.rows[pair]] + copy % row_seats[pair]
    seats = seat_starts[graph.columns[pair]] + copy % column_seats[pair]
    bidders, sold = int(row_starts[-1]), int(seat_starts[-1])
    # Who has no seat takes one of their own, which is worth nothing. Zeros would be no pairs.
    everybody = np.arange(bidders)
    costs = np.concatenate(
        [1 + MAX_SCORE - graph.scores[pair], np.full(bidders, 1 + MAX_SCORE + graph.base)]
    ).astype(np.float64)
    places = (np.concatenate([rows, everybody]), np.concatenate([seats, sold + everybody]))
    chosen, taken = min_weight_full_bipartite_matching(
        csr_array((costs, places), shape=(bidders, sold + bidders))
    )
    owners = np.full(sold, -1, dtype=np.int32)
    real = taken < sold
    row_of = np.repeat(np.arange(len(graph.row_seats), dtype=np.int32), graph.row_seats)
    owners[taken[real]] = row_of[chosen[real]]
    return owners


def proving_prices(graph: Graph, owners: Ints) -> Ints:
    """Return the lowest prices of the columns at which every row owns what it likes best.

    A pair is worth its score and the base, a free seat costs nothing, and a row with a free place
    pays all that a pair is worth: so each price is the longest path in the graph of who would take
    over from whom, found as by Bellman and Ford. Raises AssertionError for owners that are not
    the best ones, whose paths have no end.
    """
    worth = graph.scores + graph.base
    width = len(graph.column_seats)
    column_of = np.repeat(np.arange(width), graph.column_seats)
    taken = np.flatnonzero(owners >= 0)
    rows, columns = owners[taken].astype(np.int64), column_of[taken]
    own = worth[np.searchsorted(graph.rows * width + graph.columns, rows * width + columns)]
    has_place = np.bincount(rows, minlength=len(graph.row_seats)) < graph.row_seats

    by_column = np.argsort(graph.columns, kind="stable")
    wanted, starts = np.unique(graph.columns[by_column], return_index=True)
    bidders, offers = graph.rows[by_column], worth[by_column]
    prices = np.zeros(width, dtype=np.int64)
    for _ in range(width + 1 if len(wanted) else 0):
        profits = np.full(len(graph.row_seats), worth.max())
        np.minimum.at(profits, rows, own - prices[columns])
        profits[has_place] = 0
        least = np.maximum.reduceat(offers - profits[bidders], starts)
        if (least <= prices[wanted]).all():
            break
        prices[wanted] = np.maximum(prices[wanted], least)
    else:
        assert not len(wanted), "the matching is not the best"
    return prices.astype(np.int32)
