"""What other rules would bring: each that a policy can relax, relaxed alone."""

from collections.abc import Callable, Iterator, Sequence

from services.matching.engine.model import Candidate, Policy, RuleCode, WhatIf
from services.matching.engine.solve import solve
from services.matching.engine.watch import Progress, Watch

_MINUTES = 30


def relaxations(policy: Policy) -> Iterator[tuple[RuleCode, dict[str, int | bool]]]:
    """Yield each rule that the policy can relax by a step, in the rules' order, and how."""
    if policy.min_level_gap > 0:
        yield "level_gap", {"min_level_gap": policy.min_level_gap - 1}
    if policy.cross_department:
        yield "same_department", {"cross_department": False}
    if policy.different_boss:
        yield "same_boss", {"different_boss": False}
    if not policy.cross_region:
        yield "cross_region", {"cross_region": True}
    if policy.min_overlap_minutes > 0:
        less = max(policy.min_overlap_minutes - _MINUTES, 0)
        yield "working_hours", {"min_overlap_minutes": less}


def what_if(
    pool: Sequence[Candidate], policy: Policy, seed: int, watch: Watch
) -> tuple[WhatIf, ...]:
    """Solve the pool once for each relaxation of the policy; blocks as `solve` does, each time.

    Raises RepeatedError for a repeated participant.
    """
    found = []
    for rule, changes in relaxations(policy):
        relaxed = policy.model_copy(update=changes)
        hear = _as_part(watch, rule)
        result = solve(pool, relaxed, seed, Watch(hear, watch.seconds))
        found.append(
            WhatIf(
                rule=rule,
                changes=changes,
                matched=result.matched,
                objective=result.objective,
                gap=result.gap,
            )
        )
    return tuple(found)


def _as_part(watch: Watch, rule: RuleCode) -> Callable[[Progress], None]:
    def hear(progress: Progress) -> None:
        watch.hear(Progress(f"what if: {rule}, {progress.stage}", progress.done, progress.gap))

    return hear
