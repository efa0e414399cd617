"""What makes a pair good: six additive terms in integer points, at most 1000 together."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from services.matching.engine.grid import Grid, Numbers, vocabulary
from services.matching.engine.model import Candidate
from shared.events.participants import TopicLevel
from shared.events.programs import PairFormat, ScoreTerm

Points = NDArray[np.int16]

# Percent of a wanted topic's share by how far the mentor's proficiency is above the mentee's:
# there is something to teach from one step on, and each further step adds less.
CREDIT = np.array([0, 40, 70, 90, 100], dtype=np.int32)

DEPARTMENT, REGION, COUNTRY, LEVELS = 40, 30, 15, 30  # percent of difference
FAR_APART = 5  # levels that count as fully different
LANGUAGE_COMMON, LANGUAGE_FIRST = 50, 25  # percent of language
OFFERED: tuple[PairFormat, ...] = ("one_to_one", "circle")
WISH = 25  # percent of preference, for each of four wishes
PLENTY = 240  # minutes of common working hours, more are no better
_LONG = 90  # days of waiting, more count no more
_OFTEN = 2  # declined proposals, more count no more


def term_points(grid: Grid) -> dict[ScoreTerm, Points]:
    """Return every term's points, mentors by mentees; feasibility is not looked at."""
    return {
        term: (grid.policy.weight(term) * share(grid) // 100).astype(np.int16)
        for term, share in _SHARES.items()
    }


def topics_covered(mentor: Candidate, mentee: Candidate) -> tuple[str, ...]:
    """Return the ids of what the mentee wants and can learn from the mentor, the most first."""
    teaches = proficiency(mentor.teaches)
    steps = {
        topic: teaches.get(topic, 0) - wanted for topic, wanted in proficiency(mentee.wants).items()
    }
    return tuple(
        sorted((topic for topic in steps if steps[topic] > 0), key=lambda t: (-steps[t], t))
    )


def difference_share(grid: Grid) -> Numbers:
    """Return the percent of difference: department, place, levels. Unknown is no difference."""
    region = grid.differ(lambda person: person.region)
    country = grid.differ(lambda person: person.country) & ~region
    levels = np.clip(grid.level_distance, 0, FAR_APART) * grid.levels_known
    share: Numbers = LEVELS * levels // FAR_APART
    share += DEPARTMENT * grid.differ(lambda person: person.department)
    share += REGION * region + COUNTRY * country
    return share


def _coverage_share(grid: Grid) -> Numbers:
    topics = vocabulary(topic.topic_id for mentee in grid.mentees for topic in mentee.wants)
    taught = np.zeros((len(grid.mentors), len(topics)), dtype=np.int32)
    for row, mentor in enumerate(grid.mentors):
        for topic, level in proficiency(mentor.teaches).items():
            if topic in topics:
                taught[row, topics[topic]] = level
    wanted = np.zeros((len(grid.mentees), len(topics)), dtype=np.int32)
    for row, mentee in enumerate(grid.mentees):
        for topic, level in proficiency(mentee.wants).items():
            wanted[row, topics[topic]] = level
    total = np.zeros(grid.shape, dtype=np.float32)
    for level in range(1, 6):
        # One product per own level of the mentee; sums of percents are exact in float32.
        credit = CREDIT[np.clip(taught - level, 0, 4)].astype(np.float32)
        total += credit @ (wanted == level).astype(np.float32).T
    share: Numbers = total.astype(np.int32) // np.maximum((wanted > 0).sum(axis=1), 1)
    return share


def _overlap_share(grid: Grid) -> Numbers:
    return 100 * np.minimum(grid.overlap, PLENTY) // PLENTY


def _language_share(grid: Grid) -> Numbers:
    share: Numbers = LANGUAGE_COMMON + LANGUAGE_FIRST * grid.first_languages_spoken
    return share * grid.common_language


def _preference_share(grid: Grid) -> Numbers:
    offered: list[PairFormat] = [
        "circle" if mentor.capacity > 1 else "one_to_one" for mentor in grid.mentors
    ]
    suits_mentor = np.array(
        [
            content(mentor.preferences.format, kind)
            for mentor, kind in zip(grid.mentors, offered, strict=True)
        ],
        dtype=np.int32,
    )
    suits_mentee = np.array(
        [[content(mentee.preferences.format, kind) for mentee in grid.mentees] for kind in OFFERED],
        dtype=np.int32,
    ).reshape(2, -1)[[int(kind == "circle") for kind in offered]]
    return WISH * (suits_mentor[:, None] + suits_mentee + grid.region_wishes_met)


def content(wished: PairFormat | None, offered: PairFormat) -> bool:
    """Return whether a pair's format suits a wish for one."""
    return wished in (None, "mixed", offered)


def _waiting_share(grid: Grid) -> Numbers:
    return np.add.outer(_patience(grid.mentors), _patience(grid.mentees)) // 2


def patience(person: Candidate) -> int:
    """Return the percent of one side's half of the waiting term."""
    return (
        60 * min(person.waited_days, _LONG) // _LONG + 40 * min(person.declines, _OFTEN) // _OFTEN
    )


def _patience(people: Sequence[Candidate]) -> Numbers:
    return np.array([patience(person) for person in people], dtype=np.int32)


def proficiency(levels: Sequence[TopicLevel]) -> dict[str, int]:
    """Return the ratings by topic."""
    return {level.topic_id: level.proficiency for level in levels}


_SHARES: Mapping[ScoreTerm, Callable[[Grid], Numbers]] = {
    "coverage": _coverage_share,
    "difference": difference_share,
    "overlap": _overlap_share,
    "language": _language_share,
    "preference": _preference_share,
    "waiting": _waiting_share,
}
