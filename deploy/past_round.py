"""A round's pool as it was, out of the event log: whoever doubts a round can run it again."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from deploy.client import Json
from services.matching.domain.pool import PoolMember, Seat
from services.matching.domain.program import Program
from services.matching.engine.model import Candidate, Policy, Snapshot
from shared.errors import UpwardError
from shared.events.envelope import Event
from shared.events.pairs import (
    PairDeclined,
    Paired,
    PairEnded,
    PairEvent,
    PairExpired,
    PairProposed,
    PairRotated,
    PairState,
    RoundCompleted,
)
from shared.events.participants import ParticipantEvent, ParticipantState, Role
from shared.events.programs import ProgramClosed, ProgramPublished
from shared.events.registry import EVENT_CLASSES

_CLASSES = {kind.type(): kind for kind in EVENT_CLASSES}


class RoundUnknownError(UpwardError):
    """The log does not hold the round's end, or not when it began."""

    code = "round_unknown"


@dataclass(frozen=True)
class PastRound:
    """What a round was run on.

    `proven` says that pool and policy have the digest that the round told. Where it is false, the
    log does not hold all of it: it never tells who declined a proposal (`declined` were, before),
    and what was on its way when the round began had not arrived yet.
    """

    completed: RoundCompleted
    policy: Policy
    pool: list[Candidate]
    proposed: list[PairProposed]
    declined: int
    proven: bool


@dataclass
class _World:
    """A program as matching knew it: events of all services, and what its own have made of it."""

    program: Program
    members: dict[str, PoolMember] = field(default_factory=dict)
    pairs: dict[str, PairState] = field(default_factory=dict)
    declined: int = 0

    def apply(self, event: Event, version: int) -> None:
        """Take the next event of the log."""
        match event:
            case ProgramPublished():
                self.program = self.program.publish(event)
            case ProgramClosed():
                self.program = self.program.close(event)
            case ParticipantState() | ParticipantEvent():
                known = self.members.get(event.participant_id) or PoolMember.placeholder(event)
                self.members[known.id] = known.apply(event, version)
            case PairProposed():
                self.pairs[event.pair_id] = event
                for who, role in _roles(event):
                    self._seat(who, role, Seat(pair_id=event.pair_id))
            case Paired():
                for who, persons in _partners(event):
                    self.members[who] = self.members[who].paired_with(persons)
            case PairDeclined():
                self.declined += 1
                for who, persons in _partners(self.pairs[event.pair_id]):
                    self.members[who] = self.members[who].not_again(
                        persons, declined_by_other=False
                    )
                self._free(event.pair_id, None)
            case PairExpired():
                self._free(event.pair_id, None)
            case PairRotated() | PairEnded():
                self._free(event.pair_id, event.ended_at)
            case _:
                pass

    def pool(self, now: datetime) -> list[Candidate]:
        """Return who is free, by participant id, as a round at that moment sees them."""
        return [
            member.candidate(self.program, now)
            for _, member in sorted(self.members.items())
            if member.available("mentor") or member.available("mentee")
        ]

    def _free(self, pair_id: str, ended_at: datetime | None) -> None:
        for who, role in _roles(self.pairs[pair_id]):
            self.members[who] = self.members[who].leave_seat(role, pair_id, ended_at)

    def _seat(self, who: str, role: Role, seat: Seat) -> None:
        # Proposals of a round are facts: whoever pauses at that moment has one, too.
        held = self.members[who].seat(role).model_copy(update={"pair_id": seat.pair_id})
        place = "mentor_seat" if role == "mentor" else "mentee_seat"
        self.members[who] = self.members[who].changed(**{place: held})


def _roles(pair: PairState) -> list[tuple[str, Role]]:
    mentees: list[tuple[str, Role]] = [(side.participant_id, "mentee") for side in pair.mentees]
    return [(pair.mentor.participant_id, "mentor"), *mentees]


def _partners(pair: PairState) -> list[tuple[str, tuple[str, ...]]]:
    mentor = pair.mentor
    found = [(mentor.participant_id, tuple(side.person_id for side in pair.mentees))]
    return found + [(side.participant_id, (mentor.person_id,)) for side in pair.mentees]


def past_round(log: Path, round_id: str) -> PastRound:
    """Rebuild what a round was run on out of an export of the log (`upward events export`).

    Blocks on the disk. Raises RoundUnknownError, and KeyError or ValueError for what is no export.
    """
    completed = next(
        (event for event in _read(log, {RoundCompleted.type()}) if event["subject"] == round_id),
        None,
    )
    if completed is None:
        raise RoundUnknownError(f"{log} does not tell the end of a round {round_id}.")
    end = RoundCompleted.model_validate(completed["data"])
    if end.started_at is None:
        raise RoundUnknownError(f"{log} does not tell when the round {round_id} began.")
    world = _World(Program(id=end.program_id))
    mine: dict[str, PairProposed] = {}
    for told in _read(log, _CLASSES):
        if told["program"] != end.program_id:
            continue
        event = _CLASSES[told["type"]].model_validate(told["data"])
        if isinstance(event, PairProposed) and event.round_id == round_id:
            mine[event.pair_id] = event
        elif isinstance(event, PairState | PairEvent) and event.pair_id in mine:
            # An answer may come before the rest of the round is proposed.
            pass
        elif datetime.fromisoformat(told["time"]) <= end.started_at:
            world.apply(event, told["aggregateversion"])
        if told["id"] == completed["id"]:
            break
    policy, pool = world.program.policy(end.started_at), world.pool(end.started_at)
    snapshot = Snapshot()
    for candidate in pool:
        snapshot.add(candidate)
    proven = snapshot.id(policy) == end.snapshot
    return PastRound(end, policy, pool, list(mine.values()), world.declined, proven)


def _read(log: Path, types: Iterable[str]) -> Iterator[Json]:
    """Yield events of these types once each, though the log may hold one twice after a kill."""
    wanted, seen = set(types), set[str]()
    with log.open("rb") as lines:
        for line in lines:
            told = json.loads(line)
            if told["type"] in wanted and told["id"] not in seen:
                seen.add(told["id"])
                yield told


def policy_toml(policy: Policy) -> str:
    """Return a policy as `upward match` reads it."""
    told = policy.model_dump(exclude={"weights"})
    lines = [f"{name} = {_toml(value)}" for name, value in told.items()]
    if policy.weights:
        lines += ["", "[weights]", *(f"{term} = {of}" for term, of in policy.weights.items())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
