"""Why somebody waits, and how near the nearest partner is."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from services.matching.engine.columns import Longs
from services.matching.engine.instance import RULE_ORDER, UNTOLD_BITS
from services.matching.engine.model import Explanation, Nearest, RuleCode, UnmatchedCode

UNTOLD: frozenset[RuleCode] = frozenset(
    rule for place, rule in enumerate(RULE_ORDER) if UNTOLD_BITS >> place & 1
)

Numbers = NDArray[np.integer]

NOBODY = 1 << 62
"""The distance of somebody who is no partner at any distance."""

MOST = (1 << 12) - 1
"""Levels and minutes that lack are counted up to here."""


def distances(rules: Numbers, bits: Numbers, levels: Numbers, minutes: Numbers) -> Longs:
    """Return how far others are: less the fewer rules are between, then the first in the rules'
    order (as bits), then the fewer levels and minutes lack. The compiled kernel says the same.

    `NOBODY` are those whom no rule keeps away, and those whom one keeps away that nobody is told
    of: the other rules between would then say that there is one.
    """
    far = (
        rules.astype(np.int64) << 40
        | bits.astype(np.int64) << 24
        | np.clip(levels, 0, MOST).astype(np.int64) << 12
        | np.clip(minutes, 0, MOST).astype(np.int64)
    )
    far[(bits == 0) | (bits & UNTOLD_BITS > 0)] = NOBODY
    return far


def nearest_of(found: int) -> Nearest | None:
    """Return what a distance says; None for `NOBODY`."""
    if found >= NOBODY:
        return None
    bits = found >> 24 & 0xFFFF
    return Nearest(
        rules=tuple(rule for place, rule in enumerate(RULE_ORDER) if bits >> place & 1),
        levels=found >> 12 & MOST,
        minutes=found & MOST,
    )


def code_of(why: Explanation) -> UnmatchedCode:
    """Return the reason in a word: what excluded most, the first in the rules' order if equal."""
    if why.eligible:
        return "no_partner_left"
    most = max(why.excluded.values(), default=0)
    return next((code for code, count in why.excluded.items() if count == most), "no_partner")


def explanation(tally: Mapping[RuleCode, int], eligible: int, found: int) -> Explanation:
    """Return why somebody waits whom each rule keeps from so many, of whom `eligible` are left."""
    return Explanation(
        eligible=eligible,
        excluded={rule: tally[rule] for rule in tally if tally[rule] and rule not in UNTOLD},
        nearest=None if eligible else nearest_of(found),
    )


_BETWEEN: dict[RuleCode, str] = {
    "reporting_line": "one of you is in the other's reporting line",
    "same_department": "you are in the same department",
    "same_boss": "you have the same boss",
    "cross_region": "you are in different regions",
    "no_common_language": "you have no language in common",
    "former_partner": "you were partners before",
}


def in_words(nearest: Nearest) -> str:
    """Return what is between somebody and their nearest partner, for the one who waits."""
    parts = []
    for rule in nearest.rules:
        if rule == "level_gap":
            more = "level" if nearest.levels == 1 else "levels"
            parts.append(f"{nearest.levels} more {more} between you would be needed")
        elif rule == "working_hours":
            more = "minute" if nearest.minutes == 1 else "minutes"
            parts.append(f"{nearest.minutes} more {more} a day of shared working time are needed")
        else:
            parts.append(_BETWEEN[rule])
    return f"With the nearest partner, {' and '.join(parts)}."
