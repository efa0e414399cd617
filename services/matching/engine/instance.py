"""One matching as a problem of bidders and objects: the arrays that both kernels read."""

from collections.abc import Iterator
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from services.matching.engine.columns import FORMATS, UNKNOWN, Columns, Ints, Lists, starts_of
from services.matching.engine.hours import overlap_minutes
from services.matching.engine.model import Policy, RuleCode
from services.matching.engine.score import (
    COUNTRY,
    CREDIT,
    LANGUAGE_COMMON,
    LANGUAGE_FIRST,
    OFFERED,
    PLENTY,
    REGION,
    WISH,
    content,
)

NEVER = -(1 << 29)
"""Less than any score, with room for prices below it: the pair is not allowed."""

BARRED = 255
"""Instead of a percent of difference: the places are not allowed together."""

Bytes = NDArray[np.uint8]


class Side(NamedTuple):
    """One side's people, like hours and languages together, then in drawn order.

    `people` are the places in the pool's columns. `keys` from `key_starts` are the rows of the
    other side's `credit` that this person's topics add up, and `share` is what the sum is
    multiplied with to be a mean, in 65536ths, on the mentees' side. `site` and `taste` are the
    rows of the other side's `percent` and `met`.
    """

    people: Ints
    hours: Ints
    tongues: Ints
    site: Ints
    taste: Ints
    level: Ints
    department: Ints
    boss: Ints
    patience: Ints
    turn: Ints
    key_starts: NDArray[np.int64]
    keys: Ints
    share: Ints
    credit: Bytes
    percent: Bytes
    met: Bytes


class Tables(NamedTuple):
    """Points by both sides' hours and languages, `NEVER` where a rule forbids them; the policy.

    Weights are in 65536ths a percent, and of preference in 65536ths a wish.
    """

    overlap: Ints
    short: Ints
    """The minutes of a day that lack where the policy asks for more than both sides share."""
    tongues: Ints
    coverage_weight: int
    difference_weight: int
    waiting_weight: int
    wish_weight: int
    min_gap: int
    cross_department: bool
    different_boss: bool
    turns: int
    rows_are_mentors: bool


class Barred(NamedTuple):
    """By row of the instance the columns that no policy allows, in order, and why, as bits."""

    starts: NDArray[np.int64]
    columns: Ints
    why: Ints


class Instance(NamedTuple):
    """Bidders are the rows, objects the columns; `seats` is how many partners each may have."""

    rows: Side
    columns: Side
    tables: Tables
    barred: Barred
    row_seats: Ints
    column_seats: Ints


RULE_ORDER: tuple[RuleCode, ...] = get_args(RuleCode)
(
    LEVEL_GAP, REPORTING_LINE, SAME_DEPARTMENT, SAME_BOSS, CROSS_REGION,
    NO_COMMON_LANGUAGE, WORKING_HOURS, FORMER_PARTNER, VETO, SAME_PERSON,
) = (1 << place for place in range(10))  # fmt: skip
"""The rules as bits, in the order of `RULE_ORDER`."""
UNTOLD_BITS = VETO | SAME_PERSON
"""Those that nobody is told of: they would say that somebody does not want them."""


def _ranked(*facts: Ints) -> tuple[NDArray[np.intp], Ints]:
    """Return what stands first of each kind, and everybody's kind: numbers by first appearance."""
    together = np.stack(facts, axis=1)
    _, first, kind_of = np.unique(together, axis=0, return_index=True, return_inverse=True)
    by_first = np.argsort(first)
    rank = np.empty(len(first), dtype=np.int32)
    rank[by_first] = np.arange(len(first), dtype=np.int32)
    return first[by_first], rank[kind_of.reshape(-1)]


def _in_order(columns: Columns, people: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the people with like hours, then like languages together, else as drawn."""
    _, hours = _ranked(columns.hours[people])
    _, tongues = _ranked(columns.tongues[people])
    return people[np.lexsort((tongues, hours))]


def _credit(lists: Lists, people: NDArray[np.intp], codes: Ints, *, taught: bool) -> Bytes:
    """Return, for each topic and proficiency of the other side, tenths of a topic's credit.

    `taught` says that these people are mentors and the codes what mentees want.
    """
    mine = lists.of(people)
    owners, topics, levels = mine.owners(), mine.values // 8, mine.values % 8
    credit = np.zeros((len(codes), len(people)), dtype=np.uint8)
    by_topic = np.argsort(topics, kind="stable")
    starts = np.searchsorted(topics[by_topic], np.arange(codes.max(initial=0) // 8 + 2))
    for place, code in enumerate(codes.tolist()):
        topic, level = divmod(code, 8)
        told = by_topic[starts[topic] : starts[topic + 1]]
        steps = levels[told] - level if taught else level - levels[told]
        credit[place, owners[told]] = CREDIT[np.clip(steps, 0, 4)] // 10
    return credit


def _side(
    columns: Columns,
    policy: Policy,
    people: NDArray[np.intp],
    others: NDArray[np.intp],
    turn: Ints,
    *,
    mentors: bool,
) -> Side:
    """Return a side; its `people` and the `others` are in order."""
    mine, theirs = (columns.teaches, columns.wants) if mentors else (columns.wants, columns.teaches)
    lists = mine.of(people)
    counts = np.maximum(np.diff(columns.wants.of(people).starts), 1)
    # The mean of tens is rounded down: 65536ths, rounded up, are exact up to 60 topics.
    share = np.zeros(len(people)) if mentors else -(-10 * 65536 // counts)
    sites, _ = _ranked(columns.region[others], columns.country[others])
    tastes, _ = _ranked(*_taste(columns, others))
    _, site = _ranked(columns.region[people], columns.country[people])
    _, taste = _ranked(*_taste(columns, people))
    return Side(
        people=people.astype(np.int32),
        hours=columns.hours[people],
        tongues=columns.tongues[people],
        site=site,
        taste=taste,
        level=columns.level[people],
        department=columns.department[people],
        boss=columns.boss[people],
        patience=columns.patience[people],
        turn=turn[people],
        key_starts=lists.starts,
        keys=np.searchsorted(np.unique(lists.values), lists.values).astype(np.int32),
        share=share.astype(np.int32),
        credit=_credit(mine, people, np.unique(theirs.of(others).values), taught=mentors),
        percent=_percent(columns, policy, people, others[sites]),
        met=_met(columns, people, others[tastes], mentors=mentors),
    )


def _taste(columns: Columns, people: NDArray[np.intp]) -> tuple[Ints, ...]:
    circle = (columns.capacity[people] > 1).astype(np.int32)
    return columns.region[people], columns.format[people], circle, columns.wishes[people]


def _percent(
    columns: Columns, policy: Policy, people: NDArray[np.intp], others: NDArray[np.intp]
) -> Bytes:
    """Return the percent of difference that each of the others' places gives, or `BARRED`."""
    percent = np.empty((len(others), len(people)), dtype=np.uint8)
    region, country = columns.region[people], columns.country[people]
    for row, (there, land) in enumerate(
        zip(columns.region[others], columns.country[others], strict=True)
    ):
        apart = (region != there) & (region != UNKNOWN) & (there != UNKNOWN)
        abroad = (country != land) & (country != UNKNOWN) & (land != UNKNOWN)
        percent[row] = np.where(apart, REGION, np.where(abroad, COUNTRY, 0))
        if not policy.cross_region:
            percent[row, (region != there) | (region == UNKNOWN)] = BARRED
    return percent


def _met(
    columns: Columns, people: NDArray[np.intp], others: NDArray[np.intp], *, mentors: bool
) -> Bytes:
    """Return how many of both sides' four wishes are met: two formats and two regions."""
    places = 1 + max(
        columns.region.max(initial=0), max(map(max, filter(None, columns.wished)), default=0)
    )
    # Who wishes for none is content with any; the last column is an unknown region.
    wished = np.zeros((len(columns.wished), places + 1), dtype=np.uint8)
    for row, regions in enumerate(columns.wished):
        wished[row, list(regions) if regions else slice(None)] = 1
    suits = np.array(
        [[content(wish, offered) for offered in OFFERED] for wish in FORMATS], dtype=np.uint8
    )
    region, form, circle, wishes = _taste(columns, people)
    met = np.empty((len(others), len(people)), dtype=np.uint8)
    for row, (there, their_form, their_circle, their_wishes) in enumerate(
        zip(*_taste(columns, others), strict=True)
    ):
        offered = circle if mentors else their_circle
        met[row] = suits[form, offered] + suits[their_form, offered]
        met[row] += wished[their_wishes, region] + wished[wishes, there]
    return met


def instance(columns: Columns, policy: Policy) -> Instance:
    """Return the problem of a pool, the side with fewer seats as bidders."""
    mentors = np.flatnonzero(columns.may_mentor)
    mentees = np.flatnonzero(columns.may_be_mentored)
    seats = np.minimum(columns.capacity, max(len(mentees), 1)).astype(np.int32)
    rows_are_mentors = int(seats[mentors].sum(dtype=np.int64)) < len(mentees)
    mentors, mentees = _in_order(columns, mentors), _in_order(columns, mentees)
    turn = _turns(columns, policy)
    mentor_side = _side(columns, policy, mentors, mentees, turn, mentors=True)
    mentee_side = _side(columns, policy, mentees, mentors, turn, mentors=False)
    one = np.ones(len(mentees), dtype=np.int32)
    rows, cols = (mentor_side, mentee_side) if rows_are_mentors else (mentee_side, mentor_side)
    return Instance(
        rows=rows,
        columns=cols,
        tables=_tables(columns, policy, int(turn.max(initial=-1)) + 1, rows_are_mentors),
        barred=_barred(columns, rows, cols),
        row_seats=seats[mentor_side.people] if rows_are_mentors else one,
        column_seats=one if rows_are_mentors else seats[mentor_side.people],
    )


def _turns(columns: Columns, policy: Policy) -> Ints:
    """Return the places in the circle of peers who could each mentor the other."""
    turn = np.full(len(columns.ids), UNKNOWN, dtype=np.int32)
    if policy.min_level_gap <= 0:
        both = np.flatnonzero(columns.may_mentor & columns.may_be_mentored)
        turn[both] = np.arange(len(both), dtype=np.int32)
    return turn


def _tables(columns: Columns, policy: Policy, turns: int, rows_are_mentors: bool) -> Tables:
    minutes = overlap_minutes(columns.weeks, columns.weeks)
    if not rows_are_mentors:
        minutes = np.ascontiguousarray(minutes.T)
    shared = 100 * np.minimum(minutes, PLENTY) // PLENTY
    overlap = policy.weight("overlap") * shared // 100
    overlap[minutes < policy.min_overlap_minutes] = NEVER
    words = 1 + max(map(max, filter(None, columns.spoken)), default=0)
    spoken = np.zeros((len(columns.spoken), words), dtype=np.int32)
    for place, tags in enumerate(columns.spoken):
        spoken[place, list(tags)] = 1
    first = np.array([tags[0] if tags else UNKNOWN for tags in columns.spoken], dtype=np.int64)
    by_first = np.where(first >= 0, spoken[:, first], 0)
    share = LANGUAGE_COMMON + LANGUAGE_FIRST * (by_first + by_first.T)
    tongues = policy.weight("language") * share // 100
    tongues[spoken @ spoken.T == 0] = NEVER
    return Tables(
        overlap=overlap.astype(np.int32),
        short=np.maximum(policy.min_overlap_minutes - minutes, 0).astype(np.int32),
        tongues=tongues.astype(np.int32),
        coverage_weight=_fraction(policy.weight("coverage")),
        difference_weight=_fraction(policy.weight("difference")),
        waiting_weight=_fraction(policy.weight("waiting")),
        wish_weight=_fraction(policy.weight("preference") * WISH),
        min_gap=policy.min_level_gap,
        cross_department=policy.cross_department,
        different_boss=policy.different_boss,
        turns=turns,
        rows_are_mentors=rows_are_mentors,
    )


def _fraction(weight: int) -> int:
    # Rounded up, so that whole percents of it are exact when 65536ths are dropped.
    return -(-weight * 65536 // 100)


def _barred(columns: Columns, rows: Side, cols: Side) -> Barred:
    owners, partners, why = [], [], []
    for bit, lists in (
        (REPORTING_LINE, columns.chain),
        (FORMER_PARTNER, columns.former),
        (VETO, columns.vetoes),
        (SAME_PERSON, None),
    ):
        for side, other, swapped in ((rows, cols, False), (cols, rows, True)):
            if lists is None:
                named = Lists(columns.person[side.people], np.ones(len(side.people), np.int64))
            else:
                named = lists.of(side.people.astype(np.intp))
            places = _places(columns.person[other.people], columns.persons)
            found = np.diff(places.starts)[named.values]
            who = np.repeat(named.owners(), found)
            whom = places.of(named.values.astype(np.intp)).values
            owners.append(whom if swapped else who)
            partners.append(who if swapped else whom)
            why.append(np.full(len(who), bit, dtype=np.int32))
    row, column, bits = (np.concatenate(parts) for parts in (owners, partners, why))
    pair = row.astype(np.int64) * max(len(cols.people), 1) + column
    pairs, first = np.unique(pair, return_inverse=True)
    merged = np.zeros(len(pairs), dtype=np.int32)
    np.bitwise_or.at(merged, first.reshape(-1), bits)
    starts = np.searchsorted(pairs, np.arange(len(rows.people) + 1) * max(len(cols.people), 1))
    return Barred(
        starts.astype(np.int64), (pairs % max(len(cols.people), 1)).astype(np.int32), merged
    )


def _places(person: Ints, persons: int) -> Lists:
    """Return the places of each person: most have one or none."""
    order = np.argsort(person, kind="stable").astype(np.int32)
    return Lists(order, np.bincount(person, minlength=persons).astype(np.int64))


def topics_of(side: Side) -> Lists:
    """Return each person's `keys`."""
    return Lists(side.keys, np.diff(side.key_starts))


def part(side: Side, chosen: NDArray[np.intp]) -> Side:
    """Return a side with the chosen people alone; `site`, `taste` and `keys` mean the same."""
    lists = topics_of(side).of(chosen)
    return Side(
        people=side.people[chosen],
        hours=side.hours[chosen],
        tongues=side.tongues[chosen],
        site=side.site[chosen],
        taste=side.taste[chosen],
        level=side.level[chosen],
        department=side.department[chosen],
        boss=side.boss[chosen],
        patience=side.patience[chosen],
        turn=side.turn[chosen],
        key_starts=lists.starts,
        keys=lists.values,
        share=side.share[chosen],
        credit=np.ascontiguousarray(side.credit[:, chosen]),
        percent=np.ascontiguousarray(side.percent[:, chosen]),
        met=np.ascontiguousarray(side.met[:, chosen]),
    )


def first_others(rows: int, columns: int, others: int, turn: int) -> Ints:
    """Return the column from which on each row takes `others` that are allowed, another one in
    each `turn`: drawn evenly from a few places before the first column to the last, so that the
    first ones have their share.
    """
    drawn = (np.arange(rows, dtype=np.int64) * 0x9E3779B1 + turn * 0x85EBCA77) & 0xFFFFFFFF
    before = min(4 * others, columns)
    return (((drawn * (columns + before)) >> 32) - before).astype(np.int32)


def sample(inst: Instance, size: int) -> tuple[Instance, NDArray[np.intp]]:
    """Return a smaller problem of about `size` drawn people a side, and which columns it has.

    Each side keeps its share, so that what is scarce stays so.
    """
    most = max(len(inst.rows.people), len(inst.columns.people))
    rows, columns = (
        np.sort(drawn[: max(1, len(drawn) * size // most)]) for drawn in _as_drawn(inst)
    )
    return _among(inst, rows, columns), columns


def parts(
    inst: Instance, number: int
) -> Iterator[tuple[Instance, NDArray[np.intp], NDArray[np.intp]]]:
    """Yield so many smaller problems of drawn people, with their rows and columns.

    Everybody is in one of them, and each has its share of both sides.
    """
    rows, columns = _as_drawn(inst)
    for first in range(number):
        of_rows, of_columns = np.sort(rows[first::number]), np.sort(columns[first::number])
        yield _among(inst, of_rows, of_columns), of_rows, of_columns


def _as_drawn(inst: Instance) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and the columns in the order in which the people were drawn."""
    return (
        np.argsort(inst.rows.people, kind="stable"),
        np.argsort(inst.columns.people, kind="stable"),
    )


def _among(inst: Instance, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Instance:
    """Return the problem of some rows and columns alone."""
    lists = Lists(inst.barred.columns, np.diff(inst.barred.starts)).of(rows)
    places = np.full(len(inst.columns.people), UNKNOWN, dtype=np.int32)
    places[columns] = np.arange(len(columns), dtype=np.int32)
    barred = places[lists.values]
    kept = barred >= 0
    starts = starts_of(kept)[lists.starts]
    return inst._replace(
        rows=part(inst.rows, rows),
        columns=part(inst.columns, columns),
        barred=Barred(starts, barred[kept], np.zeros(int(kept.sum()), dtype=np.int32)),
        row_seats=inst.row_seats[rows],
        column_seats=inst.column_seats[columns],
    )


def swapped(inst: Instance) -> Instance:
    """Return the same problem with rows and columns exchanged."""
    width = len(inst.columns.people)
    owners = Lists(inst.barred.columns, np.diff(inst.barred.starts)).owners()
    order = np.argsort(inst.barred.columns, kind="stable")
    starts = np.searchsorted(inst.barred.columns[order], np.arange(width + 1))
    return Instance(
        rows=inst.columns,
        columns=inst.rows,
        tables=inst.tables._replace(
            overlap=np.ascontiguousarray(inst.tables.overlap.T),
            short=np.ascontiguousarray(inst.tables.short.T),
            rows_are_mentors=not inst.tables.rows_are_mentors,
        ),
        barred=Barred(starts.astype(np.int64), owners[order], inst.barred.why[order]),
        row_seats=inst.column_seats,
        column_seats=inst.row_seats,
    )
