"""A round's pool as it was, out of the event log: whoever doubts a round can run it again."""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import AwareDatetime, BaseModel

from deploy.client import Json
from deploy.matching import FileError, checked
from services.matching.domain.pool import PoolMember
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
from shared.events.registry import EVENTS_BY_TYPE

V = TypeVar("V")


class _Line(BaseModel):
    """A line of the export, as far as it matters here."""

    id: str
    type: str
    subject: str
    time: AwareDatetime
    program: str | None = None
    aggregateversion: int
    data: Json

    def event(self, where: str) -> Event:
        """Return what it tells. Raises FileError."""
        return checked(EVENTS_BY_TYPE[self.type], self.data, where)


class _Known(dict[str, V]):
    """What the log has told of so far."""

    def __missing__(self, key: str) -> V:
        raise FileError(f"tells of {key}, of which no line before it does")


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
    declined: int
    proven: bool


@dataclass
class _World:
    """A program as matching knew it: events of all services, and what its own have made of it."""

    program: Program
    members: _Known[PoolMember] = field(default_factory=_Known)
    pairs: _Known[PairState] = field(default_factory=_Known)
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
                # Proposals of a round are facts: whoever pauses at that moment has one, too.
                for who, role in _roles(event):
                    self.members[who] = self.members[who].seated(role, event.pair_id)
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


def _roles(pair: PairState) -> list[tuple[str, Role]]:
    mentees: list[tuple[str, Role]] = [(side.participant_id, "mentee") for side in pair.mentees]
    return [(pair.mentor.participant_id, "mentor"), *mentees]


def _partners(pair: PairState) -> list[tuple[str, tuple[str, ...]]]:
    mentor = pair.mentor
    found = [(mentor.participant_id, tuple(side.person_id for side in pair.mentees))]
    return found + [(side.participant_id, (mentor.person_id,)) for side in pair.mentees]


def past_round(log: Path, round_id: str) -> PastRound:
    """Rebuild what a round was run on out of an export of the log (`upward events export`).

    Blocks on the disk. Raises FileError where the log does not tell the round's end, or not when
    it began, and naming the line of what is no export or not from the log's beginning on.
    """
    told, end = _end(log, round_id)
    if end.started_at is None:
        raise FileError(f"{log} does not tell when the round {round_id} began.")
    world, mine = _World(Program(id=end.program_id)), set[str]()
    for where, line in _read(log, EVENTS_BY_TYPE):
        if line.program != end.program_id:
            continue
        event = line.event(where)
        if isinstance(event, PairProposed) and event.round_id == round_id:
            mine.add(event.pair_id)
        elif isinstance(event, PairState | PairEvent) and event.pair_id in mine:
            # An answer may come before the rest of the round is proposed.
            pass
        elif line.time <= end.started_at:
            try:
                world.apply(event, line.aggregateversion)
            except FileError as error:
                raise FileError(f"{where}: {error}") from error
        if line.id == told.id:
            break
    try:
        policy, pool = world.program.policy(end.started_at), world.pool(end.started_at)
    except (UpwardError, ValueError, OverflowError) as error:
        raise FileError(f"{log} does not tell the round's program as it was: {error}") from error
    snapshot = Snapshot()
    for candidate in pool:
        snapshot.add(candidate)
    return PastRound(end, policy, pool, world.declined, snapshot.id(policy) == end.snapshot)


def _end(log: Path, round_id: str) -> tuple[_Line, RoundCompleted]:
    for where, line in _read(log, {RoundCompleted.type()}):
        if line.subject == round_id:
            return line, checked(RoundCompleted, line.data, where)
    raise FileError(f"{log} does not tell the end of a round {round_id}.")


def _read(log: Path, types: Container[str]) -> Iterator[tuple[str, _Line]]:
    """Yield where events of these types are, and them: once, though a kill may leave one twice."""
    seen = set[str]()
    with log.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            where = f"{log}:{number}"
            line = checked(_Line, text, where)
            if line.type in types and line.id not in seen:
                seen.add(line.id)
                yield where, line


def policy_toml(policy: Policy) -> str:
    """Return a policy as `upward match` reads it."""
    told = policy.model_dump(exclude={"weights"})
    lines = [f"{name} = {_toml(value)}" for name, value in told.items()]
    if policy.weights:
        lines += ["", "[weights]", *(f"{term} = {of}" for term, of in policy.weights.items())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
