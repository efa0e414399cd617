"""Pools of any size, no matrix of all pairs: the optimum, or near it, and proved how near."""

from collections.abc import Iterable
from datetime import date
from typing import Any

import numpy as np

from services.matching.engine.assignment import (
    LEAST_PART,
    PROVED,
    Assignment,
    Kernels,
    assign,
)
from services.matching.engine.columns import Columns, pack
from services.matching.engine.constraints import applied_rules
from services.matching.engine.instance import RULE_ORDER, Instance, instance, sample, swapped
from services.matching.engine.model import (
    Candidate,
    Explanation,
    Policy,
    Result,
    UnmatchedCode,
)
from services.matching.engine.pairs import found_pairs, mean, pair_terms
from services.matching.engine.reasons import NOBODY, code_of, explanation
from services.matching.engine.watch import UNWATCHED, Progress, Watch
from shared.events.pairs import RoleCounts

_SAMPLE = 1_000


def default_kernels() -> Kernels:
    """Return the compiled kernels; where numba is not, the plain ones, which answer the same."""
    try:
        from services.matching.engine.compiled import Compiled
    except ImportError:
        from services.matching.engine.plain import Plain

        return Plain()
    return Compiled()


def solve_large(
    pool: Iterable[Candidate],
    policy: Policy,
    seed: int,
    kernels: Kernels | None = None,
    watch: Watch = UNWATCHED,
    *,
    proved_up_to: int = PROVED,
    least_part: int = LEAST_PART,
) -> Result:
    """Do what `solve` does, for pools of any size, with a total within `gap` of the largest.

    As many are matched as can be; up to `proved_up_to` pairs of places there is no gap, unless the
    watch's time is up. Prices are learned in parts that have `least_part` people of the larger
    side at least. Raises RepeatedError for a repeated participant.
    """
    columns = pack(pool, seed, policy.term_middle)
    inst = instance(columns, policy)
    kernels = kernels or default_kernels()
    if not len(inst.rows.level) or not len(inst.columns.level):
        none = np.zeros(0, dtype=np.int32)
        found = Assignment(none, none, none, 0)
    else:
        found = assign(inst, kernels, watch, proved_up_to=proved_up_to, least_part=least_part)
    watch.hear(Progress("explaining", 0.95, None))
    terms = pair_terms(inst, found.rows, found.columns)
    mentors, mentees = _ids(columns, inst, found)
    objective = int(found.scores.sum())
    explained = _explained(columns, inst, policy, kernels, {*mentors, *mentees})
    unmatched: dict[str, UnmatchedCode] = dict(columns.unknown)
    unmatched |= {who: code_of(why) for who, why in explained.items()}
    return Result(
        pairs=found_pairs(mentors, mentees, terms, applied_rules(policy)),
        unmatched=dict(sorted(unmatched.items())),
        pool=RoleCounts(mentors=columns.mentors_in_pool, mentees=columns.mentees_in_pool),
        matched=RoleCounts(mentors=len(set(mentors)), mentees=len(mentees)),
        objective=objective,
        bound=found.bound,
        gap=1 - objective / found.bound if found.bound else 0.0,
        mean_dissimilarity=mean(terms["difference"]),
        mean_dissimilarity_random=_random_dissimilarity(inst, kernels),
        explained=dict(sorted(explained.items())),
        limited=found.limited,
    )


def compile_all() -> None:
    """Solve a pool of four, so that everything is compiled and kept on disk."""
    facts: dict[str, Any] = {"department": "a", "timezone": "UTC", "languages": ("en",)}
    pool = [
        Candidate(participant_id="a", person_id="a", role="mentor", level=2, **facts),
        Candidate(participant_id="b", person_id="b", role="mentor", level=2, **facts),
        Candidate(participant_id="c", person_id="c", role="mentee", level=0, **facts),
        Candidate(participant_id="d", person_id="d", role="mentee", level=1, **facts),
    ]
    policy = Policy(
        min_level_gap=2,
        cross_department=False,
        different_boss=False,
        cross_region=True,
        min_overlap_minutes=0,
        term_middle=date(2026, 1, 1),
    )
    solve_large(pool, policy, 0)


def _ids(columns: Columns, inst: Instance, found: Assignment) -> tuple[list[str], list[str]]:
    """Return the pairs' mentors and mentees."""
    rows = [columns.ids[person] for person in inst.rows.people[found.rows].tolist()]
    others = [columns.ids[person] for person in inst.columns.people[found.columns].tolist()]
    return (rows, others) if inst.tables.rows_are_mentors else (others, rows)


def _explained(
    columns: Columns, inst: Instance, policy: Policy, kernels: Kernels, matched: set[str]
) -> dict[str, Explanation]:
    """Return why those known who are not matched are not; in both roles, by all they could meet."""
    applied = applied_rules(policy)
    tally = np.zeros((len(columns.ids), len(RULE_ORDER)), dtype=np.int64)
    left = np.zeros(len(columns.ids), dtype=np.int64)
    near = np.full(len(columns.ids), NOBODY, dtype=np.int64)
    waits = np.array([who not in matched for who in columns.ids], dtype=np.bool_)
    for side in (inst, swapped(inst)):
        people = np.flatnonzero(waits[side.rows.people]).astype(np.int32)
        counts, eligible, nearest = kernels.broken_rules(side, people)
        persons = side.rows.people[people]
        tally[persons] += counts
        left[persons] += eligible
        near[persons] = np.minimum(near[persons], nearest)
    found: dict[str, Explanation] = {}
    for person in np.flatnonzero(waits).tolist():
        by_rule = dict(zip(RULE_ORDER, tally[person].tolist(), strict=True))
        found[columns.ids[person]] = explanation(
            {rule: by_rule[rule] for rule in applied},
            int(left[person]),
            int(near[person]),
        )
    return found


def _random_dissimilarity(inst: Instance, kernels: Kernels) -> float | None:
    """Return the mean points of difference over all eligible pairs among some drawn people."""
    if not len(inst.rows.level) or not len(inst.columns.level):
        return None
    smaller, _ = sample(inst, _SAMPLE)
    nobody = np.zeros(len(smaller.columns.level), dtype=np.int32)
    found, _ = kernels.best_columns(smaller, nobody, len(nobody))
    rows, places = np.nonzero(found >= 0)
    told = pair_terms(smaller, rows.astype(np.int32), found[rows, places])
    return mean(told["difference"])
