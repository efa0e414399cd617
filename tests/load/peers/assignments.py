"""What others make of the same matching: `python -m tests.load.peers.assignments NAME FILE`.

FILE holds what is already scored: a matrix of int16 (`.npy`, below zero is not allowed) or a sparse
graph (`.npz`). Each runs in an environment of its own and prints what it measured as JSON.
"""

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# One pair more outweighs the points of any other choice in all but odd cases: counts are compared.
BONUS = 2_000
Found = tuple[Any, Any]


def scipy_dense(scores: Any) -> Found:
    """SciPy's linear_sum_assignment, float64."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(_worth(scores, np.float64), maximize=True)
    return rows, columns


def lapx_dense(scores: Any) -> Found:
    """lapx' lapjvs, float32."""
    import lap

    worth = _worth(scores, np.float32)
    np.negative(worth, out=worth)
    _, rows, columns = lap.lapjvs(worth)
    return rows, columns


def mentor_match(scores: Any) -> Found:
    """mentor-match with a rule that looks the score up."""
    from matching.mentee import Mentee
    from matching.mentor import Mentor
    from matching.process import process_data
    from matching.rules.rule import Disqualify

    told = scores.tolist()

    class Looked:
        def evaluate(self, match: Any) -> bool:
            return True

        def apply(self, match: Any) -> int:
            worth: int = told[match.mentee.place][match.mentor.place]
            return worth + BONUS

    def person(kind: Any, place: int) -> Any:
        made = kind(grade=1, email=f"{kind.__name__}-{place}")
        made.place = place
        return made

    mentors = [person(Mentor, place) for place in range(len(told[0]))]
    mentees = [person(Mentee, place) for place in range(len(told))]
    rules = [Looked(), Disqualify(lambda m: told[m.mentee.place][m.mentor.place] < 0)]
    process_data(mentors, mentees, [rules])
    pairs = [(mentee.place, mentor.place) for mentee in mentees for mentor in mentee.mentors]
    return tuple(np.array(pairs, dtype=int).reshape(-1, 2).T)  # type: ignore[return-value]


def hospital_resident(scores: Any) -> Found:
    """`matching`'s stable matching on each side's best 32."""
    from matching.games import HospitalResident

    sys.setrecursionlimit(10_000_000)
    keep = 32
    allowed = np.zeros(scores.shape, dtype=bool)
    for axis in (0, 1):
        best = np.argpartition(-scores.astype(np.int32), keep, axis=axis)
        best = np.take(best, range(keep), axis=axis)
        np.put_along_axis(allowed, best, True, axis=axis)
    allowed &= scores >= 0
    residents, hospitals = {}, {}
    for row in np.flatnonzero(allowed.any(axis=1)).tolist():
        mine = np.flatnonzero(allowed[row])
        residents[f"r{row}"] = [
            f"h{c}" for c in mine[np.argsort(-scores[row, mine], kind="stable")]
        ]
    for column in np.flatnonzero(allowed.any(axis=0)).tolist():
        mine = np.flatnonzero(allowed[:, column])
        order = np.argsort(-scores[mine, column], kind="stable")
        hospitals[f"h{column}"] = [f"r{r}" for r in mine[order]]
    game = HospitalResident.create_from_dictionaries(
        residents, hospitals, dict.fromkeys(hospitals, 1)
    )
    solved = game.solve()
    pairs = [
        (int(resident.name[1:]), int(hospital.name[1:]))
        for hospital, taken in solved.items()
        for resident in taken
    ]
    return tuple(np.array(pairs, dtype=int).reshape(-1, 2).T)  # type: ignore[return-value]


def _worth(scores: Any, kind: Any) -> Any:
    worth = scores.astype(kind)
    worth += BONUS
    worth[scores < 0] = 0
    return worth


def min_cost_flow(file: str) -> dict[str, Any]:
    """OR-Tools' SimpleMinCostFlow on a sparse graph: source, rows, columns, sink."""
    from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

    with np.load(file) as told:
        rows, columns, scores = told["rows"], told["columns"], told["scores"]
        row_seats, column_seats = told["row_seats"], told["column_seats"]
    started = time.perf_counter()
    n, m = len(row_seats), len(column_seats)
    source, sink = n + m, n + m + 1
    flow = SimpleMinCostFlow()
    flow.add_arcs_with_capacity_and_unit_cost(
        np.full(n, source), np.arange(n), row_seats, np.zeros(n, dtype=int)
    )
    pairs = flow.add_arcs_with_capacity_and_unit_cost(
        rows, n + columns, np.ones(len(rows), dtype=int), -(scores.astype(int) + BONUS)
    )
    flow.add_arcs_with_capacity_and_unit_cost(
        n + np.arange(m), np.full(m, sink), column_seats, np.zeros(m, dtype=int)
    )
    # Who has no partner goes to the sink past everybody.
    flow.add_arcs_with_capacity_and_unit_cost(
        np.arange(n), np.full(n, sink), row_seats, np.zeros(n, dtype=int)
    )
    supplies = np.zeros(n + m + 2, dtype=int)
    supplies[source], supplies[sink] = row_seats.sum(), -row_seats.sum()
    flow.set_nodes_supplies(np.arange(n + m + 2), supplies)
    status = flow.solve()
    if status != flow.OPTIMAL:
        raise SystemExit(f"no optimum: status {status}")
    taken = flow.flows(pairs) > 0
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds, "pairs": int(taken.sum()), "objective": int(scores[taken].sum())
    }  # fmt: skip


DENSE: dict[str, tuple[str, Callable[[Any], Found]]] = {
    "scipy": ("scipy.optimize", scipy_dense),
    "lapx": ("lap", lapx_dense),
    "mentor-match": ("matching.process", mentor_match),
    "matching": ("matching.games", hospital_resident),
}


def main() -> None:
    """Solve the file's instance in the way that the first argument names."""
    name, file = sys.argv[1:3]
    told = min_cost_flow(file) if name == "ortools" else _dense(name, file)
    told["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(told))  # noqa: T201


def _dense(name: str, file: str) -> dict[str, Any]:
    scores = np.load(file)
    module, solve = DENSE[name]
    importlib.import_module(module)
    started = time.perf_counter()
    rows, columns = solve(scores)
    seconds = time.perf_counter() - started
    allowed = scores[rows, columns] >= 0
    total = int(scores[rows, columns][allowed].sum(dtype=np.int64))
    return {"seconds": seconds, "pairs": int(allowed.sum()), "objective": total}


if __name__ == "__main__":
    main()
