"""The ground rules of a pair: agreed by all its members, for one scope."""

from datetime import datetime
from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services.sessions.domain.pair import PairRecord
from services.sessions.domain.program import Program
from shared.clock import Instant
from shared.errors import RuleViolationError
from shared.events.sessions import GroundRulesAgreed, Scope
from shared.store.port import Document

OffLimit = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]


class GroundRules(BaseModel):
    """What a member agrees to: the scope, and what they will not talk about, in their words."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    scope: Scope
    off_limits: tuple[OffLimit, ...] = Field(default=(), max_length=20)


class Consent(BaseModel):
    """One member's word."""

    model_config = ConfigDict(frozen=True)

    participant_id: str
    rules: GroundRules
    at: Instant


class Agreement(Document):
    """The agreement of one pair, whose id it has; all consents in it are for the same scope."""

    collection: ClassVar[str] = "agreements"

    program_id: str
    consents: tuple[Consent, ...] = ()
    agreed_at: Instant | None = None

    @classmethod
    def open(cls, pair: PairRecord) -> Self:
        """Return the agreement of a pair in which nobody has said anything yet."""
        return cls(id=pair.id, program_id=pair.program_id)

    @property
    def agreed(self) -> bool:
        """Whether all members agreed to the same scope."""
        return self.agreed_at is not None

    @property
    def scope(self) -> Scope | None:
        """What those who agreed so far agreed to."""
        return self.consents[0].rules.scope if self.consents else None

    def agree(
        self, by: str, rules: GroundRules, pair: PairRecord, program: Program, now: datetime
    ) -> Self:
        """Record a member's word; the last one completes the agreement.

        Another scope than the others' makes them agree anew. Raises RuleViolationError for other
        rules once all agreed (`ground_rules_agreed`), and unless the pair is active.
        """
        if any(said.participant_id == by and said.rules == rules for said in self.consents):
            return self
        if self.agreed:
            raise RuleViolationError(
                "All members agreed to the ground rules; they stay.", code="ground_rules_agreed"
            )
        pair.must_be_active(program)
        said = {
            consent.participant_id: consent
            for consent in self.consents
            if consent.rules.scope == rules.scope
        } | {by: Consent(participant_id=by, rules=rules, at=now)}
        order = [member.participant_id for member in pair.members]
        return self.changed(
            consents=tuple(said[member] for member in order if member in said),
            agreed_at=now if said.keys() >= set(order) else None,
        )

    def as_agreed(self) -> GroundRulesAgreed:
        """Return the event of the completed agreement; off-limit topics stay here."""
        return GroundRulesAgreed.model_validate(
            {
                "program_id": self.program_id,
                "pair_id": self.id,
                "by": [consent.participant_id for consent in self.consents],
                "scope": self.scope,
                "at": self.agreed_at,
            }
        )
