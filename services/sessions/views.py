"""What sessions show, and to whom: members see words, coordinators the schedule."""

from pydantic import BaseModel

from services.sessions.domain.agreement import Agreement
from services.sessions.domain.pair import Member, PairRecord, PairStatus
from services.sessions.domain.program import Program
from services.sessions.domain.session import Agenda, Session, SessionStatus
from shared.clock import Instant
from shared.errors import raise_not_found
from shared.events.sessions import MeetingMode, Scope, SessionTag


class MemberView(BaseModel):
    """One member of a pair."""

    participant_id: str
    person_id: str

    @classmethod
    def of(cls, member: Member) -> "MemberView":
        """Return the member."""
        return cls(participant_id=member.participant_id, person_id=member.person_id)


class PairView(BaseModel):
    """A pair, as its members and the program's coordinators see it."""

    pair_id: str
    program_id: str
    status: PairStatus
    mentor: MemberView
    mentees: list[MemberView]
    started_at: Instant
    ends_at: Instant
    ended_at: Instant | None
    ground_rules_agreed: bool

    @classmethod
    def of(cls, pair: PairRecord, *, agreed: bool) -> "PairView":
        """Return the pair. Raises NotFoundError while its members are unknown."""
        if pair.mentor is None or pair.started_at is None or pair.ends_at is None:
            raise_not_found("pair", pair.id)
        return cls(
            pair_id=pair.id,
            program_id=pair.program_id,
            status=pair.status,
            mentor=MemberView.of(pair.mentor),
            mentees=[MemberView.of(mentee) for mentee in pair.mentees],
            started_at=pair.started_at,
            ends_at=pair.ends_at,
            ended_at=pair.ended_at,
            ground_rules_agreed=agreed,
        )


class AgreementView(BaseModel):
    """How far the pair is with its ground rules; off-limit topics by participant, for members."""

    pair_id: str
    agreed: bool
    agreed_at: Instant | None
    scope: Scope | None
    by: list[str]
    off_limits: dict[str, list[str]] | None

    @classmethod
    def of(cls, agreement: Agreement, *, words: bool = True) -> "AgreementView":
        """Return the agreement; without `words` nothing that members wrote."""
        consents = agreement.consents
        off_limits = {said.participant_id: list(said.rules.off_limits) for said in consents}
        return cls(
            pair_id=agreement.id,
            agreed=agreement.agreed,
            agreed_at=agreement.agreed_at,
            scope=agreement.scope,
            by=[said.participant_id for said in consents],
            off_limits=off_limits if words else None,
        )


class SessionView(BaseModel):
    """A session. Agenda, takeaways and who learned are null for all but the pair's members.

    `number` is null until the session is scheduled.
    """

    session_id: str
    pair_id: str
    program_id: str
    number: int | None
    status: SessionStatus
    proposed_by: str
    starts_at: Instant
    minutes: int
    mode: MeetingMode
    topics: list[str]
    agenda_set: bool
    agenda_by: str | None
    agenda: Agenda | None
    held_at: Instant | None
    held_minutes: int | None
    attended: list[str]
    tags: list[SessionTag]
    takeaway_count: int
    takeaways: dict[str, list[str]] | None
    learned: dict[str, bool] | None

    @classmethod
    def of(cls, session: Session, *, words: bool = True) -> "SessionView":
        """Return the session; without `words` nothing that members wrote."""
        takeaways = {by: list(texts) for by, texts in session.takeaways.items()}
        return cls(
            session_id=session.id,
            pair_id=session.pair_id,
            program_id=session.program_id,
            number=session.number,
            status=session.status,
            proposed_by=session.proposed_by,
            starts_at=session.starts_at,
            minutes=session.minutes,
            mode=session.mode,
            topics=list(session.topics),
            agenda_set=session.agenda is not None,
            agenda_by=session.agenda_by,
            agenda=session.agenda if words else None,
            held_at=session.held_at,
            held_minutes=session.held_minutes,
            attended=list(session.attended),
            tags=list(session.tags),
            takeaway_count=session.takeaway_count,
            takeaways=takeaways if words else None,
            learned=session.learned if words else None,
        )


class PairDetail(PairView):
    """A pair with its ground rules, its cadence, and the earliest session still open."""

    cadence_days: int | None
    ground_rules: list[str]
    agreement: AgreementView
    next_session: SessionView | None

    @classmethod
    def with_sessions(
        cls,
        pair: PairRecord,
        program: Program,
        agreement: Agreement,
        upcoming: list[Session],
        *,
        words: bool,
    ) -> "PairDetail":
        """Return the pair; without `words` nothing that members wrote."""
        return cls(
            **dict(PairView.of(pair, agreed=agreement.agreed)),
            cadence_days=program.cadence_days,
            ground_rules=list(program.ground_rules),
            agreement=AgreementView.of(agreement, words=words),
            next_session=SessionView.of(upcoming[0], words=words) if upcoming else None,
        )
