"""Invariants of one pair: C14 its rationale, C15 its life from proposal to end."""

from datetime import datetime, timedelta

from tests.checker.report import Report
from tests.checker.world import Pair, World

_ANSWERS = frozenset({"paired", "pair-declined", "pair-expired"})
_LEAVINGS = frozenset({"pair-rotated", "pair-ended"})
_AGREED_TERMS = (
    "program_id",
    "round_id",
    "mentor",
    "mentees",
    "score",
    "rationale",
    "rules",
    "topics",
    "origin",
    "expires_at",
)

# The scheduler that expires proposals runs now and then.
_EXPIRY_SLACK = timedelta(days=1)


def check_pairs(world: World, as_of: datetime, report: Report) -> None:
    """Check every pair by itself."""
    for pair in world.pairs.values():
        _check_life(pair, as_of, report)
        _check_times(pair, report)
        _check_rationale(pair, report)


def _check_life(pair: Pair, as_of: datetime, report: Report) -> None:
    """proposed → paired | declined | expired; active ⇄ paused → rotated | ended; then nothing.

    A pair at rest may be paused again for another reason; it is one rest.
    """
    state, reason = "new", ""
    for event in pair.events:
        before = state
        if event.name == "pair-proposed":
            legal, state = before == "new", "proposed"
        elif event.name in _ANSWERS:
            legal = before == "proposed"
            state = "active" if event.name == "paired" else "over"
        elif event.name in _LEAVINGS:
            legal, state = before in ("active", "paused"), "over"
        elif event.name == "pair-paused":
            took_over = before == "paused" and event.data["reason"] != reason
            legal, state, reason = before == "active" or took_over, "paused", event.data["reason"]
        else:
            legal, state = before == "paused", "active"
        if not legal:
            report.violation("C15", str(event), f"while the pair was {before}")
    unanswered = pair.proposed is not None and pair.answered is None
    if unanswered and pair.proposed and pair.proposed.instant("expires_at") + _EXPIRY_SLACK < as_of:
        report.violation("C15", str(pair.proposed), "was neither answered nor expired")


def _check_times(pair: Pair, report: Report) -> None:
    if pair.paired is None or pair.started_at is None:
        return
    started, paired = pair.started_at, pair.paired
    if started > paired.instant("expires_at"):
        report.violation("C15", str(paired), "after its proposal expired")
    if started >= paired.instant("ends_at"):
        report.violation("C15", str(paired), "ends before it starts")
    if set(paired.data["waited_days"]) != pair.member_ids:
        report.violation("C15", str(paired), "waited_days does not name the members")
    if any(days < 0 for days in paired.data["waited_days"].values()):
        report.violation("C15", str(paired), "somebody waited less than no time")
    since = started
    for event in pair.events:
        if event.name in _LEAVINGS or event.name in ("pair-paused", "pair-resumed"):
            at = event.instant("ended_at" if event.name in _LEAVINGS else "at")
            if at < since:
                report.violation("C15", str(event), f"at {at}, before {since}")
            since = max(since, at)


def _check_rationale(pair: Pair, report: Report) -> None:
    for event in (pair.proposed, pair.paired):
        if event is None:
            continue
        terms = event.data["rationale"]
        if not terms or any(not term["text"].strip() for term in terms):
            report.violation("C14", str(event), "has no rationale in words")
        points = sum(term["points"] for term in terms)
        if points != event.data["score"]:
            report.violation("C14", str(event), f"{points} points, score {event.data['score']}")
        if not event.data["rules"]:
            report.violation("C14", str(event), "names no rule that was applied")
    if pair.proposed and pair.paired:
        for key in _AGREED_TERMS:
            if pair.proposed.data.get(key) != pair.paired.data.get(key):
                report.violation("C14", str(pair.paired), f"{key} is not what was proposed")
