"""How the facts of a KPI become one figure."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.checker.kpi_facts import Fact

# The 97.5th percentile of the standard normal distribution.
_Z = 1.959963984540054


@dataclass(frozen=True)
class Figure:
    """A KPI over some facts."""

    value: float
    n: int
    people: int
    low: float | None = None
    high: float | None = None


def share(facts: list[Fact]) -> Figure | None:
    """Parts ÷ wholes; a mean where every whole is one."""
    part, whole = sum(fact.part for fact in facts), sum(fact.whole for fact in facts)
    return Figure(part / whole, round(whole), _people(facts)) if whole else None


def counted_share(facts: list[Fact]) -> Figure | None:
    """A share of people whom the events count and do not name."""
    figure = share(facts)
    return replace(figure, people=figure.n) if figure else None


def participants(facts: list[Fact]) -> Figure | None:
    """The one KPI that exists without data: nobody eligible is a share of nothing."""
    return share(facts) or Figure(0.0, 0, _people(facts))


def wilson_share(facts: list[Fact]) -> Figure | None:
    """A share with its 95 % interval."""
    figure = share(facts)
    if figure is None:
        return None
    low, high = wilson(figure.value, figure.n)
    return replace(figure, low=low, high=high)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) ÷ (1 + z²/n)."""
    scale = 1 + _Z**2 / n
    middle = (share + _Z**2 / (2 * n)) / scale
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / scale
    return middle - half, middle + half


def quantile(numerator: int, denominator: int) -> Callable[[list[Fact]], Figure | None]:
    """Nearest rank: the item ceil(q·n) of the sorted values, q a ratio of integers."""

    def figure(facts: list[Fact]) -> Figure | None:
        values = sorted(fact.part for fact in facts)
        rank = -(-numerator * len(values) // denominator)
        return Figure(values[rank - 1], len(values), _people(facts))

    return figure


def cadence(cadence_days: int) -> Callable[[list[Fact]], Figure | None]:
    """Sessions held ÷ (active seconds ÷ 86,400 ÷ cadence in days)."""

    def figure(facts: list[Fact]) -> Figure | None:
        held, seconds = sum(fact.part for fact in facts), sum(fact.whole for fact in facts)
        if not held or not seconds:
            return None
        expected = seconds / 86400 / cadence_days
        return Figure(held / expected, round(held), _people(facts))

    return figure


def _people(facts: list[Fact]) -> int:
    return len({fact.who for fact in facts if fact.who})
