"""The use cases of feedback: load, decide, save, emit."""

from collections.abc import Mapping
from datetime import datetime

from services.feedback import access
from services.feedback.domain import (
    HeldSession,
    Member,
    Pair,
    Program,
    Pseudonyms,
    Response,
    Survey,
)
from services.feedback.repository import waiting_sessions
from shared.errors import raise_not_found
from shared.events.feedback import FeedbackSubmitted, SurveyCompleted, SurveyDue
from shared.events.pairs import Paired, PairSide
from shared.events.participants import Role
from shared.events.programs import ProgramPublished
from shared.events.sessions import SessionHeld
from shared.http.auth import Principal
from shared.store.port import Transaction


async def follow_program(tx: Transaction, event: ProgramPublished, source_version: int) -> None:
    """Keep which surveys a program plans; ask after the sessions that waited for it.

    Raises InvalidInputError for a pulse whose instrument this release does not have: the event is
    then a dead letter, to be retried with a release that has it, and sessions go on waiting.
    """
    known = await tx.get(Program, event.program_id) or Program(id=event.program_id)
    program = known.follow(event.surveys, source_version)
    if program is known:
        return
    tx.put(program)
    async for session in waiting_sessions(tx, "program", program.id):
        await _survey(tx, session)


async def form_pair(tx: Transaction, event: Paired) -> None:
    """Keep who meets whom; ask after the sessions that waited for it."""
    known = await tx.get(Pair, event.pair_id) or Pair(id=event.pair_id)
    pair = known.form(
        (_member(event.mentor, "mentor"), *(_member(side, "mentee") for side in event.mentees))
    )
    if pair is known:
        return
    tx.put(pair)
    async for session in waiting_sessions(tx, "pair", pair.id):
        await _survey(tx, session)


async def survey_session(tx: Transaction, event: SessionHeld) -> None:
    """Ask everybody who attended, now or as soon as their pair and program are known."""
    if await tx.get(HeldSession, event.session_id) is not None:
        return
    session = HeldSession(
        id=event.session_id,
        program_id=event.program_id,
        pair_id=event.pair_id,
        attended=event.attended,
        held_on=event.held_at.date(),
    )
    await _survey(tx, session)


async def answer_survey(
    tx: Transaction,
    caller: Principal,
    now: datetime,
    pseudonyms: Pseudonyms,
    survey_id: str,
    answers: Mapping[str, int],
) -> Response:
    """Answer the caller's own survey; the same answers once more change nothing."""
    survey = await tx.get(Survey, survey_id)
    if survey is None:
        raise_not_found("survey", survey_id)
    access.must_be_own_survey(caller, survey)
    response = survey.answer(answers, pseudonyms.response(survey), now)
    known = await tx.get(Response, response.id)
    if known is not None:
        return known.repeat(answers)
    tx.put(survey.complete(response))
    # Unlinked, both: a correlation or trace id would tie what was said to the request of a person.
    tx.emit(
        FeedbackSubmitted(
            program_id=survey.program_id,
            response_id=response.id,
            kind=survey.kind,
            instrument=survey.instrument,
            instrument_version=survey.instrument_version,
            respondent=pseudonyms.respondent(survey),
            role=survey.role,
            department=survey.department,
            region=survey.region,
            scores=response.scores,
            submitted_on=response.submitted_on,
        ),
        unlinked=True,
    )
    tx.emit(
        SurveyCompleted(
            program_id=survey.program_id,
            kind=survey.kind,
            role=survey.role,
            completed_on=response.submitted_on,
        ),
        unlinked=True,
    )
    return tx.put(response)


async def _survey(tx: Transaction, session: HeldSession) -> None:
    pair = await tx.get(Pair, session.pair_id) or Pair(id=session.pair_id)
    if not pair.known:
        # The placeholder is written, not only read: whoever completes it meanwhile then conflicts
        # with this transaction, and one of the two sees what the other did.
        tx.put(pair)
        tx.put(session.changed(waits_for="pair"))
        return
    program = await tx.get(Program, session.program_id) or Program(id=session.program_id)
    if not program.known:
        tx.put(program)
        tx.put(session.changed(waits_for="program"))
        return
    for survey in session.survey(program, pair):
        tx.put(survey)
        tx.emit(
            SurveyDue(
                program_id=survey.program_id,
                survey_id=survey.id,
                kind=survey.kind,
                participant_id=survey.participant_id,
                session_id=survey.session_id,
                due_on=survey.due_on,
            )
        )
    tx.put(session.changed(waits_for=None))


def _member(side: PairSide, role: Role) -> Member:
    return Member(
        participant_id=side.participant_id,
        person_id=side.person_id,
        role=role,
        department=side.department,
        region=side.region,
    )
