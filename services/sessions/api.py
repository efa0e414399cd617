"""HTTP routes of sessions: parse, authorize, call a handler, answer."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from services.sessions import access, handlers
from services.sessions.domain.agreement import GroundRules
from services.sessions.domain.pair import PairRecord, PairStatus
from services.sessions.domain.session import Agenda, NewTime, Notes, Plan, Record, Session
from services.sessions.repository import (
    agreed_among,
    agreement_of,
    open_sessions,
    pair_of,
    program_of,
    session_of,
)
from services.sessions.views import AgreementView, PairDetail, PairView, SessionView
from shared.http.call import Call, allow
from shared.http.pagination import Cursor, Limit, Page, page, read_cursor

Participating = Annotated[Call, allow("participant")]
ParticipantOrCoordinator = Annotated[Call, allow("participant", "coordinator")]


def routes() -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["sessions"])

    @router.get("/pairs")
    async def list_pairs(
        call: ParticipantOrCoordinator,
        program: Annotated[str | None, Query(max_length=200)] = None,
        status: PairStatus | None = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[PairView]:
        """List your pairs, or, as its coordinator, a program's."""
        where = dict(access.visible_pairs(call.caller, program))
        if status is not None:
            where["status"] = status
        found = await call.store.find(PairRecord, where, after=read_cursor(cursor), limit=limit + 1)
        agreed = await agreed_among(call.store, found)
        return page(found, limit, lambda pair: PairView.of(pair, agreed=pair.id in agreed))

    @router.get("/pairs/{pair_id}")
    async def get_pair(call: ParticipantOrCoordinator, pair_id: str) -> PairDetail:
        """Return a pair with its ground rules and its next session."""
        pair = await pair_of(call.store, pair_id)
        words = access.sees_words(call.caller, pair, pair)
        return PairDetail.with_sessions(
            pair,
            await program_of(call.store, pair),
            await agreement_of(call.store, pair),
            await open_sessions(call.store, pair, limit=1),
            words=words,
        )

    @router.put("/pairs/{pair_id}/ground-rules", response_model=AgreementView)
    async def put_ground_rules(call: Participating, pair_id: str, rules: GroundRules) -> Response:
        """Agree to the ground rules of your pair; they hold once all its members agreed."""
        return await call.answer(
            200,
            AgreementView.of,
            handlers.agree_ground_rules,
            call.caller,
            call.now,
            pair_id,
            rules,
        )

    @router.post("/pairs/{pair_id}/sessions", status_code=201, response_model=SessionView)
    async def plan_session(call: Participating, pair_id: str, plan: Plan) -> Response:
        """Propose a session to the other side of your pair; a mentee may set its agenda."""
        return await call.answer(
            201, SessionView.of, handlers.plan_session, call.caller, pair_id, plan
        )

    @router.get("/sessions")
    async def list_sessions(
        call: ParticipantOrCoordinator,
        pair: Annotated[str, Query(max_length=200)],
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[SessionView]:
        """List a pair's sessions in the order in which they were proposed."""
        record = await pair_of(call.store, pair)
        words = access.sees_words(call.caller, record, record)
        found = await call.store.find(
            Session,
            {"pair_id": record.id},
            order_by="place",
            after=read_cursor(cursor),
            limit=limit + 1,
        )
        return page(found, limit, lambda one: SessionView.of(one, words=words), order_by="place")

    @router.get("/sessions/{session_id}")
    async def get_session(call: ParticipantOrCoordinator, session_id: str) -> SessionView:
        """Return a session."""
        session, pair = await session_of(call.store, session_id)
        words = access.sees_words(call.caller, pair, session)
        return SessionView.of(session, words=words)

    @router.put("/sessions/{session_id}/agenda", response_model=SessionView)
    async def put_agenda(call: Participating, session_id: str, agenda: Agenda) -> Response:
        """Set the agenda, as a mentee; no session is confirmed without one."""
        return await call.answer(
            200, SessionView.of, handlers.set_agenda, call.caller, session_id, agenda
        )

    @router.post("/sessions/{session_id}/confirm", response_model=SessionView)
    async def confirm_session(call: Participating, session_id: str) -> Response:
        """Agree to a session that the other side proposed."""
        return await call.answer(
            200, SessionView.of, handlers.confirm_session, call.caller, session_id
        )

    @router.post("/sessions/{session_id}/move", response_model=SessionView)
    async def move_session(call: Participating, session_id: str, time: NewTime) -> Response:
        """Give a scheduled session another time."""
        return await call.answer(
            200, SessionView.of, handlers.move_session, call.caller, session_id, time
        )

    @router.post("/sessions/{session_id}/cancel", response_model=SessionView)
    async def cancel_session(call: Participating, session_id: str) -> Response:
        """Call a session off."""
        return await call.answer(
            200, SessionView.of, handlers.cancel_session, call.caller, call.now, session_id
        )

    @router.post("/sessions/{session_id}/miss", response_model=SessionView)
    async def miss_session(call: Participating, session_id: str) -> Response:
        """Record that somebody did not come."""
        return await call.answer(
            200, SessionView.of, handlers.miss_session, call.caller, call.now, session_id
        )

    @router.post("/sessions/{session_id}/hold", response_model=SessionView)
    async def hold_session(call: Participating, session_id: str, record: Record) -> Response:
        """Record that a session took place; when it already is, keep your notes alone."""
        return await call.answer(
            200, SessionView.of, handlers.hold_session, call.caller, call.now, session_id, record
        )

    @router.post("/sessions/{session_id}/notes", response_model=SessionView)
    async def note_session(call: Participating, session_id: str, notes: Notes) -> Response:
        """Keep what you took from a session that has begun."""
        return await call.answer(
            200, SessionView.of, handlers.note_session, call.caller, call.now, session_id, notes
        )

    return router
