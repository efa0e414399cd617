"""The KPI rows of one breakdown, with everything hidden that would tell of few people. Pure."""

import calendar
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from services.reporting.kpis import formulas
from services.reporting.kpis.bucket import EMPTY, Bucket, Kind
from services.reporting.kpis.formulas import Figure, Slice
from shared.counts import merge
from shared.privacy.thresholds import hidden_parts, too_few

KpiName = Literal[
    "participation",
    "match_rate",
    "time_to_match_median",
    "time_to_match_p90",
    "acceptance",
    "cadence",
    "satisfaction",
    "rotation",
]
_DAY_SECONDS = 86400
Unit = Literal["share", "days", "ratio", "mean_1_to_5"]


@dataclass(frozen=True)
class Kpi:
    """A KPI: its formula, and the dimensions it can be broken down by."""

    name: KpiName
    unit: Unit
    figure: Callable[[Slice], Figure | None]
    kinds: frozenset[Kind]


_BY_ROLE: frozenset[Kind] = frozenset({"all", "role", "month"})
_BY_PAIR: frozenset[Kind] = frozenset({"all", "region", "department", "month"})

KPIS: tuple[Kpi, ...] = (
    Kpi("participation", "share", formulas.participation, frozenset({"all", "role"})),
    Kpi("match_rate", "share", formulas.match_rate, _BY_ROLE),
    Kpi("time_to_match_median", "days", formulas.time_to_match_median, _BY_ROLE),
    Kpi("time_to_match_p90", "days", formulas.time_to_match_p90, _BY_ROLE),
    Kpi("acceptance", "share", formulas.acceptance, _BY_PAIR),
    Kpi("cadence", "ratio", formulas.cadence, _BY_PAIR),
    Kpi("satisfaction", "share", formulas.satisfaction_share, _BY_ROLE | _BY_PAIR),
    Kpi("satisfaction", "mean_1_to_5", formulas.satisfaction_mean, _BY_ROLE | _BY_PAIR),
    Kpi("rotation", "share", formulas.rotation, _BY_PAIR),
)


@dataclass(frozen=True)
class Row:
    """A figure of one value of a dimension, or the reason why it is hidden."""

    kpi: Kpi
    kind: Kind
    value: str
    figure: Figure | None
    why_hidden: str | None


def rows(
    kind: Kind, found: Mapping[str, Bucket], *, as_of: int, cadence_days: int, threshold: int
) -> list[Row]:
    """Return every row of a breakdown from its buckets by value, by KPI, then by value.

    `as_of` (seconds since 1970) is where the time of active pairs ends.
    """
    if kind == "month":
        slices = _months(found, as_of, cadence_days)
    else:
        slices = {value: Slice(bucket, cadence_days, as_of) for value, bucket in found.items()}
    return [
        row for kpi in KPIS if kind in kpi.kinds for row in _protected(kpi, kind, slices, threshold)
    ]


def _protected(kpi: Kpi, kind: Kind, slices: Mapping[str, Slice], threshold: int) -> list[Row]:
    figures = {
        value: figure
        for value, each in sorted(slices.items())
        if (figure := kpi.figure(each)) is not None
    }
    people = {value: figure.people for value, figure in figures.items()}
    reasons: Mapping[str, str | None]
    if kind == "all":
        reasons = {value: too_few(count, threshold) for value, count in people.items()}
    else:
        reasons = hidden_parts(people, threshold)
    found = []
    for value, figure in figures.items():
        why = reasons.get(value)
        found.append(Row(kpi, kind, value, figure if why is None else None, why))
    return found


def _months(found: Mapping[str, Bucket], as_of: int, cadence_days: int) -> dict[str, Slice]:
    slices: dict[str, Slice] = {}
    before: Bucket = EMPTY
    for month, bucket in sorted(found.items()):
        since, end = _bounds(month)
        until = max(since, min(end, as_of))
        slices[month] = Slice(bucket, cadence_days, until, since, before)
        before = merge(before, bucket)
    return slices


def _bounds(month: str) -> tuple[int, int]:
    year, number = int(month[:4]), int(month[5:])
    start = calendar.timegm((year, number, 1, 0, 0, 0))
    return start, start + calendar.monthrange(year, number)[1] * _DAY_SECONDS
