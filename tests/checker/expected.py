"""The summary of the synthetic log, worked out by hand: no figure here comes from the checker.

Days of the pairs, pauses taken off, by month (p3 left on 20 March; p1 rested 7 days, p2 7.5):

         p1    p2   p3  p4  p5  p8  p9  p10 p11
    Jan  10    10   10  10   8   .   .   .   .     48
    Feb  28    28   28  28  28  24  24   .   .    188
    Mar  24  23.5   19  31  31  31  31   .   .    190.5
    Apr  15    15    .  15  17  27  27  10  10    136

The intervals are the roots p of (share − p)² = z² p (1 − p) ÷ n in forty digits.
"""

import copy
from typing import Any

from tests.checker.synthetic import AS_OF, PROGRAM

Summary = dict[str, Any]
KpiRow = dict[str, Any]

_FEW = "fewer than 3 people"
_REVEALS = "would reveal a hidden figure"

# (kpi, unit): {breakdown value or month: (value, n, low, high), or why it is hidden}
_Cell = tuple[float, int] | tuple[float, int, float, float] | str
_ROWS: dict[tuple[str, str], dict[str, _Cell]] = {
    # mentors m1 … m11 but m3, m11 being both; mentees s1 … s8 and m11
    ("participation", "share"): {
        "all": (19 / 68, 68),
        "role mentor": (10 / 48, 48),
        "role mentee": (9 / 20, 20),
    },
    # pools 11+8, 6+2, 6+4; matched 7+8, 2+2, 3+3
    ("match_rate", "share"): {
        "all": (25 / 37, 37),
        "role mentor": (12 / 23, 23),
        "role mentee": (13 / 14, 14),
        "2025-01": (15 / 19, 19),
        "2025-02": (4 / 8, 8),
        "2025-04": (6 / 10, 10),
    },
    # mentors 2 2 13 14 14 14 16 28 28; mentees 2 2 12 14 14 14 15 16 28 28
    ("time_to_match_median", "days"): {
        "all": (14, 19),
        "role mentor": (14, 9),
        "role mentee": (14, 10),
        "2025-01": (14, 11),
        "2025-02": (28, 4),
        "2025-04": (2, 4),
    },
    ("time_to_match_p90", "days"): {
        "all": (28, 19),
        "role mentor": (28, 9),
        "role mentee": (28, 10),
        "2025-01": (16, 11),
        "2025-02": (28, 4),
        "2025-04": (2, 4),
    },
    # declined p6 (s7, asia, Legal); p7 and p12 expired
    ("acceptance", "share"): {
        "all": (9 / 10, 10, 0.5958499732047615, 0.9821237869049271),
        "region europe": (6 / 6, 6, 0.6096657120978347, 1.0),
        "region asia": _FEW,
        "region unknown": _FEW,
        "department Board": (6 / 6, 6, 0.6096657120978347, 1.0),
        "department Legal": (3 / 4, 4, 0.3006418425824019, 0.9544127391902995),
        "2025-01": (5 / 6, 6, 0.4364971778135298, 0.9699466302516934),
        "2025-02": _FEW,
        "2025-04": _FEW,
    },
    # held: p1 2, p2 2, p3 1, p4 3, p5 2, p8 2, p9 1, p10 1; one session every 14 days expected
    ("cadence", "ratio"): {
        "all": (14 * 14 / 562.5, 14),
        "region europe": (8 * 14 / 314.5, 8),
        "region asia": _FEW,
        "region unknown": _FEW,
        "department Board": (9 * 14 / 314.5, 9),
        "department Legal": (5 * 14 / 248, 5),
        "2025-01": (1 * 14 / 48, 1),
        "2025-02": (8 * 14 / 188, 8),
        "2025-03": (3 * 14 / 190.5, 3),
        "2025-04": (2 * 14 / 136, 2),
    },
    # Board 5 4 3 2, Digital 4 5, Legal 5 4 1, Policy 5 4 3; a answered twice
    ("satisfaction", "share"): {
        "all": (8 / 12, 12, 0.39062208887279953, 0.8618799089087669),
        "role mentor": (4 / 5, 5, 0.37553462976252533, 0.9637758913675698),
        "role mentee": (4 / 7, 7, 0.25045836452765724, 0.8417801447485302),
        "region europe": (7 / 9, 9, 0.4525889691069889, 0.9367748928821533),
        "region asia": _FEW,
        "region unknown": _FEW,
        "department Board": _REVEALS,
        "department Digital": _FEW,
        "department Legal": (2 / 3, 3, 0.20765960080204776, 0.9385080552796038),
        "department Policy": (2 / 3, 3, 0.20765960080204776, 0.9385080552796038),
        "2025-01": _FEW,
        "2025-02": (7 / 9, 9, 0.4525889691069889, 0.9367748928821533),
        "2025-03": _FEW,
        "2025-04": _FEW,
    },
    ("satisfaction", "mean_1_to_5"): {
        "all": (3.75, 12),
        "role mentor": (4.2, 5),
        "role mentee": (24 / 7, 7),
        "region europe": (38 / 9, 9),
        "region asia": _FEW,
        "region unknown": _FEW,
        "department Board": _REVEALS,
        "department Digital": _FEW,
        "department Legal": (10 / 3, 3),
        "department Policy": (4.0, 3),
        "2025-01": _FEW,
        "2025-02": (4.0, 9),
        "2025-03": _FEW,
        "2025-04": _FEW,
    },
    # rotated p1 p2; ended p3 in March, p4 (asia) and p5 (Legal) in April
    ("rotation", "share"): {
        "all": (2 / 5, 5),
        "region europe": _REVEALS,
        "region asia": _FEW,
        "department Board": _REVEALS,
        "department Legal": _FEW,
        "2025-03": _FEW,
        "2025-04": _REVEALS,
    },
}

_EVENTS = {
    "program-published": 1,
    "roster-counted": 5,
    "enrolled": 20,
    "training-completed": 2,
    "profile-changed": 1,
    "paused": 2,
    "resumed": 2,
    "org-changed": 2,
    "withdrawn": 1,
    "departed": 1,
    "pair-proposed": 12,
    "paired": 9,
    "pair-declined": 1,
    "pair-expired": 2,
    "pair-paused": 2,
    "pair-resumed": 2,
    "pair-rotated": 2,
    "pair-ended": 3,
    "round-completed": 3,
    "ground-rules-agreed": 9,
    "session-scheduled": 16,
    "session-moved": 1,
    "session-held": 14,
    "session-missed": 1,
    "session-cancelled": 1,
    "survey-due": 29,
    "feedback-submitted": 12,
    "survey-completed": 12,
}


def valid_summary() -> Summary:
    """Return a copy of the summary, to be changed at will."""
    return copy.deepcopy(_SUMMARY)


def _row(kpi: str, unit: str, where: str, cell: _Cell) -> KpiRow:
    by, _, label = where.partition(" ")
    shown = not isinstance(cell, str)
    numbers = () if isinstance(cell, str) else cell
    value, n, low, high = (*numbers, None, None, None, None)[:4]
    return {
        "kpi": kpi,
        "program": PROGRAM,
        "breakdown": {by: label} if label else {},
        "period": "all" if label else where,
        "value": value,
        "unit": unit,
        "n": n,
        "low": low,
        "high": high,
        "shown": shown,
        "why_hidden": None if shown else cell,
    }


_SUMMARY: Summary = {
    "kpis": [
        _row(kpi, unit, where, cell)
        for (kpi, unit), cells in _ROWS.items()
        for where, cell in cells.items()
    ],
    "events": _EVENTS,
    "violations": {"C10": 0, "C11": 0, "order": 0},
    "seed": 1,
    "roster": "synthetic",
    "seconds": 1.0,
    "as_of": AS_OF,
    "program": PROGRAM,
}
