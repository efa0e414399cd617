"""The hard constraints: one definition each, for whole pools and for single pairs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from services.matching.engine.grid import Grid, Mask
from services.matching.engine.hours import zone
from services.matching.engine.model import Candidate, Policy, RuleCode, UnknownCode


@dataclass(frozen=True)
class Rule:
    """A constraint: the pairs that it forbids, and the policies that apply it."""

    code: RuleCode
    forbids: Callable[[Grid], Mask]
    applies: Callable[[Policy], bool] = lambda _: True


def _boss(person: Candidate) -> str | None:
    return person.manager_chain[0] if person.manager_chain else None


# Where a fact must be known to prove that a pair is allowed, an unknown one forbids it. Having no
# boss is no unknown fact: somebody is at the top, and dirty lines block only what they touch.
RULES: tuple[Rule, ...] = (
    Rule(
        "level_gap",
        lambda grid: ~grid.levels_known | (grid.level_distance < grid.policy.min_level_gap),
    ),
    Rule("reporting_line", lambda grid: grid.named(lambda person: person.manager_chain)),
    Rule(
        "same_department",
        lambda grid: ~grid.differ(lambda person: person.department),
        lambda policy: policy.cross_department,
    ),
    Rule("same_boss", lambda grid: grid.agree(_boss), lambda policy: policy.different_boss),
    Rule(
        "cross_region",
        lambda grid: ~grid.agree(lambda person: person.region),
        lambda policy: not policy.cross_region,
    ),
    Rule("no_common_language", lambda grid: ~grid.common_language),
    Rule(
        "working_hours",
        lambda grid: grid.overlap < grid.policy.min_overlap_minutes,
        lambda policy: policy.min_overlap_minutes > 0,
    ),
    Rule("former_partner", lambda grid: grid.named(lambda person: person.former_partners)),
    Rule("veto", lambda grid: grid.named(lambda person: person.vetoes)),
    Rule("same_person", lambda grid: grid.named(lambda person: (person.person_id,))),
)


def applied_rules(policy: Policy) -> tuple[RuleCode, ...]:
    """Return the codes of the constraints that hold for every pair under this policy."""
    return tuple(rule.code for rule in RULES if rule.applies(policy))


def unknown_fact(person: Candidate) -> UnknownCode | None:
    """Return why nobody can be matched with this person, whoever it is; None where they can.

    A time zone that is in no database is an unknown one.
    """
    if person.level is None:
        return "level_unknown"
    if person.department is None:
        return "department_unknown"
    if zone(person.timezone) is None:
        return "timezone_unknown"
    return None


def forbidden(grid: Grid) -> Iterator[tuple[RuleCode, Mask]]:
    """Yield every constraint of the grid's policy with the pairs that it forbids."""
    for rule in RULES:
        if rule.applies(grid.policy):
            yield rule.code, rule.forbids(grid)


def violations(
    mentor: Candidate, mentees: Sequence[Candidate], policy: Policy
) -> tuple[RuleCode | UnknownCode, ...]:
    """Return the codes of all that forbids this pair, unknown facts first; empty if allowed."""
    unknown = {unknown_fact(person) for person in (mentor, *mentees)} - {None}
    broken = tuple(code for code, mask in forbidden(Grid([mentor], mentees, policy)) if mask.any())
    return (*sorted(code for code in unknown if code), *broken)
