"""One function a KPI: from merged buckets to a figure, or None without data. Pure."""

import math
from dataclasses import dataclass, field

from services.reporting.kpis.bucket import EMPTY, SCORE_UNIT, WAITED, Bucket, histogram

# The 97.5th percentile of the standard normal distribution.
_Z = 1.959963984540054
_DAY_SECONDS = 86400
_ROLES = ("mentor", "mentee")


@dataclass(frozen=True)
class Figure:
    """A KPI's value. `people` is how many it tells about, for the threshold."""

    value: float
    n: int
    people: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Slice:
    """What a figure is made of: a bucket, and the time it covers in whole seconds since 1970.

    Of a month, `before` is all the months before it merged, since a pair that began then may still
    be active; of anything else it is empty and `since` is zero.
    """

    bucket: Bucket
    cadence_days: int
    until: int
    since: int = 0
    before: Bucket = field(default_factory=dict)

    def __getitem__(self, measure: str) -> int:
        return self.bucket.get(measure, 0)


def participation(of: Slice) -> Figure | None:
    """Participants ÷ eligible, over the roles whose eligible people were counted.

    `both` counts in both roles, and as one person. Nobody eligible is a share of zero.
    """
    roles = [role for role in _ROLES if of[f"rosters:{role}"]]
    if not roles:
        return None
    part = sum(of[f"participants:{role}"] for role in roles)
    eligible = sum(of[f"eligible:{role}"] for role in roles)
    people = of["participants"] if len(roles) == len(_ROLES) else part
    return Figure(part / eligible if eligible else 0.0, eligible, people)


def match_rate(of: Slice) -> Figure | None:
    """Matched ÷ in the pool, over rounds. Rounds name nobody: the people are the pool's."""
    return _share(of["matched"], of["pooled"], of["pooled"])


def time_to_match_median(of: Slice) -> Figure | None:
    """Whole days from ready to paired: the middle one, by nearest rank."""
    return _quantile(of, 1, 2)


def time_to_match_p90(of: Slice) -> Figure | None:
    """Whole days from ready to paired: nine of ten waited no longer, by nearest rank."""
    return _quantile(of, 9, 10)


def acceptance(of: Slice) -> Figure | None:
    """Accepted ÷ answered proposals."""
    answered = of["accepted"] + of["declined"]
    return _wilson_share(of["accepted"], answered, of["answerers"])


def cadence(of: Slice) -> Figure | None:
    """Sessions held ÷ expected ones; one is expected in each `cadence_days` of active time."""
    active = _active_seconds(of.before, of.bucket, of.until)
    active -= _active_seconds(of.before, EMPTY, of.since)
    if not of["held"] or active <= 0:
        return None
    expected = active / _DAY_SECONDS / of.cadence_days
    pairs = of.before.get("began", 0) - of.before.get("left", 0) + of["began"]
    return Figure(of["held"] / expected, of["held"], pairs)


def satisfaction_share(of: Slice) -> Figure | None:
    """Pulses that rate the session 4 or 5 of 5 ÷ all that rate it."""
    return _wilson_share(of["satisfied"], of["pulses"], of["respondents"])


def satisfaction_mean(of: Slice) -> Figure | None:
    """Mean rating of pulses, 1 to 5."""
    figure = _share(of["score_sum"], of["pulses"] * SCORE_UNIT, of["respondents"])
    return figure and Figure(figure.value, of["pulses"], figure.people)


def rotation(of: Slice) -> Figure | None:
    """Pairs that rotated ÷ pairs that left the active state."""
    left = of["rotated"] + of["ended"]
    return _share(of["rotated"], left, left)


def _active_seconds(before: Bucket, bucket: Bucket, until: int) -> int:
    """Return the active time of all pairs up to `until`, which no start or stop is later than."""

    def total(measure: str) -> int:
        return before.get(measure, 0) + bucket.get(measure, 0)

    return (total("starts") - total("stops")) * until - total("starts_at") + total("stops_at")


def _share(part: int, whole: int, people: int) -> Figure | None:
    return Figure(part / whole, whole, people) if whole else None


def _wilson_share(part: int, whole: int, people: int) -> Figure | None:
    """Return a share with Wilson's 95 % interval.

    (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) ÷ (1 + z²/n); Wilson 1927.
    """
    if not whole:
        return None
    share = part / whole
    scale = 1 + _Z**2 / whole
    middle = (share + _Z**2 / (2 * whole)) / scale
    half = _Z * math.sqrt(share * (1 - share) / whole + _Z**2 / (4 * whole**2)) / scale
    return Figure(share, whole, people, middle - half, middle + half)


def _quantile(of: Slice, numerator: int, denominator: int) -> Figure | None:
    """Return item ceil(q·n) of the sorted values; q is a ratio of integers, so that it is exact."""
    bins = histogram(of.bucket, WAITED)
    n = sum(count for _, count in bins)
    rank = -(-numerator * n // denominator)
    for value, count in bins:
        rank -= count
        if rank <= 0:
            return Figure(float(value), n, of["waiters"])
    return None
