"""Mergeable state: counters by name, a commutative group under `merge`. Pure."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from shared.counts import without_zeros

K = TypeVar("K")

Bucket = Mapping[str, int]
"""Counters and sums by name; a missing one is zero, and zeros are never kept.

Everything in it is a whole number, so no order of additions changes a digit. A histogram has one
counter for each value: `waited:12` counts the waits of twelve days.
"""

EMPTY: Bucket = {}
WAITED = "waited:"
RESPONDENTS = "respondents"
SCORE_UNIT = 10**9
"""Scores are summed in billionths: whole numbers, exact far beyond what a rating can mean."""

Kind = Literal["all", "role", "region", "department", "month"]


class Cell(NamedTuple):
    """Which bucket of a program: a dimension, and a value in it ("" for the whole)."""

    kind: Kind
    value: str


WHOLE = Cell("all", "")


def histogram(bucket: Bucket, prefix: str) -> list[tuple[int, int]]:
    """Return a histogram's values with their counts, by value."""
    return sorted(
        (int(name.removeprefix(prefix)), count)
        for name, count in bucket.items()
        if name.startswith(prefix)
    )


@dataclass(frozen=True, eq=False, slots=True)
class Cells:
    """The cells in which the same things count. Its identity is its key: make it seldom."""

    each: tuple[Cell, ...]


ALL = Cells((WHOLE,))
Sighting = tuple[Cells, str]
"""The cells in which a person was seen, and the measure under which."""


class Contribution:
    """What many facts add to their program's buckets, or take away with `times` of -1.

    `counts` are summed by the cells that they share and spread over them once, in `by_cell`: of a
    batch's events many count in the same ones. `people` says how often a person is seen under a
    measure of cells: however often, they count there as one. Where respondents `answered` is never
    taken away, so how often need not be known. `appeared` is what both come to: by how much the
    number of people under a measure of a cell changes.
    """

    def __init__(self) -> None:
        self.counts: defaultdict[Cells, defaultdict[str, int]] = defaultdict(_zeros)
        self.people: defaultdict[str, defaultdict[Sighting, int]] = defaultdict(_zeros)
        self.answered: defaultdict[str, set[Cells]] = defaultdict(set)
        self.appeared: defaultdict[str, defaultdict[Cell, int]] = defaultdict(_zeros)

    def count(self, cells: Cells, measure: str, amount: int = 1) -> None:
        """Add an amount in each of the cells."""
        self.counts[cells][measure] += amount

    def see(self, cells: Cells, measure: str, person: str, times: int = 1) -> None:
        """Count a person in each of the cells."""
        self.people[person][cells, measure] += times

    def by_cell(self) -> dict[Cell, dict[str, int]]:
        """Return the counts as a bucket for each cell that changes."""
        spread: defaultdict[Cell, defaultdict[str, int]] = defaultdict(_zeros)
        for cells, counts in self.counts.items():
            for cell in cells.each:
                total = spread[cell]
                for measure, amount in counts.items():
                    total[measure] += amount
        for measure, cells_of_measure in self.appeared.items():
            for cell, amount in cells_of_measure.items():
                spread[cell][measure] += amount
        found = {cell: without_zeros(total) for cell, total in spread.items()}
        return {cell: bucket for cell, bucket in found.items() if bucket}


def _zeros() -> "defaultdict[K, int]":
    return defaultdict(int)
