"""The round: as many mentees matched as possible, then the highest total score, proved."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from services.matching.engine.columns import draw
from services.matching.engine.constraints import applied_rules, forbidden, unknown_fact
from services.matching.engine.fairness import people_by_group
from services.matching.engine.grid import Grid, Mask
from services.matching.engine.instance import RULE_ORDER
from services.matching.engine.large import solve_large
from services.matching.engine.model import (
    Candidate,
    Explanation,
    FoundPair,
    Policy,
    RepeatedError,
    Result,
    RuleCode,
    UnmatchedCode,
)
from services.matching.engine.optimum import pair_base
from services.matching.engine.pairs import found_pairs, mean
from services.matching.engine.reasons import NOBODY, code_of, distances, explanation
from services.matching.engine.score import Points, term_points
from services.matching.engine.watch import UNWATCHED, Watch
from shared.events.pairs import RoleCounts
from shared.events.programs import ScoreTerm

DENSE = 500 * 500
"""Up to here all pairs at once are faster than looking for the good ones."""


def solve(pool: Sequence[Candidate], policy: Policy, seed: int, watch: Watch = UNWATCHED) -> Result:
    """Match the pool's mentors and mentees under the policy's constraints.

    Most mentees matched first, then the highest total score. A mentee is in one pair at most, a
    mentor has at most `capacity` mentees, and who is both may be in a pair of each kind. Among
    equally good solutions the seed chooses; neither the pool's order nor the machine has a say.

    Two peers who could each mentor the other are only considered one way round, which the seed
    chooses, so that no two pairs join the same people.

    Small pools are solved as matrices of mentors by mentees, larger ones without (`solve_large`):
    those of thousands to the optimum, too, and others within the `gap` that comes with their
    result. Blocking, for minutes where the pool is a whole company: run it off the event loop, and
    `watch` it.

    Raises RepeatedError for a repeated participant.
    """
    places = sum(person.capacity for person in pool if person.role != "mentee")
    if places * sum(person.role != "mentor" for person in pool) > DENSE:
        found = solve_large(pool, policy, seed, watch=watch)
    else:
        found = solve_dense(pool, policy, seed)
    return replace(found, groups=people_by_group(pool))


def solve_dense(pool: Sequence[Candidate], policy: Policy, seed: int) -> Result:
    """Do what `solve` does with every pair in memory: exact.

    Raises RepeatedError for a repeated participant, OverflowError for a pool that is too large to
    be exact.
    """
    people = _in_drawn_order(pool, seed)
    unmatched: dict[str, UnmatchedCode] = {}
    known = []
    for person in people:
        reason = unknown_fact(person)
        if reason is None:
            known.append(person)
        else:
            unmatched[person.participant_id] = reason
    mentors = [person for person in known if person.role != "mentee"]
    mentees = [person for person in known if person.role != "mentor"]

    grid = Grid(mentors, mentees, policy)
    broken = np.zeros(grid.shape, dtype=np.int16)
    for code, mask in forbidden(grid):
        broken |= mask.astype(np.int16) << RULE_ORDER.index(code)
    allowed = (broken == 0) & ~_second_ways(grid)

    terms = term_points(grid)
    total = np.zeros(grid.shape, dtype=np.int32)
    for points in terms.values():
        total += points
    rows, columns = _assign(allowed, total, [mentor.capacity for mentor in mentors])

    matched = {mentors[row].participant_id for row in rows}
    matched |= {mentees[column].participant_id for column in columns}
    explained = _explained(grid, broken, allowed, matched)
    unmatched |= {who: code_of(why) for who, why in explained.items()}

    objective = int(total[rows, columns].sum())
    return Result(
        pairs=_pairs(grid, terms, rows, columns),
        unmatched=dict(sorted(unmatched.items())),
        pool=RoleCounts(
            mentors=sum(person.role != "mentee" for person in people),
            mentees=sum(person.role != "mentor" for person in people),
        ),
        matched=RoleCounts(mentors=len(np.unique(rows)), mentees=len(columns)),
        objective=objective,
        bound=objective,
        gap=0.0,
        mean_dissimilarity=mean(terms["difference"][rows, columns]),
        mean_dissimilarity_random=mean(terms["difference"][allowed]),
        explained=dict(sorted(explained.items())),
    )


def _explained(
    grid: Grid, broken: NDArray[np.int16], allowed: Mask, matched: set[str]
) -> dict[str, Explanation]:
    """Return why those who are not matched are not; in both roles, by all they could meet."""
    applied = applied_rules(grid.policy)
    tally: dict[str, dict[RuleCode, int]] = {}
    eligible: dict[str, int] = {}
    near: dict[str, int] = {}
    lacking = np.maximum(grid.policy.min_level_gap - grid.level_distance, 0)
    short = np.zeros_like(lacking)
    if "working_hours" in applied:
        short = np.maximum(grid.policy.min_overlap_minutes - grid.overlap, 0)
    for people, sides in (
        (grid.mentors, (broken, allowed, lacking, short)),
        (grid.mentees, (broken.T, allowed.T, lacking.T, short.T)),
    ):
        for place, person in enumerate(people):
            who = person.participant_id
            if who in matched:
                continue
            bits, free, levels, minutes = (side[place] for side in sides)
            each = bits[:, None] >> np.arange(len(RULE_ORDER)) & 1
            counts = tally.setdefault(who, dict.fromkeys(applied, 0))
            for rule in applied:
                counts[rule] += int(each[:, RULE_ORDER.index(rule)].sum())
            eligible[who] = eligible.get(who, 0) + int(free.sum())
            far = distances(each.sum(axis=1), bits, levels, minutes)
            near[who] = min(near.get(who, NOBODY), int(far.min(initial=NOBODY)))
    return {who: explanation(counts, eligible[who], near[who]) for who, counts in tally.items()}


def _in_drawn_order(pool: Sequence[Candidate], seed: int) -> list[Candidate]:
    # Equal solutions are told apart by the order of rows and columns, so the order is drawn.
    drawn = sorted(pool, key=lambda person: draw(seed, person.participant_id))
    if len({person.participant_id for person in drawn}) < len(drawn):
        raise RepeatedError("a participant is in the pool twice")
    return drawn


def _second_ways(grid: Grid) -> Mask:
    """Return the ways round that are left out between peers who could mentor each other.

    The peers stand in a circle, in drawn order, and each may mentor the half that follows.
    """
    mask = np.zeros(grid.shape, dtype=np.bool_)
    columns = {mentee.participant_id: column for column, mentee in enumerate(grid.mentees)}
    both = [row for row, mentor in enumerate(grid.mentors) if mentor.participant_id in columns]
    if grid.policy.min_level_gap > 0 or not both:
        return mask
    place = np.arange(len(both))
    steps = np.subtract.outer(place, place).T % len(both)
    opposite = (2 * steps == len(both)) & np.greater.outer(place, place)
    chosen = np.ix_(both, [columns[grid.mentors[row].participant_id] for row in both])
    mask[chosen] = (2 * steps > len(both)) | opposite
    mask[chosen] &= grid.level_distance[chosen] == 0
    return mask


def _assign(
    allowed: Mask, total: NDArray[np.int32], capacities: Sequence[int]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and columns of the best assignment: most of them, then the most points."""
    some_rows = np.flatnonzero(allowed.any(axis=1))
    columns = np.flatnonzero(allowed.any(axis=0))
    rows = np.repeat(
        some_rows, np.minimum(np.array(capacities, dtype=np.intp)[some_rows], len(columns))
    )
    if not rows.size:
        return rows, columns
    # A pair that is not allowed is worth nothing.
    base = pair_base(min(len(rows), len(columns)))
    places = np.ix_(rows, columns)
    values = np.where(allowed[places], total[places] + float(base), 0.0)
    chosen_rows, chosen_columns = linear_sum_assignment(values, maximize=True)
    worth = values[chosen_rows, chosen_columns] > 0
    return rows[chosen_rows[worth]], columns[chosen_columns[worth]]


def _pairs(
    grid: Grid,
    terms: Mapping[ScoreTerm, Points],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
) -> tuple[FoundPair, ...]:
    return found_pairs(
        [grid.mentors[row].participant_id for row in rows],
        [grid.mentees[column].participant_id for column in columns],
        {term: points[rows, columns] for term, points in terms.items()},
        applied_rules(grid.policy),
    )


def assess(mentor: Candidate, mentees: Sequence[Candidate], policy: Policy) -> FoundPair:
    """Score one given pair as a round would; whether it is allowed, `violations` says."""
    grid = Grid([mentor], mentees, policy)
    everybody = np.arange(len(mentees))
    return _pairs(grid, term_points(grid), np.zeros_like(everybody), everybody)[0]
