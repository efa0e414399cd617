"""Why somebody waits."""

from collections.abc import Mapping

from services.matching.engine.model import RuleCode, UnmatchedCode

# Told to nobody as the reason for waiting: it would say that somebody does not want them.
_UNTOLD: frozenset[RuleCode] = frozenset({"veto", "same_person"})


def main_reason(tally: Mapping[RuleCode, int]) -> UnmatchedCode:
    """Return what excluded most of the other side, the first in the rules' order if equal."""
    told: list[RuleCode] = [code for code in tally if tally[code] and code not in _UNTOLD]
    most = max((tally[code] for code in told), default=0)
    return next((code for code in told if tally[code] == most), "no_partner")
