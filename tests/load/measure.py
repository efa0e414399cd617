"""The arithmetic of a benchmark: percentiles, ratios, medians, and what a budget says of them."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

Direction = Literal["at least", "at most"]


class Percentiles(BaseModel):
    """How long something took, in milliseconds; of `count` measurements."""

    model_config = ConfigDict(frozen=True)

    count: int
    p50: float
    p99: float
    p999: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self:
        """Return the percentiles by nearest rank: each is a time that was measured.

        Raises ValueError where nothing was measured.
        """
        ordered = sorted(seconds)
        if not ordered:
            msg = "nothing was measured"
            raise ValueError(msg)

        def rank(share: float) -> float:
            return 1000 * ordered[math.ceil(share * len(ordered)) - 1]

        return cls(count=len(ordered), p50=rank(0.5), p99=rank(0.99), p999=rank(0.999))


class Budget(BaseModel):
    """What a ratio should be."""

    model_config = ConfigDict(frozen=True)

    direction: Direction
    ratio: float

    def met_by(self, ratio: float) -> bool:
        """Return whether a ratio keeps to the budget."""
        return ratio >= self.ratio if self.direction == "at least" else ratio <= self.ratio

    def __str__(self) -> str:
        return f"{self.direction} {self.ratio:g}"


class Figure(BaseModel):
    """One measurement beside its reference; both are medians of the same interleaved runs.

    `ratio` is the median of the runs' own ratios, so that a slow moment of the machine, which hits
    both, cancels out. Without a reference, a figure only informs.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    unit: str
    value: float
    values: tuple[float, ...]
    reference_name: str | None = None
    reference: float | None = None
    ratio: float | None = None
    budget: Budget | None = None
    met: bool | None = None
    note: str | None = None

    @classmethod
    def alone(cls, name: str, unit: str, values: Sequence[float], note: str | None = None) -> Self:
        """Return a figure that is compared with nothing."""
        return cls(
            name=name, unit=unit, value=statistics.median(values), values=tuple(values), note=note
        )

    @classmethod
    def beside(
        cls,
        name: str,
        unit: str,
        pairs: Sequence[tuple[float, float]],
        reference_name: str,
        budget: Budget | None = None,
        note: str | None = None,
    ) -> Self:
        """Return a figure of (ours, reference) pairs, each measured in one run."""
        ratio = statistics.median(ours / reference for ours, reference in pairs)
        return cls(
            name=name,
            unit=unit,
            value=statistics.median(ours for ours, _ in pairs),
            values=tuple(ours for ours, _ in pairs),
            reference_name=reference_name,
            reference=statistics.median(reference for _, reference in pairs),
            ratio=ratio,
            budget=budget,
            met=None if budget is None else budget.met_by(ratio),
            note=note,
        )


class Cost(BaseModel):
    """One function's share of a profiled run."""

    model_config = ConfigDict(frozen=True)

    function: str
    share: float
    own_share: float
    calls: int


class Profile(BaseModel):
    """Where a run's time went, the dearest function first."""

    model_config = ConfigDict(frozen=True)

    run: str
    costs: tuple[Cost, ...]


class Stage(BaseModel):
    """One question of the benchmark, with its figures."""

    model_config = ConfigDict(frozen=True)

    name: str
    asks: str
    figures: tuple[Figure, ...] = ()
    latencies: dict[str, Percentiles] = {}
    profiles: tuple[Profile, ...] = ()
    notes: tuple[str, ...] = ()
