"""Invariants of rounds: their counts are their proposals', C18 rotations take everybody along."""

from collections import defaultdict

from tests.checker.reading import Event
from tests.checker.report import Report
from tests.checker.world import Facts, Pair, Timeline, World


def check_rounds(world: World, report: Report) -> None:
    """Check every round and every rotation."""
    _check_rounds(world, report)
    _check_rotations(world, report)


def _check_rounds(world: World, report: Report) -> None:
    """`round`: a round's counts are those of its proposals, and no proposal is without a round."""
    proposals: dict[str, list[Event]] = defaultdict(list)
    for event in world.named("pair-proposed"):
        origin, round_id = event.data["origin"], event.data["round_id"]
        if round_id is not None:
            proposals[round_id].append(event)
        if round_id is not None or origin in ("round", "rotation"):
            completed = world.rounds.get(round_id or "")
            if completed is None:
                report.violation("round", str(event), f"round {round_id} was never completed")
            elif origin != completed.data["kind"] or event.program != completed.program:
                report.violation("round", str(event), f"is not of the kind of {completed}")
    for event in world.named("round-completed"):
        data, made = event.data, proposals[event.subject]
        mentors = {proposal.data["mentor"]["participant_id"] for proposal in made}
        mentees = {side["participant_id"] for p in made for side in p.data["mentees"]}
        counts = {"mentors": len(mentors), "mentees": len(mentees)}
        if data["proposed"] != len(made):
            report.violation("round", str(event), f"{data['proposed']} proposed, {len(made)} seen")
        for role, count in counts.items():
            if data["matched"][role] != count:
                what = f"{data['matched'][role]} {role} matched, {count} in its proposals"
                report.violation("round", str(event), what)
            if data["pool"][role] < data["matched"][role]:
                report.violation("round", str(event), f"more {role} matched than in the pool")


def _check_rotations(world: World, report: Report) -> None:
    """C18: who was rotated is in the pool of the rotation that their pair's event names."""
    rotated: dict[str, list[Pair]] = defaultdict(list)
    for pair in world.pairs.values():
        if pair.left and pair.left.name == "pair-rotated":
            rotated[pair.left.data["next_round_id"]].append(pair)
    mine = _pairs_by_member(world)
    for round_id, pairs in rotated.items():
        completed = world.rounds.get(round_id)
        if completed is None or completed.data["kind"] != "rotation":
            what = f"{round_id} is no completed rotation"
            report.violation("C18", ", ".join(pair.id for pair in pairs), what)
            continue
        if any(pair.program != completed.program for pair in pairs):
            report.violation("C18", str(completed), "rotates pairs of another program")
        mentors = {pair.mentor.participant for pair in pairs if pair.mentor}
        mentees = {side.participant for pair in pairs for side in pair.mentees}
        for role, members in (("mentor", mentors), ("mentee", mentees)):
            due = {
                who for who in members if _must_be_in_pool(world, who, mine[role, who], completed)
            }
            counted = completed.data["pool"][f"{role}s"]
            if counted < len(due):
                what = f"{counted} {role}s in the pool, {len(due)} rotated into it"
                report.violation("C18", str(completed), what)


def _pairs_by_member(world: World) -> dict[tuple[str, str], list[Pair]]:
    pairs: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in world.pairs.values():
        for place, side in enumerate(pair.members):
            pairs["mentee" if place else "mentor", side.participant].append(pair)
    return pairs


def _must_be_in_pool(world: World, who: str, pairs: list[Pair], completed: Event) -> bool:
    """Whether `who`, with these pairs in the role, was free and fit when the round ran."""
    seen = world.participants.get(who, Timeline[Facts]()).seen_at(completed.time)
    for facts in seen:
        known = None not in (facts.level, facts.department, facts.timezone)
        if not facts.ready or facts.paused or facts.gone or not known:
            return False
    for pair in pairs:
        since, until = pair.open_between()
        elsewhere = pair.terms.get("round_id") != completed.subject
        if elsewhere and since <= completed.time < until:
            return False
    return bool(seen)
