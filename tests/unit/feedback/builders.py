"""The golden events of feedback's sources, varied."""

from collections.abc import Sequence
from datetime import datetime

from shared.events.pairs import Paired, PairSide
from shared.events.programs import ProgramPublished, SurveyPlan
from shared.events.sessions import SessionHeld
from shared.ids import derived_id
from tests.support.golden import golden_event

PULSE = SurveyPlan(kind="pulse", instrument="pulse", instrument_version=1)


def participant_of(program_id: str, person_id: str) -> str:
    return derived_id("pt", program_id, person_id)


def published(
    program_id: str, *, version: int = 1, plans: Sequence[SurveyPlan] = (PULSE,)
) -> ProgramPublished:
    changes = {"program_id": program_id, "version": version, "surveys": tuple(plans)}
    return golden_event(ProgramPublished).model_copy(update=changes)


def paired(program_id: str, pair_id: str, mentor: str, *mentees: str) -> Paired:
    """A pair of these person ids; mentors work in Digital, mentees in Finance."""

    def side(person_id: str, department: str) -> PairSide:
        return PairSide(
            participant_id=participant_of(program_id, person_id),
            person_id=person_id,
            level=1,
            department=department,
            region="europe",
        )

    return golden_event(Paired).model_copy(
        update={
            "program_id": program_id,
            "pair_id": pair_id,
            "mentor": side(mentor, "Digital"),
            "mentees": tuple(side(mentee, "Finance") for mentee in mentees),
        }
    )


def held(
    program_id: str,
    pair_id: str,
    session_id: str,
    *attended: str,
    at: datetime | None = None,
) -> SessionHeld:
    """A session attended by these person ids."""
    known = golden_event(SessionHeld)
    return known.model_copy(
        update={
            "program_id": program_id,
            "pair_id": pair_id,
            "session_id": session_id,
            "attended": tuple(participant_of(program_id, person) for person in attended),
            "held_at": known.held_at if at is None else at,
        }
    )
