"""Who with whom, for pools of any size: price-guided rounds, and a proof of how good they are.

Each round looks at all pairs once and keeps, for every bidder, the columns with the most score
less price; an auction on what is kept makes new prices; these show the next round where to look.
In a large pool, the first rounds look only at the pairs within parts of the people.
Linear programming duality says how much any other matching could have (DESIGN: the certificate):
with the prices of the seats and each bidder's best score less price over all pairs, no matching
of as many pairs has a higher total than their sum. All numbers are integers.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from services.matching.engine.columns import Ints, Lists, Longs, Offers, starts_of
from services.matching.engine.estimate import estimated_prices
from services.matching.engine.instance import NEVER, Instance, parts, sample
from services.matching.engine.model import MAX_SCORE
from services.matching.engine.optimum import Graph, best_owners, proving_prices
from services.matching.engine.pairs import pair_scores
from services.matching.engine.watch import UNWATCHED, Progress, Watch

TOLERANCE_PER_MILLE = 1
SCALE = 4
"""Parts of a point that prices are counted in."""
COARSE, FINE = 16, 1
"""By how many parts at least a bid raises a price in the end: in the first bidding, which only
shows where to look, and in all after it."""
_FIRST_STEP, _STEPS = 256, (64, 16, 4, 1)
_MARGIN = 8
_WASTE = 32
PROVED = 5_000 * 5_000
"""Up to so many pairs, the best that is remembered is found, and proved to be the best of all."""
_KEEP, _OTHERS = 48, 16
"""How many pairs of each row are remembered: the best, and some others. Where many people are
alike, all rows have the same best, and only the others lead to everybody."""
_WIDE, _MOST_WIDE = 800, 128
"""One in so many columns is remembered in the first look at all pairs, but not more than so many:
the more there are, the nearer to each other are the best, and the more a change of prices by a
few points brings forward."""
_PARTS, LEAST_PART = 10, 5_000
"""Prices are learned in a tenth of the people at once, but in so many of the larger side."""
_SAMPLED, _SAMPLES = 5, (1_000, 4_000)
"""One in so many of the larger side learns the first prices, but so many at least and at most."""
_KEEP_OF_SAMPLE = 8
"""One in so many of them is remembered as one of the best, and as many as others."""
_ROWS_AT_ONCE = 10_000
_MOST_ROUNDS = 8
_LARGE_BONUS = 2 * MAX_SCORE
_RESIGNED = 20
"""One in so many bidders of the sample is content with less than anybody is in the first round."""


class Kernels(Protocol):
    """The inner loops, compiled or plain: the same answers."""

    def best_columns(
        self, inst: Instance, prices: Ints, keep: int, others: int = 0, turn: int = 0
    ) -> tuple[Ints, Ints]: ...

    def auction(self, offers: Offers, asked: Longs, step: int) -> tuple[Longs, Ints]: ...

    def widen(
        self, inst: Instance, wanting: Ints, seat_starts: Longs, owners: Ints, free_seats: Ints
    ) -> int: ...

    def broken_rules(self, inst: Instance, people: Ints) -> tuple[Ints, Ints, Longs]: ...


@dataclass(frozen=True)
class Assignment:
    """The matching: row `rows[i]` with column `columns[i]`, and no other of as many pairs has a
    total above `bound`. There are as many pairs as there can be.
    """

    rows: Ints
    columns: Ints
    scores: Ints
    bound: int
    limited: bool = False


def assign(
    inst: Instance,
    kernels: Kernels,
    watch: Watch = UNWATCHED,
    *,
    proved_up_to: int = PROVED,
    least_part: int = LEAST_PART,
) -> Assignment:
    """Match as many as can be, then with the highest total; where the places of the one side and
    of the other make more than `proved_up_to` pairs, with one as high as the tolerance asks for.
    Prices are learned in parts that have `least_part` people of the larger side at least.

    When the watch's time is up, which is asked after each look at all pairs, the best until then
    is returned; one there is always. Proving makes prices of 1,000 points for each place of the
    smaller side, and those above a quarter of a billion fall out of the kernels' integers.
    """
    watch.hear(Progress("learning prices", 0.0, None))
    prices, bonus = _first_guess(inst, kernels)
    rounds = _Rounds(inst, kernels)
    people = (len(inst.rows.people), len(inst.columns.people))
    number = max(1, min(max(people) // least_part, _PARTS, *people))
    # What the first round remembers is thin: who would have to pay far more than is usual gives
    # up in it rather than drive all prices up.
    if number == 1:
        watch.hear(Progress("looking at all pairs", 0.05, None))
        rounds.look(prices)
        watch.hear(Progress("bidding", 0.2, None))
        rounds.bid(bonus, COARSE)
    else:
        watch.hear(Progress("looking within parts", 0.05, None))
        rounds.look_in_parts(prices, number)
        watch.hear(Progress("bidding", 0.1, None))
        rounds.bid(bonus, COARSE)
        watch.hear(Progress("looking within parts", 0.15, None))
        rounds.look_in_parts(rounds.prices(), number)
        watch.hear(Progress("bidding", 0.2, None))
        rounds.bid(0, FINE)
    watch.hear(Progress("looking at all pairs", 0.3, None))
    rounds.look(rounds.prices(), keep=max(_KEEP, min(rounds.width // _WIDE, _MOST_WIDE)))
    finish = _prove if rounds.places <= proved_up_to else _approach
    limited = finish(rounds, watch)
    return replace(rounds.result(), limited=limited)


def _prove(rounds: "_Rounds", watch: Watch) -> bool:
    """Find the best of what is remembered until no pair is better; return whether time was up.

    Column generation: while something better is among the other pairs, the best of each row at
    the prices that prove the best so far are remembered, too, and one of them is new.
    """
    done = 0.6
    while True:
        watch.hear(Progress("proving", done, rounds.gap()))
        graph = rounds.solve()
        if rounds.widen():
            rounds.remember_matching()
            graph = rounds.solve()
        prices = rounds.proof(graph)
        rounds.look(prices)
        rounds.judge(prices, graph.base)
        if rounds.missing() == 0:
            return False
        if watch.expired():
            return True
        done += (0.95 - done) / 2


def _approach(rounds: "_Rounds", watch: Watch) -> bool:
    """Bid for what is remembered until it is near the bound; return whether time was up."""
    done, bonus = 0.6, 0
    for _ in range(_MOST_ROUNDS):
        watch.hear(Progress("bidding", done, rounds.gap()))
        rounds.bid(bonus, FINE)
        prices = rounds.prices()
        missed = rounds.widen()
        rounds.look(prices)
        rounds.judge(prices, bonus)
        # Nearly always the first of these rounds is the last but one, or the last.
        done += (0.95 - done) / 2
        if rounds.good_enough():
            return False
        if watch.expired():
            return True
        if missed:
            # Pairs were missed for the sake of points: from now on one more is worth more.
            bonus = 4 * bonus or _LARGE_BONUS
    return False


def sell(kernels: Kernels, offers: Offers, known: Longs, step: int) -> tuple[Longs, Ints]:
    """Sell the seats by auction; return their prices and who bought each, -1 for nobody.

    Bidding begins a little below the `known` prices of nearly the same auction, in large steps (in
    larger ones where nothing is known), and again with ever smaller ones below what the last gave:
    a few outbid each other in large steps, and the rest hardly bid again (scaling: Bertsekas, "The
    auction algorithm", 1988).
    What nobody bought must cost nothing for the certificate to be tight: where it costs more than
    a 32nd of a step for each that was bought, bidding begins again, further below.
    """
    prices, last = known, COARSE
    steps = _STEPS if known.any() else (_FIRST_STEP, *_STEPS)
    for stage in (size for size in steps if size >= step):
        margin = _MARGIN * last
        while True:
            asked = np.maximum(prices - margin, 0)
            found, bidders = kernels.auction(offers, asked, stage)
            free = bidders < 0
            few = _WASTE * int(found[free].sum()) <= max(stage, SCALE) * int((~free).sum())
            if few or not asked.any():
                break
            margin *= 4
        prices, last = found, stage
    return prices, bidders


def _first_guess(inst: Instance, kernels: Kernels) -> tuple[Ints, int]:
    """Return prices to begin with, and the bonus (below zero) of the first round.

    Both are learned from drawn people, who bid at no prices on their best and as many others.
    """
    people = max(len(inst.row_seats), len(inst.column_seats))
    most = min(max(people // _SAMPLED, _SAMPLES[0]), _SAMPLES[1])
    smaller, sampled = sample(inst, most)
    rounds = _Rounds(smaller, kernels)
    keep = most // _KEEP_OF_SAMPLE
    rounds.look(np.zeros(len(sampled), dtype=np.int32), keep=keep, others=keep)
    rounds.bid(_LARGE_BONUS, COARSE)
    _, columns, scores = rounds.matching()
    prices = rounds.prices()
    gains = np.sort(scores - prices[columns])
    usual = int(gains[len(gains) // _RESIGNED]) if len(gains) else 0
    return estimated_prices(inst.columns, sampled, prices), -max(usual, 0)


class _Rounds:
    """One problem, what is remembered of it, and the best that was found."""

    def __init__(self, inst: Instance, kernels: Kernels) -> None:
        self._inst = inst
        self._kernels = kernels
        self.width = max(len(inst.columns.level), 1)
        self._pairs: Longs = np.zeros(0, dtype=np.int64)
        self._scores: Ints = np.zeros(0, dtype=np.int32)
        self._seat_starts = starts_of(inst.column_seats)
        self._column_of = np.repeat(
            np.arange(len(inst.column_seats), dtype=np.int32), inst.column_seats
        )
        self._row_of = np.repeat(np.arange(len(inst.row_seats), dtype=np.int32), inst.row_seats)
        self._seat_prices: Longs = np.zeros(len(self._column_of), dtype=np.int64)
        self._owners: Ints = np.full(len(self._column_of), -1, dtype=np.int32)
        self._best: Assignment | None = None
        self._looks = 0

    def look(self, prices: Ints, *, keep: int = _KEEP, others: int = _OTHERS) -> None:
        """Look at all pairs and remember, for each row, those that are best at these prices, and
        others.
        """
        found, scores = self._look_at(self._inst, prices, keep, others)
        known = found >= 0
        self._nets = np.where(known, scores - prices[found], NEVER)
        rows = np.arange(len(found), dtype=np.int64)[:, None] * self.width
        self._remember((rows + found)[known], scores[known])

    def look_in_parts(self, prices: Ints, number: int) -> None:
        """Remember as `look` does, but of the pairs within each part of the people alone."""
        seen: list[Longs] = []
        worth: list[Ints] = []
        for inst, rows, columns in parts(self._inst, number):
            found, scores = self._look_at(inst, prices[columns], _KEEP, _OTHERS)
            known = found >= 0
            seen.append((rows[:, None] * self.width + columns[found])[known])
            worth.append(scores[known])
        pairs = np.concatenate(seen)
        order = np.argsort(pairs, kind="stable")
        self._remember(pairs[order], np.concatenate(worth)[order])

    def _look_at(self, inst: Instance, prices: Ints, keep: int, others: int) -> tuple[Ints, Ints]:
        # The bound counts the best of as many columns as a row has places: all of them are kept.
        keep = max(keep, 2 * int(inst.row_seats.max(initial=1)))
        width = len(prices)
        self._looks += 1
        return self._kernels.best_columns(
            inst, prices, min(keep, width), min(others, width), turn=self._looks
        )

    def remember_matching(self) -> None:
        """Remember the pairs of the matching, too."""
        rows, columns, scores = self.matching()
        pairs = rows.astype(np.int64) * self.width + columns
        order = np.argsort(pairs)
        self._remember(pairs[order], scores[order])

    def _remember(self, pairs: Longs, scores: Ints) -> None:
        # Some rows at once: of a large pool, the copies would be more than all that is kept.
        marks = np.arange(0, len(self._inst.row_seats) + _ROWS_AT_ONCE, _ROWS_AT_ONCE) * self.width
        known_at, told_at = np.searchsorted(self._pairs, marks), np.searchsorted(pairs, marks)
        merged = np.empty(len(self._pairs) + len(pairs), dtype=np.int64)
        worth = np.empty(len(merged), dtype=np.int32)
        end = 0
        for place in range(len(marks) - 1):
            known = slice(known_at[place], known_at[place + 1])
            told = slice(told_at[place], told_at[place + 1])
            some = np.concatenate([self._pairs[known], pairs[told]])
            # Two runs that are sorted: merging them takes no longer than reading them.
            order = np.argsort(some, kind="stable")
            some = some[order]
            fresh = np.ones(len(some), dtype=np.bool_)
            np.not_equal(some[1:], some[:-1], out=fresh[1:])
            start, end = end, end + int(fresh.sum())
            merged[start:end] = some[fresh]
            worth[start:end] = np.concatenate([self._scores[known], scores[told]])[order[fresh]]
        self._pairs, self._scores = merged[:end], worth[:end]

    @property
    def places(self) -> int:
        """How many pairs of a row's and a column's seat there are."""
        return len(self._row_of) * len(self._column_of)

    def solve(self) -> Graph:
        """Match what is remembered as well as can be; return it."""
        graph = Graph(
            rows=self._pairs // self.width,
            columns=self._pairs % self.width,
            scores=self._scores.astype(np.int64),
            row_seats=self._inst.row_seats.astype(np.int64),
            column_seats=self._inst.column_seats.astype(np.int64),
        )
        self._owners = best_owners(graph)
        return graph

    def proof(self, solved: Graph) -> Ints:
        """Return the prices that prove the matching of what was solved last."""
        return proving_prices(solved, self._owners)

    def bid(self, bonus: int, step: int) -> None:
        """Match what is remembered; each pair is worth its score and the bonus."""
        rows = np.arange(len(self._inst.row_seats) + 1, dtype=np.int64)
        lists = Lists(
            (self._pairs % self.width).astype(np.int32),
            np.diff(np.searchsorted(self._pairs, rows * self.width)),
        )
        values = (self._scores.astype(np.int64) + bonus) * SCALE
        starts, objects = lists.starts, lists.values
        if len(self._row_of) > len(rows) - 1:
            # A mentor with several places bids once for each.
            places = Lists(np.arange(len(objects), dtype=np.int32), np.diff(starts)).of(
                self._row_of
            )
            starts, objects, values = places.starts, objects[places.values], values[places.values]
        offers = Offers(starts, objects, values, self._seat_starts)
        self._seat_prices, bidders = sell(self._kernels, offers, self._seat_prices, step)
        self._owners = np.where(bidders >= 0, self._row_of[bidders], -1).astype(np.int32)

    def prices(self) -> Ints:
        """Return what each column's cheapest seat costs, in whole points.

        There are best prices in whole points, and bids raise prices: without their parts, those of
        people who are alike are the same.
        """
        cheapest = np.minimum.reduceat(self._seat_prices, self._seat_starts[:-1])
        return (cheapest // SCALE).astype(np.int32)

    def widen(self) -> int:
        """Make the matching as large as it can be; return how many pairs that took."""
        seated = np.bincount(self._owners[self._owners >= 0], minlength=len(self._inst.row_seats))
        lacking = np.repeat(np.arange(len(seated), dtype=np.int32), self._inst.row_seats - seated)
        free = np.bincount(self._column_of[self._owners < 0], minlength=self.width)
        return self._kernels.widen(
            self._inst, lacking, self._seat_starts, self._owners, free.astype(np.int32)
        )

    def matching(self) -> tuple[Ints, Ints, Ints]:
        """Return the pairs' rows, columns and scores."""
        taken = np.flatnonzero(self._owners >= 0)
        rows, columns = self._owners[taken], self._column_of[taken]
        return rows, columns, pair_scores(self._inst, rows, columns)

    def judge(self, prices: Ints, bonus: int) -> None:
        """Keep the matching if it is the best so far, and the bound if it is the lowest.

        The last look was at these prices. The bonus is the multiplier of the constraint that
        there be as many pairs as there can be, which every matching of that many pays.
        """
        rows, columns, scores = self.matching()
        # A bidder of several places could have several of the best.
        keep = min(int(self._inst.row_seats.max(initial=1)), self._nets.shape[1])
        nets = -np.sort(-self._nets, axis=1)[:, :keep].astype(np.int64) + bonus
        nets[np.arange(keep) >= self._inst.row_seats[:, None]] = 0
        bound = (
            int((prices.astype(np.int64) * self._inst.column_seats).sum())
            + int(np.maximum(nets, 0).sum())
            - bonus * len(rows)
        )
        found = Assignment(rows, columns, scores, bound)
        if self._best is not None:
            found = max(found, self._best, key=lambda one: int(one.scores.sum()))
            bound = min(bound, self._best.bound)
        self._best = replace(found, bound=bound)

    def good_enough(self) -> bool:
        """Return whether the best is so near the bound that nobody needs another round."""
        assert self._best is not None
        return 1000 * self.missing() <= TOLERANCE_PER_MILLE * self._best.bound

    def missing(self) -> int:
        """Return how many points the best may lack."""
        assert self._best is not None
        return self._best.bound - int(self._best.scores.sum())

    def gap(self) -> float | None:
        """Return how far the best is from the bound; None before there is one."""
        if self._best is None or not self._best.bound:
            return None
        return 1 - int(self._best.scores.sum()) / self._best.bound

    def result(self) -> Assignment:
        """Return the best that was found."""
        assert self._best is not None
        return self._best
