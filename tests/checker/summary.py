"""Comparing the summary with what the log says."""

import math
from collections import Counter
from datetime import datetime

from tests.checker.kpis import Row, compute
from tests.checker.reading import Json, instant
from tests.checker.report import Report
from tests.checker.world import World

_FIELDS = frozenset(
    {"kpi", "program", "breakdown", "period", "value", "unit", "n", "low", "high"}
    | {"shown", "why_hidden"}
)


def taken_at(summary: dict[str, Json]) -> datetime:
    """Return the summary's `as_of`. Raises MalformedError."""
    return instant(summary.get("as_of"))


def compare(world: World, summary: dict[str, Json], report: Report) -> None:
    """Report every figure of the summary that differs from a recomputation."""
    counts = Counter(event.name for event in world.events)
    told = summary.get("events") or {}
    for name in sorted(counts.keys() | told.keys()):
        if told.get(name, 0) != counts[name]:
            report.difference(f"events: {told.get(name, 0)} {name} told, {counts[name]} in the log")
    violations = summary.get("violations")
    if violations is None or any(count != 0 for count in violations.values()):
        report.difference(f"violations: the summary tells {violations}")
    program = summary.get("program")
    if program not in world.programs:
        report.difference(f"program: {program} was not published")
        return
    compare_rows(compute(world, program, taken_at(summary)), summary, report)


def compare_rows(expected: list[Row], summary: dict[str, Json], report: Report) -> None:
    """Report every KPI row that differs from its recomputation, is missing or is not defined."""
    wanted = {row.key: row for row in expected}
    seen = set()
    for told in summary.get("kpis") or []:
        if not isinstance(told, dict) or told.keys() != _FIELDS:
            report.difference(f"kpi: a row with other fields: {told}")
            continue
        breakdown = tuple(sorted(told["breakdown"].items()))
        key = told["kpi"], told["unit"], breakdown, told["period"]
        where = f"kpi {told['kpi']} ({told['unit']}) {dict(breakdown) or ''} {told['period']}"
        if key in seen:
            report.difference(f"{where}: comes twice")
        seen.add(key)
        if key not in wanted:
            report.difference(f"{where}: the definition has no such row")
            continue
        row = wanted[key]
        if told["program"] != summary.get("program"):
            report.difference(f"{where}: of another program")
        for name in ("value", "n", "low", "high", "shown", "why_hidden"):
            mine, theirs = getattr(row, name), told[name]
            if not _same(mine, theirs):
                report.difference(f"{where}: {name} is {theirs}, recomputed {mine}")
    for key in wanted.keys() - seen:
        report.difference(f"kpi {key}: the row is missing")


def _same(mine: Json, theirs: Json) -> bool:
    if isinstance(mine, bool | str | None) or isinstance(theirs, bool | str | None):
        return mine == theirs and type(mine) is type(theirs)
    return math.isclose(mine, theirs, rel_tol=1e-9, abs_tol=1e-12)
