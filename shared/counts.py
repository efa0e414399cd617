"""Counters by name: sums in which a zero is as good as none. Pure."""

from collections.abc import Mapping


def without_zeros(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counters that are not zero."""
    return {name: count for name, count in counts.items() if count}


def merge(first: Mapping[str, int], *others: Mapping[str, int]) -> dict[str, int]:
    """Return the sum, without zeros: associative, commutative, with {} as its identity."""
    total = dict(first)
    for counts in others:
        for name, amount in counts.items():
            total[name] = total.get(name, 0) + amount
    return without_zeros(total)
