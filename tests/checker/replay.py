"""Building the world from the log; broken rules are for the invariants to find."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date, datetime

from tests.checker.reading import Event, Json
from tests.checker.world import Facts, Hours, Pair, Pause, Policy, Session, Timeline, World


def replay(events: Iterable[Event]) -> World:
    """Build the world from events in log order; broken rules are for the invariants to find."""
    world = World(list(events))
    for event in world.events:
        world.by_name.setdefault(event.name, []).append(event)
        if event.name == "program-published":
            policies = world.programs.setdefault(event.subject, Timeline())
            policies.add(event.time, _policy(event.data))
        elif event.name == "round-completed":
            world.rounds[event.subject] = event
        elif event.topic == "upward.participants.v1" and event.name != "roster-counted":
            _replay_participant(world, event)
        elif event.topic == "upward.pairs.v1":
            _replay_pair(world.pairs, event)
        elif event.name == "ground-rules-agreed":
            world.agreements.setdefault(event.subject, []).append(event)
        elif event.name.startswith("session-"):
            session = world.sessions.setdefault(
                event.subject, Session(event.subject, event.data["pair_id"])
            )
            session.events.append(event)
    return world


def _policy(data: dict[str, Json]) -> Policy:
    return Policy(
        version=data["version"],
        min_level_gap=data["min_level_gap"],
        cross_department=data["cross_department"],
        cross_region=data["cross_region"],
        different_boss=data.get("different_boss") is not False,
        capacity=1 if data["format"] == "one_to_one" else data["circle_capacity"],
        cadence_days=data["cadence_days"],
        term_days=data["term_days"],
        last_day=date.fromisoformat(data["ends_on"]),
        min_overlap_minutes=data["min_overlap_minutes"],
        surveys=frozenset(
            (plan["kind"], plan["instrument"], plan["instrument_version"])
            for plan in data["surveys"]
        ),
        threshold=data["thresholds"]["scores"],
    )


def _replay_participant(world: World, event: Event) -> None:
    timeline = world.participants.setdefault(event.subject, Timeline())
    world.enrolled_in.setdefault(event.subject, event.program)
    before = timeline.last()
    data = event.data
    if event.name in ("enrolled", "profile-changed"):
        kept = before if event.name == "profile-changed" else None
        timeline.add(event.time, _facts(data, kept))
    elif before is None:
        return
    elif event.name == "training-completed":
        timeline.add(event.time, replace(before, ready=data["ready"]))
    elif event.name in ("paused", "resumed"):
        timeline.add(event.time, replace(before, paused=event.name == "paused"))
    elif event.name in ("withdrawn", "departed", "erased"):
        timeline.add(event.time, replace(before, gone=True))
    elif event.name == "org-changed":
        now = data["current"]
        moved = replace(
            before,
            level=now["level"],
            department=now["department"],
            chain=tuple(now["manager_chain"]),
        )
        timeline.add(event.time, moved)


def _facts(data: dict[str, Json], kept: Facts | None) -> Facts:
    hours = data["working_hours"]
    return Facts(
        person=data["person_id"],
        role=data["role"],
        level=data["level"],
        department=data["department"],
        region=data["region"],
        timezone=data["timezone"],
        chain=tuple(data["manager_chain"]),
        languages=frozenset(data["languages"]),
        hours=Hours(tuple(hours["days"]), _minutes(hours["start"]), _minutes(hours["end"])),
        ready=data["ready"],
        paused=kept.paused if kept else False,
        gone=kept.gone if kept else False,
    )


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


def _replay_pair(pairs: dict[str, Pair], event: Event) -> None:
    pair = pairs.setdefault(event.subject, Pair(event.subject, event.program))
    pair.events.append(event)
    if event.name == "pair-proposed":
        pair.proposed = pair.proposed or event
    elif event.name == "paired":
        pair.paired = pair.paired or event
        pair.answered = pair.answered or event
    elif event.name in ("pair-declined", "pair-expired"):
        pair.answered = pair.answered or event
    elif event.name in ("pair-rotated", "pair-ended"):
        pair.left = pair.left or event
        _close_pause(pair, event.instant("ended_at"))
    elif event.name == "pair-paused":
        _close_pause(pair, event.instant("at"))
        pair.pauses.append(Pause(event.instant("at"), event.data["reason"], event.time))
    elif event.name == "pair-resumed":
        _close_pause(pair, event.instant("at"))


def _close_pause(pair: Pair, at: datetime) -> None:
    if pair.pauses and pair.pauses[-1].until is None:
        pair.pauses[-1].until = at
