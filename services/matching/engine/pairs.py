"""Pairs that were found: their terms, and what is told of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from services.matching.engine.columns import Ints
from services.matching.engine.instance import Instance, topics_of
from services.matching.engine.model import FoundPair, RuleCode
from services.matching.engine.score import DEPARTMENT, FAR_APART, LEVELS
from shared.events.programs import ScoreTerm


def pair_terms(inst: Instance, rows: Ints, columns: Ints) -> dict[ScoreTerm, Ints]:
    """Return every term's points of the pairs `rows[i]`, `columns[i]`; all must be allowed."""
    r, c, t = inst.rows, inst.columns, inst.tables
    keys = topics_of(r).of(rows)
    owners = keys.owners()
    credit = c.credit[keys.values, columns[owners]]
    tens = np.bincount(owners, weights=credit, minlength=len(rows)).astype(np.int64)
    share = c.share[columns] if t.rows_are_mentors else r.share[rows]
    below = c.level[columns] - r.level[rows]
    if t.rows_are_mentors:
        below = -below
    percent = c.percent[r.site[rows], columns] + (LEVELS // FAR_APART) * np.clip(
        below, 0, FAR_APART
    )
    percent = percent + DEPARTMENT * (c.department[columns] != r.department[rows])
    patience = (r.patience[rows] + c.patience[columns]) >> 1
    points = {
        "coverage": ((tens * share) >> 16) * t.coverage_weight >> 16,
        "difference": percent * t.difference_weight >> 16,
        "overlap": t.overlap[r.hours[rows], c.hours[columns]],
        "language": t.tongues[r.tongues[rows], c.tongues[columns]],
        "preference": c.met[r.taste[rows], columns].astype(np.int64) * t.wish_weight >> 16,
        "waiting": patience * t.waiting_weight >> 16,
    }
    return {term: told.astype(np.int32) for term, told in points.items()}  # type: ignore[misc]


def pair_scores(inst: Instance, rows: Ints, columns: Ints) -> Ints:
    """Return the scores of the pairs `rows[i]`, `columns[i]`; all must be allowed."""
    total = np.zeros(len(rows), dtype=np.int32)
    for points in pair_terms(inst, rows, columns).values():
        total += points
    return total


def found_pairs(
    mentors: Sequence[str],
    mentees: Sequence[str],
    terms: Mapping[ScoreTerm, NDArray[np.integer]],
    rules: tuple[RuleCode, ...],
) -> tuple[FoundPair, ...]:
    """Return a pair for each mentor with all of their mentees, by the mentor's id.

    `mentors[i]` has `mentees[i]`, and `terms` says what the two give each other.
    """
    places: dict[str, list[int]] = {}
    for place, mentor in enumerate(mentors):
        places.setdefault(mentor, []).append(place)
    pairs = []
    # Python's own numbers: an array's cost more than they save for one or two of them.
    by_term: dict[ScoreTerm, list[int]] = {term: told.tolist() for term, told in terms.items()}
    for mentor, taken in sorted(places.items()):
        points = {term: sum(told[place] for place in taken) for term, told in by_term.items()}
        pairs.append(
            FoundPair(
                mentor_id=mentor,
                mentee_ids=tuple(sorted(mentees[place] for place in taken)),
                score=sum(points.values()),
                terms=points,
                rules=rules,
            )
        )
    return tuple(pairs)


def mean(points: NDArray[np.integer]) -> float | None:
    """Return the mean; None of nothing."""
    return int(points.sum(dtype=np.int64)) / points.size if points.size else None
