"""The inner loops, compiled by numba: every pair is looked at, few are remembered.

Integers alone, and each row by itself: the answers are those of `plain` on any machine, with any
number of threads. What is compiled is kept on disk beside this file.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit, prange

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
    UNTOLD_BITS,
    WORKING_HOURS,
    Barred,
    Instance,
    Side,
    Tables,
    first_others,
)
from services.matching.engine.reasons import MOST, NOBODY
from services.matching.engine.score import DEPARTMENT, FAR_APART, LEVELS

F = TypeVar("F")
Integer = int | np.integer[Any]

_BLOCK = 1024
_STRIP = 32
_CHUNK = 64
_STEP = LEVELS // FAR_APART
_LAST = (1 << 32) - 1


def _compiled(*, parallel: bool = False) -> Callable[[F], F]:
    return cast("Callable[[F], F]", njit(cache=True, nogil=True, parallel=parallel))


@_compiled()
def fill_points(
    row: int, rows: Side, columns: Side, t: Tables, start: int, end: int, points: Ints
) -> bool:
    """Write the points that hours and languages give with some columns, below zero where a rule
    forbids them; return whether any are allowed.
    """
    by_hours, by_tongues = t.overlap[rows.hours[row]], t.tongues[rows.tongues[row]]
    hours, tongues = columns.hours[start:end], columns.tongues[start:end]
    some = False
    for x in range(end - start):
        value = by_hours[hours[x]] + by_tongues[tongues[x]]
        points[x] = value
        some |= value >= 0
    return some


@_compiled()
def _other_way_round(row: int, c: int, rows: Side, columns: Side, t: Tables) -> bool:
    """Return whether these peers are only to be considered with their roles exchanged.

    They stand in a circle, in drawn order, and each may mentor the half that follows.
    """
    mentor, mentee = rows.turn[row], columns.turn[c]
    if mentor < 0 or mentee < 0 or rows.level[row] != columns.level[c]:
        return False
    if not t.rows_are_mentors:
        mentor, mentee = mentee, mentor
    steps = (mentee - mentor) % t.turns
    return bool(2 * steps > t.turns or (2 * steps == t.turns and mentor > mentee))


@_compiled()
def _product(value: Integer, fraction: Integer) -> np.int32:
    """Return the product with 65536ths. It fits into 32 bits, of which processors multiply twice
    as many at once as of 64.
    """
    product = np.int32(np.int32(value) * np.int32(fraction))
    return np.int32(product >> np.int32(16))


@_compiled()
def fill_block(
    row: int, rows: Side, columns: Side, t: Tables, barred: Barred,
    points: Ints, start: int, end: int, sums: Ints, scores: Ints,
) -> None:  # fmt: skip
    """Write the row's scores with the columns from `start` to `end`, below zero where barred.

    `points` are what hours and languages give with each of these columns.
    """
    # Slices, for an index that begins at 0 needs no look whether it is below: only then does the
    # compiler work on eight columns at once.
    n = end - start
    sums[:n] = 0
    for at in range(rows.key_starts[row], rows.key_starts[row + 1]):
        credit = columns.credit[rows.keys[at]][start:end]
        for x in range(n):
            sums[x] += np.int32(credit[x])
    if t.rows_are_mentors:
        shares = columns.share[start:end]
        for x in range(n):
            sums[x] = _product(sums[x], shares[x])
    else:
        share = rows.share[row]
        for x in range(n):
            sums[x] = _product(sums[x], share)
    levels, departments = columns.level[start:end], columns.department[start:end]
    bosses, patiences = columns.boss[start:end], columns.patience[start:end]
    percents = columns.percent[rows.site[row]][start:end]
    mets = columns.met[rows.taste[row]][start:end]
    level, department, boss = rows.level[row], rows.department[row], rows.boss[row]
    patience = rows.patience[row]
    sign = np.int32(-1) if t.rows_are_mentors else np.int32(1)
    boss = boss if t.different_boss and boss >= 0 else np.int32(-2)
    coverage, weight = np.int32(t.coverage_weight), np.int32(t.difference_weight)
    waiting, wish = np.int32(t.waiting_weight), np.int32(t.wish_weight)
    gap = np.int32(t.min_gap)
    department_percent = np.int32(DEPARTMENT)
    same = np.int32(NEVER if t.cross_department else 0)
    for x in range(n):
        below = np.int32(sign * np.int32(levels[x] - level))
        apart = min(max(below, np.int32(0)), np.int32(FAR_APART))
        other = departments[x] != department
        place = np.int32(percents[x])
        share = np.int32(place + np.int32(_STEP) * apart)
        share = np.int32(share + (department_percent if other else np.int32(0)))
        value = (
            points[x]
            + _product(sums[x], coverage)
            + _product(share, weight)
            + _product(np.int32(mets[x]), wish)
            + _product(np.int32(patience + patiences[x]) >> np.int32(1), waiting)
            + (np.int32(0) if other else same)
        )
        allowed = (below >= gap) & (bosses[x] != boss) & (place != np.int32(BARRED))
        scores[x] = value if allowed else np.int32(NEVER)
    if t.turns > 1 and rows.turn[row] >= 0:
        for x in range(n):
            if _other_way_round(row, start + x, rows, columns, t):
                scores[x] = NEVER
    for at in range(barred.starts[row], barred.starts[row + 1]):
        c = barred.columns[at]
        if start <= c < end:
            scores[c - start] = NEVER


@_compiled()
def _keep_best(keys: Longs, count: int, keep: int) -> None:
    """Move the `keep` largest of the first `count` keys, all different, to the front."""
    low, high = 0, count - 1
    while low < high:
        pivot = keys[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if keep - 1 <= j:
            high = j
        elif keep - 1 >= i:
            low = i
        else:
            return


@_compiled()
def _take(
    raw: Ints, start: int, end: int, keys: Longs, count: Integer, least: Integer, keep: int,
    row: int, width: int,
) -> tuple[Integer, Integer]:  # fmt: skip
    """Add to `keys` what is above `least`; return what is now, and how many keys there are.

    A key is score less price, and then the column, counted from the row's own number on: where
    many are alike, all rows would remember the same few.
    """
    first = row % width
    floor = np.int32(least >> 32)
    for strip in range(0, end - start, _STRIP):
        stop = min(strip + _STRIP, end - start)
        some = raw[strip:stop]
        top = some[0]
        for x in range(len(some)):
            top = max(top, some[x])
        if top < floor:
            continue
        for x in range(strip, stop):
            if raw[x] >= floor:
                steps = start + x - first
                steps = steps if steps >= 0 else steps + width
                key = (np.int64(raw[x]) << 32) | (_LAST - steps)
                if key > least:
                    keys[count] = key
                    count += 1
                    if count == len(keys):
                        _keep_best(keys, count, keep)
                        count = np.int64(keep)
                        least = keys[0]
                        for at in range(keep):
                            least = min(least, keys[at])
                        floor = np.int32(least >> 32)
    return least, count


@_compiled()
def _take_any(
    scores: Ints, start: int, end: int, first: Integer, any_of: Longs, count: Integer, most: int
) -> Integer:
    """Add columns from `first` on that are allowed, with their scores; return how many there are
    now.
    """
    for x in range(max(first - start, 0), end - start):
        if count == most:
            break
        if scores[x] >= 0:
            any_of[count] = (np.int64(start + x) << 32) | np.int64(scores[x])
            count += 1
    return count


@_compiled(parallel=True)
def best_columns(
    rows: Side, columns: Side, t: Tables, barred: Barred, prices: Ints, keep: int,
    firsts: Ints, others: int, found: Ints, scores: Ints,
) -> None:  # fmt: skip
    """Write each row's `keep` columns with the most score less price, and `others` that are
    allowed, from the row's first on, in the columns' order. Where there are fewer, -1 follows.
    """
    n_rows, n_columns = len(rows.level), len(columns.level)
    for chunk in prange((n_rows + _CHUNK - 1) // _CHUNK):
        first, last = chunk * _CHUNK, min(n_rows, (chunk + 1) * _CHUNK)
        points = np.empty(_BLOCK, np.int32)
        sums = np.empty(_BLOCK, np.int32)
        raw = np.empty(_BLOCK, np.int32)
        keys = np.empty((last - first, 4 * keep), np.int64)
        counts = np.zeros(last - first, np.int64)
        leasts = np.full(last - first, np.int64(NEVER >> 1) << 32)
        any_of = np.empty((last - first, others), np.int64)
        any_counts = np.zeros(last - first, np.int64)
        # A block of columns for all rows of the chunk: it is read from the nearest cache.
        for start in range(0, n_columns, _BLOCK):
            end = min(n_columns, start + _BLOCK)
            hours = tongues = -1
            some = False
            for row in range(first, last):
                if rows.hours[row] != hours or rows.tongues[row] != tongues:
                    hours, tongues = rows.hours[row], rows.tongues[row]
                    some = fill_points(row, rows, columns, t, start, end, points)
                if not some:
                    continue
                fill_block(row, rows, columns, t, barred, points, start, end, sums, raw)
                place = row - first
                if any_counts[place] < others and firsts[row] < end:
                    any_counts[place] = _take_any(
                        raw, start, end, firsts[row], any_of[place], any_counts[place], others
                    )
                asked = prices[start:end]
                for x in range(end - start):
                    raw[x] -= asked[x]
                leasts[place], counts[place] = _take(
                    raw, start, end, keys[place], counts[place], leasts[place], keep,
                    row, n_columns,
                )  # fmt: skip
        told = np.empty(keep + others, np.int64)
        for row in range(first, last):
            best = keys[row - first]
            count = counts[row - first]
            if count > keep:
                _keep_best(best, count, keep)
                count = np.int64(keep)
            for at in range(count):
                c = (_LAST - (best[at] & _LAST) + row) % n_columns
                told[at] = (c << 32) | ((best[at] >> 32) + prices[c])
            more = any_counts[row - first]
            told[count : count + more] = any_of[row - first, :more]
            count += more
            told[:count].sort()
            place = 0
            for at in range(count):
                if at == 0 or told[at] != told[at - 1]:
                    found[row, place] = told[at] >> 32
                    scores[row, place] = told[at] & _LAST
                    place += 1
            found[row, place:] = -1
            scores[row, place:] = NEVER


@_compiled()
def auction(
    starts: Longs, objects: Ints, values: Longs, seat_starts: Longs, step: int,
    prices: Longs, owners: Ints,
) -> None:  # fmt: skip
    """Let bidders bid until each has a seat or wants none.

    `values` of each bidder's `objects`; `prices` and `owners` (-1 for none) of the objects' seats:
    the prices at which bidding begins, and nobody. A bidder wants no seat that costs more than its
    value. Forward auction with similar objects:
    Bertsekas and Castanon, "The auction algorithm for the transportation problem", 1989.
    """
    n = len(starts) - 1
    queue = np.empty(n + 1, np.int32)
    head, tail = 0, n
    for bidder in range(n):
        queue[bidder] = bidder
    cheapest = np.empty(len(seat_starts) - 1, np.int64)
    second = np.empty(len(seat_starts) - 1, np.int64)
    where = np.empty(len(seat_starts) - 1, np.int32)
    for thing in range(len(cheapest)):
        _look(thing, seat_starts, prices, cheapest, second, where)
    while head != tail:
        bidder = queue[head]
        head = head + 1 if head < n else 0
        most, next_most, chosen = np.int64(0), np.int64(0), -1
        for at in range(starts[bidder], starts[bidder + 1]):
            thing = objects[at]
            net = values[at] - cheapest[thing]
            if net > next_most or (net == most and chosen < 0):
                if net > most or chosen < 0:
                    next_most = most
                    most = net
                    chosen = at
                else:
                    next_most = net
        if chosen < 0:
            continue
        thing = objects[chosen]
        next_most = max(next_most, values[chosen] - second[thing])
        seat = where[thing]
        prices[seat] += most - next_most + step
        loser = owners[seat]
        owners[seat] = bidder
        _look(thing, seat_starts, prices, cheapest, second, where)
        if loser >= 0:
            queue[tail] = loser
            tail = tail + 1 if tail < n else 0


_DEAR = 1 << 60


@_compiled()
def _look(
    thing: int, seat_starts: Longs, prices: Longs, cheapest: Longs, second: Longs, where: Ints
) -> None:
    low, next_low, seat = _DEAR, _DEAR, -1
    for place in range(seat_starts[thing], seat_starts[thing + 1]):
        if prices[place] < low:
            next_low = low
            low = prices[place]
            seat = place
        elif prices[place] < next_low:
            next_low = prices[place]
    cheapest[thing] = low
    second[thing] = next_low
    where[thing] = seat


@_compiled()
def widen(
    rows: Side, columns: Side, t: Tables, barred: Barred, wanting: Ints,
    seat_starts: Longs, owners: Ints, free_seats: Ints,
) -> int:  # fmt: skip
    """Seat as many of the `wanting` rows as can be, others moving over for them; return how many.

    A row stands in `wanting` once for each partner that it lacks. Rows and columns that a failed
    search has reached can help nobody after it and are not looked at again: what is left at the
    end is a largest matching (Koenig, 1931; Kuhn, "The Hungarian method", 1955).
    """
    n_rows, n_columns = len(rows.level), len(columns.level)
    blocks = (n_columns + _BLOCK - 1) // _BLOCK
    points = np.empty(_BLOCK, np.int32)
    sums = np.empty(_BLOCK, np.int32)
    scores = np.empty(_BLOCK, np.int32)
    reached = np.zeros(n_columns, np.bool_)
    reached_row = np.zeros(n_rows, np.bool_)
    by_row = np.full(n_columns, -1, np.int32)
    by_seat = np.full(n_rows, -1, np.int32)
    column_of = np.empty(len(owners), np.int32)
    open_columns = np.zeros(blocks, np.int32)
    for column in range(n_columns):
        open_columns[column // _BLOCK] += 1
        for seat in range(seat_starts[column], seat_starts[column + 1]):
            column_of[seat] = column
    queue = np.empty(n_rows + 1, np.int32)
    touched = np.empty(n_columns, np.int32)
    seated = 0
    for first in wanting:
        if reached_row[first]:
            continue
        head, tail, touches, end = 0, 1, 0, -1
        queue[0] = first
        reached_row[first] = True
        by_seat[first] = -1
        while head < tail and end < 0:
            row = queue[head]
            head += 1
            for b in range(blocks):
                if open_columns[b] == 0 or end >= 0:
                    continue
                start, stop = b * _BLOCK, min(n_columns, (b + 1) * _BLOCK)
                if not fill_points(row, rows, columns, t, start, stop, points):
                    continue
                fill_block(row, rows, columns, t, barred, points, start, stop, sums, scores)
                for column in range(start, stop):
                    if reached[column] or scores[column - start] < 0:
                        continue
                    mine = False
                    for seat in range(seat_starts[column], seat_starts[column + 1]):
                        mine |= owners[seat] == row
                    if mine:
                        continue
                    reached[column] = True
                    open_columns[b] -= 1
                    by_row[column] = row
                    touched[touches] = column
                    touches += 1
                    if free_seats[column] > 0:
                        end = column
                        break
                    for seat in range(seat_starts[column], seat_starts[column + 1]):
                        owner = owners[seat]
                        if not reached_row[owner]:
                            reached_row[owner] = True
                            by_seat[owner] = seat
                            queue[tail] = owner
                            tail += 1
        if end < 0:
            continue
        seated += 1
        free_seats[end] -= 1
        seat = int(seat_starts[end])
        while owners[seat] >= 0:
            seat += 1
        row = by_row[end]
        owners[seat] = row
        while by_seat[row] >= 0:
            seat = int(by_seat[row])
            row = by_row[column_of[seat]]
            owners[seat] = row
        for at in range(touches):
            reached[touched[at]] = False
            open_columns[touched[at] // _BLOCK] += 1
        for at in range(tail):
            reached_row[queue[at]] = False
    return seated


@_compiled(parallel=True)
def broken_rules(
    rows: Side, columns: Side, t: Tables, barred: Barred, people: Ints,
    counts: Ints, eligible: Ints, nearest: Longs,
) -> None:  # fmt: skip
    """Write how many columns each rule forbids to each of the people, how many none forbids, and
    the distance of the nearest (`reasons.distance`).
    """
    n_columns = len(columns.level)
    for place in prange(len(people)):
        row = people[place]
        why = np.zeros(n_columns, np.int32)
        for at in range(barred.starts[row], barred.starts[row + 1]):
            why[barred.columns[at]] = barred.why[at]
        by_hours, by_tongues = t.overlap[rows.hours[row]], t.tongues[rows.tongues[row]]
        short = t.short[rows.hours[row]]
        percent = columns.percent[rows.site[row]]
        sign = -1 if t.rows_are_mentors else 1
        boss = rows.boss[row] if t.different_boss else -1
        told = np.zeros(len(RULE_ORDER), np.int32)
        allowed = 0
        near = np.int64(NOBODY)
        for c in range(n_columns):
            bits = 0
            if sign * (columns.level[c] - rows.level[row]) < t.min_gap:
                bits |= LEVEL_GAP
            if t.cross_department and columns.department[c] == rows.department[row]:
                bits |= SAME_DEPARTMENT
            if boss >= 0 and columns.boss[c] == boss:
                bits |= SAME_BOSS
            if percent[c] == BARRED:
                bits |= CROSS_REGION
            if by_tongues[columns.tongues[c]] < 0:
                bits |= NO_COMMON_LANGUAGE
            if by_hours[columns.hours[c]] < 0:
                bits |= WORKING_HOURS
            bits |= why[c]
            rules = np.int64(0)
            for rule in range(len(told)):
                told[rule] += bits >> rule & 1
                rules += bits >> rule & 1
            if bits and not bits & UNTOLD_BITS:
                levels = t.min_gap - sign * (columns.level[c] - rows.level[row])
                far = rules << 40 | np.int64(bits) << 24
                far |= np.int64(min(max(levels, 0), MOST)) << 12
                far |= np.int64(min(short[columns.hours[c]], MOST))
                near = min(near, far)
            if bits == 0 and not _other_way_round(row, c, rows, columns, t):
                allowed += 1
        counts[place] = told
        eligible[place] = allowed
        nearest[place] = near


class Compiled:
    """The kernels as the rounds call them."""

    def best_columns(
        self, inst: Instance, prices: Ints, keep: int, others: int = 0, turn: int = 0
    ) -> tuple[Ints, Ints]:
        """Return each row's best columns at these prices, and others, and their scores; -1 where
        there are fewer.
        """
        found = np.empty((len(inst.rows.level), keep + others), dtype=np.int32)
        scores = np.empty_like(found)
        firsts = first_others(len(found), len(inst.columns.level), others, turn)
        best_columns(
            inst.rows, inst.columns, inst.tables, inst.barred,
            prices, keep, firsts, others, found, scores,
        )  # fmt: skip
        return found, scores

    def auction(self, offers: Offers, asked: Longs, step: int) -> tuple[Longs, Ints]:
        """Return the seats' prices, none below what is asked, and their owners, -1 for none."""
        prices = asked.copy()
        owners = np.full(offers.seat_starts[-1], -1, dtype=np.int32)
        auction(
            offers.starts, offers.objects, offers.values, offers.seat_starts, step, prices, owners
        )
        return prices, owners

    def widen(
        self, inst: Instance, wanting: Ints, seat_starts: Longs, owners: Ints, free_seats: Ints
    ) -> int:
        """Seat as many of those who want as can be, in `owners`; return how many."""
        if not len(wanting):
            return 0
        return int(
            widen(
                inst.rows, inst.columns, inst.tables, inst.barred,
                wanting, seat_starts, owners, free_seats,
            )
        )  # fmt: skip

    def broken_rules(self, inst: Instance, people: Ints) -> tuple[Ints, Ints, Longs]:
        """Return, for these rows, how many columns each rule forbids, how many are allowed, and
        the distance of the nearest.
        """
        counts = np.zeros((len(people), len(RULE_ORDER)), dtype=np.int32)
        eligible = np.zeros(len(people), dtype=np.int32)
        nearest = np.zeros(len(people), dtype=np.int64)
        broken_rules(
            inst.rows, inst.columns, inst.tables, inst.barred, people, counts, eligible, nearest
        )
        return counts, eligible, nearest
