"""The inner loops in numpy, where numba is not: the same answers, later.

Each function does what its namesake in `compiled` does, a row at a time.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from services.matching.engine.columns import Ints, Longs, Offers
from services.matching.engine.instance import (
    BARRED,
    CROSS_REGION,
    LEVEL_GAP,
    NEVER,
    NO_COMMON_LANGUAGE,
    RULE_ORDER,
    SAME_BOSS,
    SAME_DEPARTMENT,
    WORKING_HOURS,
    Instance,
    first_others,
)
from services.matching.engine.reasons import NOBODY, distances
from services.matching.engine.score import DEPARTMENT, FAR_APART, LEVELS

_LAST = (1 << 32) - 1


def row_scores(inst: Instance, row: int) -> Ints:
    """Return the row's scores with every column, below zero where they are not allowed."""
    r, c, t = inst.rows, inst.columns, inst.tables
    keys = r.keys[r.key_starts[row] : r.key_starts[row + 1]]
    tens = c.credit[keys].sum(axis=0, dtype=np.int32)
    share = c.share if t.rows_are_mentors else r.share[row]
    below = c.level - r.level[row]
    if t.rows_are_mentors:
        below = -below
    other = c.department != r.department[row]
    percent = c.percent[r.site[row]].astype(np.int32)
    apart = percent + (LEVELS // FAR_APART) * np.clip(below, 0, FAR_APART) + DEPARTMENT * other
    scores = t.overlap[r.hours[row], c.hours] + t.tongues[r.tongues[row], c.tongues]
    scores += ((tens * share) >> 16) * t.coverage_weight >> 16
    scores += apart * t.difference_weight >> 16
    scores += c.met[r.taste[row]].astype(np.int32) * t.wish_weight >> 16
    scores += ((r.patience[row] + c.patience) >> 1) * t.waiting_weight >> 16
    scores[(below < t.min_gap) | (percent == BARRED)] = NEVER
    if t.cross_department:
        scores[~other] = NEVER
    if t.different_boss and r.boss[row] >= 0:
        scores[c.boss == r.boss[row]] = NEVER
    scores[_other_way_round(inst, row)] = NEVER
    scores[inst.barred.columns[inst.barred.starts[row] : inst.barred.starts[row + 1]]] = NEVER
    points: Ints = scores.astype(np.int32)
    return points


def _other_way_round(inst: Instance, row: int) -> NDArray[np.bool_]:
    r, c, t = inst.rows, inst.columns, inst.tables
    if r.turn[row] < 0:
        return np.zeros(len(c.turn), dtype=np.bool_)
    mentor, mentee = np.broadcast_arrays(r.turn[row], c.turn)
    if not t.rows_are_mentors:
        mentor, mentee = mentee, mentor
    steps = (mentee - mentor) % t.turns
    far: NDArray[np.bool_] = (2 * steps > t.turns) | ((2 * steps == t.turns) & (mentor > mentee))
    far &= (c.turn >= 0) & (c.level == r.level[row])
    return far


class Plain:
    """The kernels as the rounds call them."""

    def best_columns(
        self, inst: Instance, prices: Ints, keep: int, others: int = 0, turn: int = 0
    ) -> tuple[Ints, Ints]:
        """Return each row's best columns at these prices, and others, and their scores; -1 where
        there are fewer.
        """
        found = np.full((len(inst.rows.level), keep + others), -1, dtype=np.int32)
        scores = np.full_like(found, NEVER)
        firsts = first_others(len(found), len(inst.columns.level), others, turn)
        for row in range(len(found)):
            told = row_scores(inst, row)
            best = allowed = np.flatnonzero(told >= 0)
            # Among equals each row begins at another column.
            steps = (allowed - row) % len(told)
            keys = ((told[allowed] - prices[allowed]).astype(np.int64) << 32) | (_LAST - steps)
            if len(keys) > keep:
                best = allowed[np.argpartition(keys, len(keys) - keep)[len(keys) - keep :]]
            more = np.searchsorted(allowed, firsts[row])
            chosen = np.union1d(best, allowed[more : more + others])
            found[row, : len(chosen)] = chosen
            scores[row, : len(chosen)] = told[chosen]
        return found, scores

    def auction(self, offers: Offers, asked: Longs, step: int) -> tuple[Longs, Ints]:
        """Return the seats' prices, none below what is asked, and their owners, -1 for none."""
        starts, seat_starts = offers.starts, offers.seat_starts
        prices = asked.copy()
        owners = np.full(seat_starts[-1], -1, dtype=np.int32)
        cheapest = np.minimum.reduceat(prices, seat_starts[:-1])
        queue = deque(range(len(starts) - 1))
        while queue:
            bidder = queue.popleft()
            mine = slice(starts[bidder], starts[bidder + 1])
            things = offers.objects[mine]
            nets = offers.values[mine] - cheapest[things]
            chosen = int(nets.argmax()) if len(nets) else -1
            if chosen < 0 or nets[chosen] < 0:
                continue
            thing, most, value = things[chosen], nets[chosen], offers.values[mine][chosen]
            nets[chosen] = 0
            next_most = max(int(nets.max()), 0)
            seats = np.arange(seat_starts[thing], seat_starts[thing + 1])
            by_price = seats[np.argsort(prices[seats], kind="stable")]
            if len(by_price) > 1:
                next_most = max(next_most, value - prices[by_price[1]])
            seat = by_price[0]
            prices[seat] += most - next_most + step
            if owners[seat] >= 0:
                queue.append(int(owners[seat]))
            owners[seat] = bidder
            cheapest[thing] = prices[seats].min()
        return prices, owners

    def widen(
        self, inst: Instance, wanting: Ints, seat_starts: Longs, owners: Ints, free_seats: Ints
    ) -> int:
        """Seat as many of those who want as can be, in `owners`; return how many."""
        column_of = np.repeat(np.arange(len(seat_starts) - 1), np.diff(seat_starts))
        reached: set[int] = set()
        closed = np.zeros(len(inst.columns.level), dtype=np.bool_)
        seated = 0
        for first in wanting.tolist():
            if first in reached:
                continue
            by_seat, by_row = {first: -1}, dict[int, int]()
            end = _search(
                inst, first, reached, closed, seat_starts, owners, free_seats, by_seat, by_row
            )
            if end < 0:
                reached |= by_seat.keys()
                closed[list(by_row)] = True
                continue
            seated += 1
            free_seats[end] -= 1
            seat = seat_starts[end] + int(
                (owners[seat_starts[end] : seat_starts[end + 1]] >= 0).argmin()
            )
            row = by_row[end]
            owners[seat] = row
            while by_seat[row] >= 0:
                seat = by_seat[row]
                row = by_row[int(column_of[seat])]
                owners[seat] = row
        return seated

    def broken_rules(self, inst: Instance, people: Ints) -> tuple[Ints, Ints, Longs]:
        """Return, for these rows, how many columns each rule forbids, how many are allowed, and
        the distance of the nearest.
        """
        r, c, t = inst.rows, inst.columns, inst.tables
        counts = np.zeros((len(people), len(RULE_ORDER)), dtype=np.int32)
        eligible = np.zeros(len(people), dtype=np.int32)
        nearest = np.full(len(people), NOBODY, dtype=np.int64)
        for place, row in enumerate(people.tolist()):
            told = slice(inst.barred.starts[row], inst.barred.starts[row + 1])
            bits = np.zeros(len(c.level), dtype=np.int32)
            bits[inst.barred.columns[told]] = inst.barred.why[told]
            below = (c.level - r.level[row]) * (-1 if t.rows_are_mentors else 1)
            bits[below < t.min_gap] |= LEVEL_GAP
            if t.cross_department:
                bits[c.department == r.department[row]] |= SAME_DEPARTMENT
            if t.different_boss and r.boss[row] >= 0:
                bits[c.boss == r.boss[row]] |= SAME_BOSS
            bits[c.percent[r.site[row]] == BARRED] |= CROSS_REGION
            bits[t.tongues[r.tongues[row], c.tongues] < 0] |= NO_COMMON_LANGUAGE
            bits[t.overlap[r.hours[row], c.hours] < 0] |= WORKING_HOURS
            each = bits[:, None] >> np.arange(len(RULE_ORDER)) & 1
            counts[place] = each.sum(axis=0)
            eligible[place] = ((bits == 0) & ~_other_way_round(inst, row)).sum()
            short = t.short[r.hours[row], c.hours]
            far = distances(each.sum(axis=1), bits, t.min_gap - below, short)
            nearest[place] = far.min(initial=NOBODY)
        return counts, eligible, nearest


def _search(
    inst: Instance, first: int, dead: set[int], closed: NDArray[np.bool_], seat_starts: Longs,
    owners: Ints, free_seats: Ints, by_seat: dict[int, int], by_row: dict[int, int],
) -> int:  # fmt: skip
    """Return a column with a free seat that the row can come to, others moving over, or -1."""
    queue = deque([first])
    while queue:
        row = queue.popleft()
        for column in np.flatnonzero((row_scores(inst, row) >= 0) & ~closed).tolist():
            seats = range(seat_starts[column], seat_starts[column + 1])
            if column in by_row or any(owners[seat] == row for seat in seats):
                continue
            by_row[column] = row
            if free_seats[column] > 0:
                return int(column)
            for seat in seats:
                owner = int(owners[seat])
                if owner not in by_seat and owner not in dead:
                    by_seat[owner] = seat
                    queue.append(owner)
    return -1
