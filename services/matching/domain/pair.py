"""A pair, from its proposal to its end."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, Literal, NoReturn, Self

from services.matching.domain.pool import PoolMember
from services.matching.domain.program import Program
from services.matching.engine.constraints import violations as broken_rules
from services.matching.engine.model import Candidate, FoundPair, RuleCode
from services.matching.engine.rationale import pair_topics, rationale
from shared.clock import Instant
from shared.errors import RuleViolationError
from shared.events.pairs import (
    EndReason,
    Origin,
    Paired,
    PairProposed,
    PairSide,
    PauseReason,
    RationaleTerm,
    RotationReason,
)
from shared.events.participants import Role
from shared.store.port import Document, Index

PairStatus = Literal["proposed", "active", "paused", "declined", "expired", "rotated", "ended"]

# What a move in the organization can break; hours, languages and the like were agreed to.
_ORG_RULES: dict[RuleCode, PauseReason] = {
    "level_gap": "level_gap",
    "reporting_line": "reporting_line",
    "same_department": "same_department",
    "same_boss": "same_boss",
}


class Pair(Document):
    """One mentor with one mentee, or several in a circle.

    proposed → active → paused → active … → rotated | ended, or proposed → declined | expired.
    A transition that already happened returns the pair unchanged; one that its state does not
    allow raises RuleViolationError with the code `pair_<state>`.
    """

    collection: ClassVar[str] = "pairs"
    indexes: ClassVar[tuple[Index, ...]] = (
        Index(("program_id", "status")),
        Index(("status", "expires_at")),
        Index(("status", "ends_at")),
        Index(("round_id",)),
        Index(("participant_ids",), many=True),
    )

    program_id: str
    round_id: str | None
    origin: Origin
    status: PairStatus = "proposed"
    participant_ids: tuple[str, ...]
    mentor: PairSide
    mentees: tuple[PairSide, ...]
    score: int
    rationale: tuple[RationaleTerm, ...]
    rules: tuple[RuleCode, ...]
    topics: tuple[str, ...]
    ready_since: dict[str, Instant]
    proposed_at: Instant
    expires_at: Instant
    ends_at: Instant
    accepted: tuple[str, ...] = ()
    started_at: Instant | None = None
    pause_reason: PauseReason | None = None
    closed_at: Instant | None = None
    close_reason: RotationReason | EndReason | None = None
    next_round_id: str | None = None

    def role_of(self, participant_id: str) -> Role:
        """Return a member's role. Raises RuleViolationError for anybody else."""
        if participant_id not in self.participant_ids:
            raise RuleViolationError("Not a member of this pair.", code="not_a_member")
        return "mentor" if participant_id == self.mentor.participant_id else "mentee"

    def partners_of(self, participant_id: str) -> tuple[str, ...]:
        """Return the person ids of whom a member is paired with: circles join by the mentor."""
        if self.role_of(participant_id) == "mentor":
            return tuple(side.person_id for side in self.mentees)
        return (self.mentor.person_id,)

    def accept(self, by: str, now: datetime) -> Self:
        """Record a member's yes; the last one starts the pair.

        Raises RuleViolationError also once the time to answer is over (`proposal_expired`).
        """
        self.role_of(by)
        if by in self.accepted and self.status in ("proposed", "active", "paused"):
            return self
        self._require_open_proposal(now)
        accepted = (*self.accepted, by)
        if set(accepted) < set(self.participant_ids):
            return self.changed(accepted=accepted)
        return self.changed(accepted=accepted, status="active", started_at=now)

    def decline(self, by: str, now: datetime) -> Self:
        """End the proposal by a member's no, also after their own yes; who it was is not kept.

        Raises RuleViolationError also once the time to answer is over (`proposal_expired`).
        """
        self.role_of(by)
        if self.status == "declined":
            return self
        self._require_open_proposal(now)
        return self.changed(status="declined", closed_at=now)

    def call_off(self, now: datetime) -> Self:
        """End the proposal because it cannot stand any more; looks like any other decline."""
        if self.status == "declined":
            return self
        self._require("proposed")
        return self.changed(status="declined", closed_at=now)

    def expire(self, now: datetime) -> Self:
        """End the proposal for want of answers. Raises before `expires_at` (`not_expired`)."""
        if self.status == "expired":
            return self
        self._require("proposed")
        if now < self.expires_at:
            raise RuleViolationError("There is still time to answer.", code="not_expired")
        return self.changed(status="expired", closed_at=now)

    def pause(self, reason: PauseReason) -> Self:
        """Let the pair rest; a paused one takes over another reason."""
        if self.status == "paused" and self.pause_reason == reason:
            return self
        self._require("active", "paused")
        return self.changed(status="paused", pause_reason=reason)

    def resume(self) -> Self:
        """Let the pair go on."""
        if self.status == "active":
            return self
        self._require("paused")
        return self.changed(status="active", pause_reason=None)

    def rotate(self, reason: RotationReason, next_round_id: str, now: datetime) -> Self:
        """End the pair so that its members go into the next round."""
        if self.status == "rotated":
            return self
        self._require("active", "paused")
        return self.changed(
            status="rotated", close_reason=reason, next_round_id=next_round_id, closed_at=now
        )

    def end(self, reason: EndReason, now: datetime) -> Self:
        """End the pair for good."""
        if self.status == "ended":
            return self
        self._require("active", "paused")
        return self.changed(status="ended", close_reason=reason, closed_at=now)

    def waited_days(self) -> dict[str, float]:
        """Return how long each member waited for the pair to start, in days.

        Raises RuleViolationError for a pair that never started.
        """
        started_at = self._started()
        return {
            participant_id: max((started_at - since) / timedelta(days=1), 0.0)
            for participant_id, since in self.ready_since.items()
        }

    def as_proposed(self) -> PairProposed:
        """Return the event that tells the members of the proposal."""
        return PairProposed.model_validate(self._event_fields())

    def as_paired(self) -> Paired:
        """Return the event of the pair's start. Raises RuleViolationError before it."""
        return Paired.model_validate(
            self._event_fields()
            | {
                "started_at": self._started(),
                "ends_at": self.ends_at,
                "waited_days": self.waited_days(),
            }
        )

    def _event_fields(self) -> dict[str, object]:
        names = PairProposed.model_fields.keys() - {"pair_id"}
        return {name: getattr(self, name) for name in names} | {"pair_id": self.id}

    def _started(self) -> datetime:
        if self.started_at is None:
            self._refuse()
        return self.started_at

    def _require_open_proposal(self, now: datetime) -> None:
        self._require("proposed")
        if now >= self.expires_at:
            raise RuleViolationError("The time to answer is over.", code="proposal_expired")

    def _require(self, *states: PairStatus) -> None:
        if self.status not in states:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise RuleViolationError(f"The pair is {self.status}.", code=f"pair_{self.status}")


def propose(
    pair_id: str,
    found: FoundPair,
    mentor: PoolMember,
    mentees: Sequence[PoolMember],
    program: Program,
    *,
    round_id: str | None,
    origin: Origin,
    now: datetime,
) -> Pair:
    """Return the proposal of a pair that the engine found or scored, with its rationale.

    Raises RuleViolationError for members whose facts are unknown.
    """
    junior, seniors = _candidates(mentor, mentees, program)
    ready_since = {mentor.id: mentor.ready_since("mentor")}
    ready_since |= {mentee.id: mentee.ready_since("mentee") for mentee in mentees}
    return Pair(
        id=pair_id,
        program_id=program.id,
        round_id=round_id,
        origin=origin,
        participant_ids=(mentor.id, *(mentee.id for mentee in mentees)),
        mentor=mentor.side(),
        mentees=tuple(mentee.side() for mentee in mentees),
        score=found.score,
        rationale=rationale(found, junior, seniors, program.policy(now), program.titles),
        rules=found.rules,
        topics=pair_topics(junior, seniors),
        ready_since=ready_since,
        proposed_at=now,
        expires_at=program.expires_at(now),
        ends_at=program.term_ends_at(now),
    )


def violations(
    pair: Pair, members: Mapping[str, PoolMember], program: Program
) -> tuple[PauseReason, ...]:
    """Return which constraints on the organization the pair breaks, as its members stand now.

    An unknown level or department breaks the rule that needs it. Raises RuleViolationError for a
    member whose profile is unknown, KeyError for one who is missing.
    """
    mentor, mentees = _candidates(
        members[pair.mentor.participant_id],
        [members[side.participant_id] for side in pair.mentees],
        program,
    )
    broken = broken_rules(mentor, mentees, program.policy(pair.proposed_at))
    return tuple(reason for code, reason in _ORG_RULES.items() if code in broken)


def pause_reasons(
    pair: Pair, members: Mapping[str, PoolMember], program: Program
) -> tuple[PauseReason, ...]:
    """Return all that speaks for the pair's rest now; empty if it may go on. Raises as above."""
    if any(members[participant_id].status == "paused" for participant_id in pair.participant_ids):
        return (*violations(pair, members, program), "participant_paused")
    return violations(pair, members, program)


def stands(pair: Pair, members: Mapping[str, PoolMember], program: Program) -> bool:
    """Return whether a proposal may still become a pair, as its members are now. Raises as above.

    Hours and languages are not compared again: what has changed there, the members know best.
    """
    return (
        not program.closed
        and all(
            member.status == "enrolled" and member.ready and member.plays(pair.role_of(member.id))
            for member in members.values()
        )
        and not violations(pair, members, program)
    )


def _candidates(
    mentor: PoolMember, mentees: Sequence[PoolMember], program: Program
) -> tuple[Candidate, list[Candidate]]:
    return mentor.facts(program, "mentor"), [mentee.facts(program, "mentee") for mentee in mentees]
