"""The whole check: read, replay, test every invariant, compare with the summary."""

from collections.abc import Iterable

from tests.checker import (
    feedback_rules,
    log_rules,
    org_rules,
    pair_rules,
    proposal_rules,
    round_rules,
    session_rules,
    summary,
)
from tests.checker.reading import Json, read
from tests.checker.replay import replay
from tests.checker.report import Report


def check(lines: Iterable[str], told: dict[str, Json], *, allow_redelivery: bool = False) -> Report:
    """Check the exported lines and the summary `told`. Raises MalformedError without `as_of`."""
    report = Report()
    as_of = summary.taken_at(told)
    exported = read(lines, report)
    log_rules.check_offsets(exported, report)
    events = log_rules.each_once(exported, report, allow_redelivery=allow_redelivery)
    log_rules.check_order(events, report)
    log_rules.check_causes(events, report)
    world = replay(events)
    pair_rules.check_pairs(world, as_of, report)
    org_rules.check_org_changes(world, report)
    proposal_rules.check_proposals(world, report)
    round_rules.check_rounds(world, report)
    session_rules.check_sessions(world, report)
    feedback_rules.check_surveys(world, report)
    feedback_rules.check_privacy(world, report)
    summary.compare(world, told, report)
    return report
