"""The terms of given pairs, out of the columns that the kernels compare."""

import numpy as np

from services.matching.engine.columns import Ints, Lists
from services.matching.engine.instance import Instance
from services.matching.engine.score import DEPARTMENT, FAR_APART, LEVELS
from shared.events.programs import ScoreTerm


def pair_terms(inst: Instance, rows: Ints, columns: Ints) -> dict[ScoreTerm, Ints]:
    """Return every term's points of the pairs `rows[i]`, `columns[i]`; all must be allowed."""
    r, c, t = inst.rows, inst.columns, inst.tables
    keys = Lists(r.keys, np.diff(r.key_starts)).of(rows.astype(np.intp))
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
