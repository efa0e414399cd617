"""Mergeable state: counters by name, a commutative group under `merge`. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, Self

Bucket = Mapping[str, int]
"""Counters and sums by name; a missing one is zero, and zeros are never kept.

Everything in it is a whole number, so no order of additions changes a digit. A histogram has one
counter for each value: `waited:12` counts the waits of twelve days.
"""

EMPTY: Bucket = {}
WAITED = "waited:"
SCORE_UNIT = 10**9
"""Scores are summed in billionths: whole numbers, exact far beyond what a rating can mean."""

Kind = Literal["all", "role", "region", "department", "month"]


class Cell(NamedTuple):
    """Which bucket of a program: a dimension, and a value in it ("" for the whole)."""

    kind: Kind
    value: str


WHOLE = Cell("all", "")


def merge(first: Bucket, *others: Bucket) -> Bucket:
    """Return the sum: associative, commutative, with EMPTY as its identity."""
    total = dict(first)
    for bucket in others:
        for name, amount in bucket.items():
            total[name] = total.get(name, 0) + amount
            if not total[name]:
                del total[name]
    return total


def histogram(bucket: Bucket, prefix: str) -> list[tuple[int, int]]:
    """Return a histogram's values with their counts, by value."""
    return sorted(
        (int(name.removeprefix(prefix)), count)
        for name, count in bucket.items()
        if name.startswith(prefix)
    )


class Contribution:
    """What one fact adds to its program's buckets.

    `counts` are added as they are. `people` says how often the fact sees a person under a measure
    of a cell: however often, they count there as one.
    """

    def __init__(self) -> None:
        self.counts: defaultdict[tuple[Cell, str], int] = defaultdict(int)
        self.people: defaultdict[tuple[str, Cell, str], int] = defaultdict(int)

    def count(self, cells: Iterable[Cell], measure: str, amount: int = 1) -> None:
        """Add an amount in each of the cells."""
        for cell in cells:
            self.counts[cell, measure] += amount

    def see(self, cells: Iterable[Cell], measure: str, person: str) -> None:
        """Count a person in each of the cells."""
        for cell in cells:
            self.people[person, cell, measure] += 1

    def add(self, other: "Contribution", times: int = 1) -> None:
        """Add what another one adds, so many times; -1 takes it away."""
        for count, amount in other.counts.items():
            self.counts[count] += times * amount
        for sighting, often in other.people.items():
            self.people[sighting] += times * often

    def minus(self, other: "Contribution") -> Self:
        """Take away what another one adds; returns itself."""
        self.add(other, -1)
        return self

    def by_cell(self) -> dict[Cell, Bucket]:
        """Return the counts as a bucket for each cell that changes."""
        cells: defaultdict[Cell, dict[str, int]] = defaultdict(dict)
        for (cell, measure), amount in self.counts.items():
            if amount:
                cells[cell][measure] = amount
        return dict(cells)

    def by_person(self) -> dict[str, dict[tuple[Cell, str], int]]:
        """Return how much more, or less, often each person is seen, where that changes."""
        people: defaultdict[str, dict[tuple[Cell, str], int]] = defaultdict(dict)
        for (person, cell, measure), times in self.people.items():
            if times:
                people[person][cell, measure] = times
        return dict(people)
