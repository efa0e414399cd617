"""Our engine on one instance, in a process of its own: times, memory, gap, and files for peers."""

import json
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, prange

from services.matching.engine.assignment import FINE, SCALE, Kernels, assign, sell
from services.matching.engine.columns import Lists, Offers, pack, starts_of
from services.matching.engine.compiled import fill_block, fill_points
from services.matching.engine.instance import Barred, Instance, Side, Tables, instance
from services.matching.engine.large import compile_all, default_kernels
from services.matching.engine.pairs import pair_scores
from tests.load.matching.pools import POLICY, Shape, pool

KEEP = 32
BONUS = 2_000


@njit(parallel=True, cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def all_scores(rows: Side, columns: Side, t: Tables, barred: Barred, scores: Any) -> None:
    """Write every pair's score, below zero where it is not allowed."""
    n = len(columns.level)
    for row in prange(len(rows.level)):
        points = np.empty(n, np.int32)
        sums = np.empty(n, np.int32)
        told = np.empty(n, np.int32)
        fill_points(row, rows, columns, t, 0, n, points)
        fill_block(row, rows, columns, t, barred, points, 0, n, sums, told)
        for column in range(n):
            scores[row, column] = max(told[column], -1)


def main() -> None:
    """Solve the instance that the arguments name and print what was measured, as JSON."""
    mentors, mentees, seed = map(int, sys.argv[1:4])
    shape: Any = sys.argv[4]
    files = {name: Path(file) for name, _, file in (told.partition("=") for told in sys.argv[5:])}
    print(json.dumps(measure(mentors, mentees, seed, shape, files)))  # noqa: T201


def measure(
    mentors: int, mentees: int, seed: int, shape: Shape, files: Mapping[str, Path]
) -> dict[str, Any]:
    """Return times in seconds, peak memory in MB, total, bound and gap.

    After that, what peers are to solve is written: all scores to `dense`, each row's best columns
    to `graph`, and the auction on it is measured, too.
    """
    compile_all()
    columns = pack(pool(mentors, mentees, seed, shape), 1, POLICY.term_middle)
    kernels = default_kernels()
    pool_mb = _peak_mb()
    started = time.perf_counter()
    inst = instance(columns, POLICY)
    prepared = time.perf_counter()
    found = assign(inst, kernels)
    ended = time.perf_counter()
    total = int(found.scores.sum())
    told = {
        "prepare_seconds": prepared - started,
        "assign_seconds": ended - prepared,
        "seconds": ended - started,
        "peak_mb": _peak_mb(),
        "pool_mb": pool_mb,
        "pairs": len(found.rows),
        "objective": total,
        "bound": found.bound,
        "gap": 1 - total / found.bound if found.bound else 0.0,
    }
    if "dense" in files:
        told["scoring_seconds"] = _write(inst, files["dense"])
    if "graph" in files:
        told |= _graph(inst, kernels, files["graph"])
    return told


def _graph(inst: Instance, kernels: Kernels, file: Path) -> dict[str, Any]:
    found, scores = kernels.best_columns(inst, np.zeros(len(inst.columns.level), np.int32), KEEP)
    known = found >= 0
    rows = np.broadcast_to(np.arange(len(found), dtype=np.int64)[:, None], found.shape)[known]
    np.savez(
        file, rows=rows, columns=found[known], scores=scores[known], row_seats=inst.row_seats,
        column_seats=inst.column_seats,
    )  # fmt: skip
    starts = starts_of(known.sum(axis=1))
    bidders = np.repeat(np.arange(len(found)), inst.row_seats)
    lists = Lists(np.arange(len(rows), dtype=np.int32), np.diff(starts)).of(bidders)
    seats = starts_of(inst.column_seats)
    started = time.perf_counter()
    values = (scores[known][lists.values].astype(np.int64) + BONUS) * SCALE
    offers = Offers(lists.starts, found[known][lists.values], values, seats)
    nothing = np.zeros(seats[-1], dtype=np.int64)
    _, owners = sell(kernels, offers, nothing, FINE)
    seconds = time.perf_counter() - started
    taken = np.flatnonzero(owners >= 0)
    column_of = np.repeat(np.arange(len(inst.column_seats), dtype=np.int32), inst.column_seats)
    points = pair_scores(inst, bidders[owners[taken]].astype(np.int32), column_of[taken])
    return {
        "auction_seconds": seconds,
        "auction_pairs": len(taken),
        "auction_objective": int(points.sum()),
    }


def _write(inst: Instance, file: Path) -> float:
    """Write all scores as int16, rows with several seats as often; return how long they took."""
    scores = np.empty((len(inst.rows.level), len(inst.columns.level)), dtype=np.int16)
    all_scores(inst.rows, inst.columns, inst.tables, inst.barred, scores[:0])
    started = time.perf_counter()
    all_scores(inst.rows, inst.columns, inst.tables, inst.barred, scores)
    seconds = time.perf_counter() - started
    np.save(file, scores)
    return seconds


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
