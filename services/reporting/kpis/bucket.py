"""Mergeable state: counters by name, a commutative group under `merge`. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, Self, TypeVar

G = TypeVar("G")
K = TypeVar("K")

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
    """What facts add to their program's buckets.

    `counts` are added as they are. `people` says how often a person is seen under a measure of a
    cell: however often, they count there as one.
    """

    def __init__(self) -> None:
        self.counts: defaultdict[Cell, defaultdict[str, int]] = defaultdict(_zeros)
        self.people: defaultdict[str, defaultdict[tuple[Cell, str], int]] = defaultdict(_zeros)

    def count(self, cells: Iterable[Cell], measure: str, amount: int = 1) -> None:
        """Add an amount in each of the cells."""
        for cell in cells:
            self.counts[cell][measure] += amount

    def count_all(self, cells: Iterable[Cell], amounts: Bucket) -> None:
        """Add several amounts in each of the cells."""
        for cell in cells:
            counts = self.counts[cell]
            for measure, amount in amounts.items():
                counts[measure] += amount

    def see(self, cells: Iterable[Cell], measure: str, person: str) -> None:
        """Count a person in each of the cells."""
        seen = self.people[person]
        for cell in cells:
            seen[cell, measure] += 1

    def add(self, other: "Contribution", times: int = 1) -> None:
        """Add what another one adds, so many times; -1 takes it away."""
        for cell, counts in other.counts.items():
            for measure, amount in counts.items():
                self.counts[cell][measure] += times * amount
        for person, sightings in other.people.items():
            for sighting, often in sightings.items():
                self.people[person][sighting] += times * often

    def minus(self, other: "Contribution") -> Self:
        """Take away what another one adds; returns itself."""
        self.add(other, -1)
        return self

    def by_cell(self) -> dict[Cell, Bucket]:
        """Return the counts as a bucket for each cell that changes."""
        return _without_zeros(self.counts)

    def by_person(self) -> dict[str, Mapping[tuple[Cell, str], int]]:
        """Return how much more, or less, often each person is seen, where that changes."""
        return _without_zeros(self.people)


def _zeros() -> "defaultdict[K, int]":
    return defaultdict(int)


def _without_zeros(groups: Mapping[G, Mapping[K, int]]) -> dict[G, Mapping[K, int]]:
    found = {
        group: {key: amount for key, amount in amounts.items() if amount}
        for group, amounts in groups.items()
    }
    return {group: amounts for group, amounts in found.items() if amounts}
