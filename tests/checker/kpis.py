"""Every KPI row that the log demands. The definitions are in this folder's README."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from tests.checker import figures, kpi_facts
from tests.checker.figures import Figure
from tests.checker.kpi_facts import Fact
from tests.checker.world import World

_ALL = ("role", "region", "department", "month")


@dataclass(frozen=True)
class Row:
    """One line of the KPI list."""

    kpi: str
    unit: str
    breakdown: tuple[tuple[str, str], ...]
    period: str
    value: float | None
    n: int | None
    low: float | None = None
    high: float | None = None
    why_hidden: str | None = None
    people: int = 0

    @property
    def key(self) -> tuple[str, str, tuple[tuple[str, str], ...], str]:
        """What tells this row from all others."""
        return self.kpi, self.unit, self.breakdown, self.period

    @property
    def shown(self) -> bool:
        """Whether the figure may be seen."""
        return self.why_hidden is None

    def hidden(self, why: str) -> "Row":
        """Return the row without its figures."""
        return replace(self, value=None, n=None, low=None, high=None, why_hidden=why)


@dataclass(frozen=True)
class Kpi:
    """Which facts a KPI is made of, how, and what it can be broken down by."""

    name: str
    unit: str
    facts: list[Fact]
    figure: Callable[[list[Fact]], Figure | None]
    breakdowns: tuple[str, ...]


def compute(world: World, program: str, as_of: datetime) -> list[Row]:
    """Return every row that the definitions demand for `program`, and no other."""
    policies = [policy for _, policy in world.programs[program].states]
    threshold = min(policies, key=lambda policy: policy.version).threshold
    cadence_days = max(policies, key=lambda policy: policy.version).cadence_days
    pairs = [pair for pair in world.pairs.values() if pair.program == program and pair.mentees]
    pair_level = ("region", "department", "month")
    by_role = ("role", "month")
    participation = kpi_facts.participation(world, program)
    rounds = kpi_facts.rounds(world, program)
    waits = kpi_facts.waits(pairs)
    answers = kpi_facts.answers(pairs)
    activity = kpi_facts.activity(world, pairs, as_of)
    cadence = figures.cadence(cadence_days)
    scores = kpi_facts.satisfaction(world, program)
    high = kpi_facts.top_two(scores)
    leavings = kpi_facts.leavings(pairs)
    kpis = (
        Kpi("participation", "share", participation, figures.participants, ("role",)),
        Kpi("match_rate", "share", rounds, figures.counted_share, by_role),
        Kpi("time_to_match_median", "days", waits, figures.quantile(1, 2), by_role),
        Kpi("time_to_match_p90", "days", waits, figures.quantile(9, 10), by_role),
        Kpi("acceptance", "share", answers, figures.wilson_share, pair_level),
        Kpi("cadence", "ratio", activity, cadence, pair_level),
        Kpi("satisfaction", "share", high, figures.wilson_share, _ALL),
        Kpi("satisfaction", "mean_1_to_5", scores, figures.share, _ALL),
        Kpi("rotation", "share", leavings, figures.share, pair_level),
    )
    return [row for kpi in kpis for row in _rows(kpi, threshold)]


def _rows(kpi: Kpi, threshold: int) -> Iterator[Row]:
    total = _row(kpi, kpi.facts, (), "all")
    if total:
        yield _below(total, threshold)
    for breakdown in kpi.breakdowns:
        groups: dict[str, list[Fact]] = defaultdict(list)
        for fact in kpi.facts:
            groups[fact.labels[breakdown]].append(fact)
        rows = []
        for label, facts in sorted(groups.items()):
            month = breakdown == "month"
            row = _row(
                kpi, facts, () if month else ((breakdown, label),), label if month else "all"
            )
            if row:
                rows.append(row)
        yield from suppress(rows, threshold)


def _row(
    kpi: Kpi, facts: list[Fact], breakdown: tuple[tuple[str, str], ...], period: str
) -> Row | None:
    figure = kpi.figure(facts) if facts else None
    if figure is None:
        return None
    return Row(
        kpi=kpi.name,
        unit=kpi.unit,
        breakdown=breakdown,
        period=period,
        value=figure.value,
        n=figure.n,
        low=figure.low,
        high=figure.high,
        people=figure.people,
    )


def _below(row: Row, threshold: int) -> Row:
    return row.hidden(f"fewer than {threshold} people") if row.people < threshold else row


def suppress(rows: list[Row], threshold: int) -> list[Row]:
    """Hide what is too small, then what would reveal it, among the rows of one breakdown."""
    result = {row.key: _below(row, threshold) for row in rows}
    while True:
        hidden = [row for row in result.values() if not row.shown]
        shown = [row for row in result.values() if row.shown]
        few = len(hidden) == 1 or sum(row.people for row in hidden) < threshold
        if not hidden or not shown or not few:
            return list(result.values())
        least = min(shown, key=lambda row: (row.people, row.breakdown, row.period))
        result[least.key] = least.hidden("would reveal a hidden figure")
