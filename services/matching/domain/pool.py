"""The pool: participants as matching sees them, in whatever order events arrive."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import ClassVar, Literal, NamedTuple, Self, get_args

from services.matching.domain.program import Program
from services.matching.engine.hours import minutes_ahead
from services.matching.engine.model import Candidate, Explanation, UnmatchedCode
from shared.clock import Instant
from shared.errors import RuleViolationError
from shared.events.pairs import PairSide
from shared.events.participants import (
    Departed,
    Enrolled,
    EnrolledRole,
    OrgChanged,
    OrgFacts,
    ParticipantEvent,
    ParticipantState,
    Paused,
    Preferences,
    Resumed,
    Role,
    TopicLevel,
    TrainingCompleted,
    Withdrawn,
    WorkingHours,
)
from shared.events.programs import Part
from shared.store.port import Document, Index

MemberStatus = Literal["unknown", "enrolled", "paused", "withdrawn", "departed"]
WaitingCode = UnmatchedCode | Literal["not_ready", "paused", "next_round"]


class Profile(Part):
    """What a participant says of themself, and where they are."""

    role: EnrolledRole
    region: str | None
    country: str | None
    timezone: str | None
    teaches: tuple[TopicLevel, ...]
    wants: tuple[TopicLevel, ...]
    languages: tuple[str, ...]
    working_hours: WorkingHours
    preferences: Preferences
    enrolled_at: Instant


class Seat(Part):
    """A role's place in a pair: taken by one proposed or living pair, or free since a time."""

    pair_id: str | None = None
    free_since: Instant | None = None


class Seen(Part):
    """The highest aggregate version that each group of facts reflects."""

    profile: int = 0
    org: int = 0
    readiness: int = 0
    status: int = 0


class Standing(NamedTuple):
    """All that decides whom a member may be paired with in a round of their program."""

    mark: str
    roles: tuple[Role, ...]
    ahead: int | None
    """Minutes by which their clocks are ahead of UTC in the middle of the round's term."""


class PoolMember(Document):
    """A participant as matching sees them.

    `apply` keeps, for each group of facts, the newest version: the same events give the same
    member in any order and however often, and one that arrives late completes a placeholder
    without undoing what came before it.
    """

    collection: ClassVar[str] = "pool_members"
    indexes: ClassVar[tuple[Index, ...]] = (
        Index(("program_id", "status")),
        Index(("person_id",)),
    )

    program_id: str
    person_id: str
    status: MemberStatus = "unknown"
    profile: Profile | None = None
    org: OrgFacts = OrgFacts(level=None, department=None, manager_chain=())
    ready: bool = False
    ready_at: Instant | None = None
    seen: Seen = Seen()
    mentor_seat: Seat = Seat()
    mentee_seat: Seat = Seat()
    vetoes: tuple[str, ...] = ()
    former_partners: tuple[str, ...] = ()
    turned_down: tuple[str, ...] = ()
    """Persons of a proposal that somebody declined: it is not made again."""
    declines: int = 0
    """Proposals that others declined since the last pair."""
    unmatched: UnmatchedCode | None = None
    """Why the last round found nobody."""
    explained: Explanation | None = None
    """More of it, where all that a round asks for was known."""

    @classmethod
    def placeholder(cls, event: ParticipantState | ParticipantEvent) -> Self:
        """Return a member of whom nothing is known yet; `apply` the event to it."""
        return cls(id=event.participant_id, program_id=event.program_id, person_id=event.person_id)

    def apply(self, event: ParticipantState | ParticipantEvent, version: int) -> Self:
        """Take over what `event`, the aggregate's `version`, says and nothing newer has said."""
        news: dict[str, object] = {}
        seen: dict[str, int] = {}
        if isinstance(event, ParticipantState) and version > self.seen.profile:
            news["profile"] = Profile.model_validate(event, from_attributes=True)
            seen["profile"] = version
        if isinstance(event, ParticipantState | OrgChanged) and version > self.seen.org:
            facts = event.current if isinstance(event, OrgChanged) else event
            news["org"] = OrgFacts.model_validate(facts, from_attributes=True)
            seen["org"] = version
        if (
            isinstance(event, ParticipantState | TrainingCompleted)
            and version > self.seen.readiness
        ):
            news |= {"ready": event.ready, "ready_at": event.ready_at}
            seen["readiness"] = version
        status = _STATUS_AFTER.get(type(event))
        if status is not None and version > self.seen.status:
            news["status"] = status
            seen["status"] = version
        if not news:
            return self
        return self.changed(**news, seen=self.seen.model_copy(update=seen))

    def seat(self, role: Role) -> Seat:
        """Return the role's place."""
        return self.mentor_seat if role == "mentor" else self.mentee_seat

    def plays(self, role: Role) -> bool:
        """Return whether the participant enrolled for this role (too)."""
        return self.profile is not None and self.profile.role in (role, "both")

    def available(self, role: Role) -> bool:
        """Return whether a round may match the participant in this role."""
        return (
            self.status == "enrolled"
            and self.ready
            and self.plays(role)
            and self.seat(role).pair_id is None
        )

    @property
    def free_roles(self) -> tuple[Role, ...]:
        """The roles in which a round may match the participant."""
        return tuple(role for role in get_args(Role) if self.available(role))

    def mark(self) -> str:
        """Return a digest of all that a round makes of the member, but for what it changes."""
        own = {"version", "unmatched", "explained", "mentor_seat", "mentee_seat"}
        facts = self.model_dump_json(exclude=own)
        return hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()

    def standing(self, term_middle: date) -> Standing:
        """Return how the member stands before a round of a term with this middle."""
        zone = self.profile.timezone if self.profile else None
        return Standing(self.mark(), self.free_roles, minutes_ahead(zone, term_middle))

    def waiting_code(self, role: Role) -> WaitingCode | None:
        """Return why a participant has no pair in this role; None where they wait for none."""
        if (
            self.status not in ("enrolled", "paused")
            or not self.plays(role)
            or self.seat(role).pair_id is not None
        ):
            return None
        if self.status == "paused":
            return "paused"
        if not self.ready:
            return "not_ready"
        return self.unmatched or "next_round"

    def ready_since(self, role: Role) -> datetime:
        """Return when waiting began: the later of being ready and the end of the last pair.

        Raises RuleViolationError for somebody who is not ready, who does not wait.
        """
        if not self.ready or self.profile is None:
            raise RuleViolationError("The participant is not ready.", code="not_ready")
        ready_at = self.ready_at or self.profile.enrolled_at
        return max(ready_at, self.seat(role).free_since or ready_at)

    def candidate(self, program: Program, now: datetime) -> Candidate:
        """Return the member for the engine, in the roles in which they are free.

        Raises RuleViolationError for a member who is available in no role.
        """
        free = self.free_roles
        if not free:
            raise RuleViolationError("The participant is not available.", code="not_available")
        waited = max(now - self.ready_since(role) for role in free)
        return self.facts(program, "both" if len(free) == 2 else free[0]).model_copy(
            update={"waited_days": max(waited.days, 0)}
        )

    def take_seat(self, role: Role, pair_id: str) -> Self:
        """Hold the role's place for a proposal. Raises RuleViolationError where it is taken."""
        if self.seat(role).pair_id == pair_id:
            return self
        if not self.available(role):
            raise RuleViolationError("The participant is not available.", code="not_available")
        return self.seated(role, pair_id).changed(unmatched=None, explained=None)

    def seated(self, role: Role, pair_id: str) -> Self:
        """Hold the place for a proposal that is a fact, whatever else became of them."""
        return self._with_seat(role, self.seat(role).model_copy(update={"pair_id": pair_id}))

    def paired_with(self, persons: Iterable[str]) -> Self:
        """Remember partners for ever, from the moment that the pair exists."""
        partners = tuple(sorted({*self.former_partners, *persons}))
        return self.changed(former_partners=partners, declines=0)

    def leave_seat(self, role: Role, pair_id: str, ended_at: datetime | None = None) -> Self:
        """Free the place that the pair held; `ended_at` is the end of a pair that existed."""
        seat = self.seat(role)
        if seat.pair_id != pair_id:
            return self
        return self._with_seat(role, Seat(free_since=ended_at or seat.free_since))

    def not_again(self, persons: Iterable[str], *, declined_by_other: bool) -> Self:
        """Remember a proposal that was declined; others' refusals bring one forward."""
        turned_down = tuple(sorted({*self.turned_down, *persons}))
        return self.changed(
            turned_down=turned_down, declines=self.declines + int(declined_by_other)
        )

    def missed(self, code: UnmatchedCode, why: Explanation | None = None) -> Self:
        """Remember why a round found nobody; the same reason again changes nothing."""
        if (self.unmatched, self.explained) == (code, why):
            return self
        return self.changed(unmatched=code, explained=why)

    def side(self) -> PairSide:
        """Return the member as a pair's event names them.

        Raises RuleViolationError while the level or the department is unknown.
        """
        if self.org.level is None or self.org.department is None:
            raise RuleViolationError("Level or department is unknown.", code="facts_unknown")
        return PairSide(
            participant_id=self.id,
            person_id=self.person_id,
            level=self.org.level,
            department=self.org.department,
            region=self.profile.region if self.profile else None,
        )

    def facts(self, program: Program, role: EnrolledRole) -> Candidate:
        """Return the member for the engine in a given role, free or not.

        Raises RuleViolationError while the participant's profile has not arrived.
        """
        if self.profile is None:
            raise RuleViolationError("The profile has not arrived.", code="profile_unknown")
        profile = self.profile
        return Candidate(
            participant_id=self.id,
            person_id=self.person_id,
            role=role,
            level=self.org.level,
            department=self.org.department,
            manager_chain=self.org.manager_chain,
            region=profile.region,
            country=profile.country,
            timezone=profile.timezone,
            teaches=profile.teaches,
            wants=profile.wants,
            languages=profile.languages,
            working_hours=profile.working_hours,
            preferences=profile.preferences,
            capacity=program.capacity(profile.preferences),
            # Not told apart from a veto: neither says who did not want whom.
            vetoes=(*self.vetoes, *self.turned_down),
            former_partners=self.former_partners,
            declines=self.declines,
        )

    def _with_seat(self, role: Role, seat: Seat) -> Self:
        if role == "mentor":
            return self.changed(mentor_seat=seat)
        return self.changed(mentee_seat=seat)


@dataclass(frozen=True)
class Free:
    """Who is free in a program: in which roles, and a digest of how they stand under a version."""

    version: int
    roles: frozenset[Role]
    digest: str

    @classmethod
    def of(cls, program: Program, standings: Mapping[str, Standing]) -> Self:
        """Sum up how these stand."""
        version = program.config.version
        roles = frozenset(role for standing in standings.values() for role in standing.roles)
        return cls(version, roles, digest_of(version, standings))


def digest_of(version: int, standings: Mapping[str, Standing]) -> str:
    """Return a digest of how these members stand under a version of their program."""
    told = repr((version, sorted((who, tuple(one)) for who, one in standings.items())))
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


_STATUS_AFTER: dict[type, MemberStatus] = {
    Enrolled: "enrolled",
    Paused: "paused",
    Resumed: "enrolled",
    Withdrawn: "withdrawn",
    Departed: "departed",
}
