"""A pair, its program and its agreement as a test wants them."""

from datetime import UTC, datetime, timedelta

from services.sessions.domain.agreement import Agreement, GroundRules
from services.sessions.domain.pair import PairRecord
from services.sessions.domain.program import Program
from services.sessions.domain.session import Agenda, Plan, Session
from shared.events.pairs import Paired, PairSide
from shared.events.programs import ProgramPublished
from tests.support.golden import golden_event

NOW = datetime(2026, 1, 10, 9, 0, tzinfo=UTC)
START = NOW + timedelta(days=3)
MENTOR, MENTEE, OTHER_MENTEE = "pt_mentor", "pt_mentee", "pt_mentee_2"
AGENDA = Agenda(goal="Judge a model's answer", items=("Where they fail", "A live try"))


def side(participant_id: str) -> PairSide:
    return PairSide(
        participant_id=participant_id,
        person_id=participant_id.replace("pt_", "p_"),
        level=6 if participant_id == MENTOR else 1,
        department="Digital",
        region=None,
    )


def paired(*mentees: str) -> Paired:
    return golden_event(Paired).model_copy(
        update={
            "mentor": side(MENTOR),
            "mentees": tuple(side(mentee) for mentee in mentees or (MENTEE,)),
            "started_at": NOW - timedelta(days=1),
            "ends_at": NOW + timedelta(days=180),
        }
    )


def placeholder() -> PairRecord:
    event = paired()
    return PairRecord(id=event.pair_id, program_id=event.program_id)


def pair(*mentees: str) -> PairRecord:
    return placeholder().form(paired(*mentees), 2)


def program() -> Program:
    event = golden_event(ProgramPublished)
    return Program(id=event.program_id).publish(event, 1)


def agreed(of: PairRecord) -> Agreement:
    agreement = Agreement.open(of)
    for member in of.members:
        rules = GroundRules(scope="general")
        agreement = agreement.agree(member.participant_id, rules, of, program(), NOW)
    return agreement


def plan(**fields: object) -> Plan:
    return Plan.model_validate(
        {"starts_at": START, "minutes": 60, "mode": "virtual", "topics": ("generative-ai",)}
        | fields
    )


def planned(of: PairRecord, by: str = MENTEE, **fields: object) -> Session:
    return Session.plan(by, plan(**{"agenda": AGENDA} | fields), of, program())


def scheduled(of: PairRecord) -> Session:
    return planned(of).confirm(MENTOR, of, program(), agreed(of))
