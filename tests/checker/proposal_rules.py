"""C13, C10 and C11 of every proposal, by the participants' own states."""

from collections import defaultdict
from datetime import UTC, datetime, time, timedelta
from itertools import permutations, product

from tests.checker.org_rules import broken_org_rules
from tests.checker.overlap import shared_minutes
from tests.checker.reading import Event
from tests.checker.report import Report
from tests.checker.world import Facts, Pair, Policy, Side, Timeline, World


def check_proposals(world: World, report: Report) -> None:
    """Check each proposal, then the members' capacities and former partners."""
    for pair in world.pairs.values():
        _check_proposal(world, pair, report)
    _check_capacity(world, report)
    _check_former_partners(world, report)


def _check_proposal(world: World, pair: Pair, report: Report) -> None:
    event = pair.proposed
    if event is None:
        return
    if pair.mentor is None or not pair.mentees:
        report.violation("C13", str(event), "names no mentee")
        return
    if len(pair.member_ids) != len(pair.members):
        report.violation("C13", str(event), "names somebody twice")
    policies = world.policies_seen(event)
    if not policies:
        report.violation("C13", str(event), f"program {event.program} was not published")
        return
    seen: dict[str, list[Facts]] = {}
    for place, side in enumerate(pair.members):
        known = world.participants.get(side.participant, Timeline[Facts]())
        seen[side.participant] = known.seen_at(event.time)
        role = "mentee" if place else "mentor"
        _check_member(event, side, role, seen[side.participant], world, report)
    middle = _term_middle(event.instant("expires_at"), policies[-1])
    for side in pair.mentees:
        seen_both = list(product(policies, seen[pair.mentor.participant], seen[side.participant]))
        if seen_both:
            _check_fit(event, side, seen_both, middle, report)


def _term_middle(begins: datetime, policy: Policy) -> datetime:
    """Return the middle of the term, which ends with the program's last day at the latest."""
    last = datetime.combine(policy.last_day, time.max, UTC)
    return begins + (min(begins + timedelta(days=policy.term_days), last) - begins) / 2


def _check_member(
    event: Event, side: Side, role: str, seen: list[Facts], world: World, report: Report
) -> None:
    who = f"{role} {side.participant}"
    if world.enrolled_in.get(side.participant) != event.program or not seen:
        report.violation("C13", str(event), f"{who} was not enrolled in the program")
        return
    if not any(facts.ready and not facts.paused and not facts.gone for facts in seen):
        report.violation("C13", str(event), f"{who} was not ready, was paused or had left")
    if not any(facts.plays(role) for facts in seen):
        report.violation("C13", str(event), f"{who} did not enroll in this role")
    if side.person not in {facts.person for facts in seen}:
        report.violation("C13", str(event), f"{who} is another person than {side.person}")
    if side.level not in {facts.level for facts in seen}:
        report.violation("C10", str(event), f"{who} was not at level {side.level}")
    if side.department not in {facts.department for facts in seen}:
        report.violation("C11", str(event), f"{who} was not in department {side.department}")
    if side.region not in {facts.region for facts in seen}:
        report.violation("C13", str(event), f"{who} was not in region {side.region}")


def _check_fit(
    event: Event,
    side: Side,
    seen: list[tuple[Policy, Facts, Facts]],
    middle: datetime,
    report: Report,
) -> None:
    broken = [set(broken_org_rules(*both)) for both in seen]
    for reason in sorted(set.intersection(*broken)):
        code = "C10" if reason == "level_gap" else "C11"
        report.violation(code, str(event), f"{reason} with {side.participant}")
    if not any(_languages(mentor) & _languages(mentee) for _, mentor, mentee in seen):
        report.violation("C13", str(event), f"no language shared with {side.participant}")
    if not any(
        policy.cross_region or (mentor.region is not None and mentor.region == mentee.region)
        for policy, mentor, mentee in seen
    ):
        report.violation("C13", str(event), f"{side.participant} is in another region")
    minutes = [
        (shared_minutes(mentor, mentee, middle.date()), policy.min_overlap_minutes)
        for policy, mentor, mentee in seen
    ]
    if not any(shared is not None and shared >= least for shared, least in minutes):
        what = f"{minutes[-1][0]} minutes shared with {side.participant} in the week of {middle}"
        report.violation("C13", str(event), what)


def _languages(facts: Facts) -> set[str]:
    return {tag.split("-")[0].lower() for tag in facts.languages}


def _check_capacity(world: World, report: Report) -> None:
    """A mentee is in one pair at a time; a mentor has as many mentees as the program says."""
    places: dict[tuple[str, str], list[tuple[datetime, datetime, int, Pair]]] = defaultdict(list)
    for pair in world.pairs.values():
        since, until = pair.open_between()
        if pair.mentor:
            load = (since, until, len(pair.mentees), pair)
            places["mentor", pair.mentor.participant].append(load)
        for side in pair.mentees:
            places["mentee", side.participant].append((since, until, 1, pair))
    for (role, participant), loads in places.items():
        for since, _, _, pair in loads:
            # What began and ended in the same moment as this began took no place beside it.
            others = [load for load in loads if load[0] <= since < load[1]]
            taken = sum(count for _, _, count, _ in others)
            event = pair.proposed or pair.paired
            capacity = 1
            if role == "mentor" and event is not None:
                capacity = max((p.capacity for p in world.policies_seen(event)), default=1)
            if taken > capacity:
                what = f"{role} {participant} has {taken} places of {capacity}"
                report.violation("C13", str(event), what)


def _check_former_partners(world: World, report: Report) -> None:
    """Nobody is proposed to a partner they had before in the program; C18 too if by rotation."""
    together: dict[tuple[str, str, str], list[Pair]] = defaultdict(list)
    for pair in world.pairs.values():
        for side in pair.mentees:
            if pair.mentor:
                together[pair.program, pair.mentor.person, side.person].append(pair)
    for (_, _, mentee), pairs in together.items():
        for former, pair in permutations(pairs, 2):
            event = pair.proposed or pair.paired
            if event and former.paired and former.paired.time <= event.time:
                report.violation("C13", str(event), f"{mentee} again, as in {former.id}")
                if event.data["origin"] == "rotation":
                    report.violation("C18", str(event), f"a rotation repeats {former.id}")
