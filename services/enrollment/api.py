"""HTTP routes of enrollment: parse, authorize, call a handler, answer."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from services.enrollment import access, handlers
from services.enrollment.domain import (
    Participant,
    ParticipantStatus,
    Person,
    Profile,
    Program,
    ProgramSpec,
    Slug,
)
from services.enrollment.imports import count_roster, import_roster
from services.enrollment.repository import RosterImport
from services.enrollment.roster import RowNote, count_by_rule
from shared.clock import Instant
from shared.errors import raise_not_found
from shared.http.call import Call, allow
from shared.http.pagination import Cursor, Limit, Page, page, read_cursor
from shared.store.port import Condition, Where

ROSTER_BYTES = 64 * 1024 * 1024

Anyone = Annotated[Call, allow("participant", "coordinator", "analyst", "hr", "operator")]
Coordinator = Annotated[Call, allow("coordinator")]
Hr = Annotated[Call, allow("hr")]
Participating = Annotated[Call, allow("participant")]
ParticipantOrCoordinator = Annotated[Call, allow("participant", "coordinator")]

_CSV: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"text/csv": {"schema": {"type": "string"}}},
    }
}


class PersonView(BaseModel):
    """A person of the roster, for HR."""

    person_id: str
    employee_id: str
    name: str | None
    job_title: str | None
    level: int | None
    department: str | None
    manager_person_id: str | None
    location: str | None
    country: str | None
    region: str | None
    timezone: str | None

    @classmethod
    def of(cls, person: Person) -> "PersonView":
        """Return what HR sees."""
        return cls(
            person_id=person.id,
            **person.model_dump(include=set(cls.model_fields) - {"person_id"}),
        )


class ImportReport(BaseModel):
    """What an import used, and what it could not use, row by row."""

    import_id: str
    imported_at: Instant
    rows: int
    added: int
    updated: int
    unchanged: int
    refused: int
    moved_participants: int
    roots: int
    counts: dict[str, int]
    notes: list[RowNote]

    @classmethod
    def of(cls, report: RosterImport) -> "ImportReport":
        """Return the report."""
        return cls(
            import_id=report.id,
            counts=count_by_rule(list(report.notes)),
            **report.model_dump(exclude={"id", "version"}),
        )


class ProgramView(BaseModel):
    """A program in its newest version."""

    program_id: str
    version: int
    published_at: Instant
    closed_at: Instant | None
    spec: ProgramSpec

    @classmethod
    def of(cls, program: Program) -> "ProgramView":
        """Return what everybody sees."""
        return cls(
            program_id=program.id,
            version=program.program_version,
            published_at=program.published_at,
            closed_at=program.closed_at,
            spec=program.spec,
        )


class ParticipantView(BaseModel):
    """An enrollment, as its person and the program's coordinators see it."""

    participant_id: str
    program_id: str
    person_id: str
    status: ParticipantStatus
    profile: Profile
    completed: list[str]
    ready: bool
    ready_at: Instant | None
    enrolled_at: Instant

    @classmethod
    def of(cls, participant: Participant) -> "ParticipantView":
        """Return the enrollment."""
        return cls(
            participant_id=participant.id,
            ready=participant.ready,
            **participant.model_dump(
                include={"program_id", "person_id", "status", "completed"}
                | {"ready_at", "enrolled_at"}
            ),
            profile=participant.profile,
        )


class TrainingRequest(BaseModel):
    """Which module was finished."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    module: Slug


def routes(person_id_of: Callable[[str], str]) -> APIRouter:
    """Return the routes; `person_id_of` gives the pseudonym of an employee id."""
    router = APIRouter(tags=["enrollment"])

    @router.post(
        "/roster/imports", status_code=201, response_model=ImportReport, openapi_extra=_CSV
    )
    async def post_roster(
        request: Request, call: Annotated[Call, allow("hr", media_type="text/csv")]
    ) -> Response:
        """Import a CSV roster; the same file again changes nothing."""
        if (earlier := await call.earlier_answer()) is not None:
            return earlier
        content = await request.body()
        report = await import_roster(call.store, content, person_id_of, call.now)
        return await call.answer(201, ImportReport.of, handlers.keep_report, report)

    @router.get("/roster/imports/{import_id}")
    async def get_roster_import(call: Hr, import_id: str) -> ImportReport:
        """Return the report of an import."""
        return ImportReport.of(await call.store.require(RosterImport, import_id))

    @router.get("/roster/people")
    async def list_people(
        call: Hr,
        employee_id: Annotated[str | None, Query(max_length=500)] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[PersonView]:
        """List the roster, or find one person by employee id."""
        where: Where = {} if employee_id is None else {"employee_id": employee_id}
        found = await call.store.find(Person, where, after=read_cursor(cursor), limit=limit + 1)
        return page(found, limit, PersonView.of)

    @router.put("/programs/{program_id}", response_model=ProgramView)
    async def put_program(call: Coordinator, program_id: Slug, spec: ProgramSpec) -> Response:
        """Publish a program, or its next version."""
        answer = await call.answer(
            200, ProgramView.of, handlers.publish_program, call.caller, call.now, program_id, spec
        )
        await count_roster(call.store, await call.store.require(Program, program_id), call.now)
        return answer

    @router.get("/programs")
    async def list_programs(
        call: Anyone, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[ProgramView]:
        """List the programs."""
        found = await call.store.find(Program, after=read_cursor(cursor), limit=limit + 1)
        return page(found, limit, ProgramView.of)

    @router.get("/programs/{program_id}")
    async def get_program(call: Anyone, program_id: str) -> ProgramView:
        """Return a program."""
        return ProgramView.of(await call.store.require(Program, program_id))

    @router.post("/programs/{program_id}/close", response_model=ProgramView)
    async def close_program(call: Coordinator, program_id: str) -> Response:
        """Close a program: its pairs end, nobody enrolls any more."""
        return await call.answer(
            200, ProgramView.of, handlers.close_program, call.caller, call.now, program_id
        )

    @router.post(
        "/programs/{program_id}/participants", status_code=201, response_model=ParticipantView
    )
    async def enroll(call: Participating, program_id: str, profile: Profile) -> Response:
        """Enroll yourself."""
        return await call.answer(
            201, ParticipantView.of, handlers.enroll, call.caller, call.now, program_id, profile
        )

    @router.get("/programs/{program_id}/participants")
    async def list_participants(
        call: ParticipantOrCoordinator, program_id: str, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[ParticipantView]:
        """List a program's participants; a participant sees only themself."""
        where: dict[str, Condition] = {"program_id": program_id}
        if not call.caller.coordinates(program_id):
            where["person_id"] = call.caller.subject
        found = await call.store.find(
            Participant, where, after=read_cursor(cursor), limit=limit + 1
        )
        return page(found, limit, ParticipantView.of)

    @router.get("/participants/{participant_id}")
    async def get_participant(
        call: ParticipantOrCoordinator, participant_id: str
    ) -> ParticipantView:
        """Return an enrollment."""
        participant = await call.store.get(Participant, participant_id)
        if participant is None:
            raise_not_found("participant", participant_id)
        access.must_see(call.caller, participant)
        return ParticipantView.of(participant)

    @router.put("/participants/{participant_id}/profile", response_model=ParticipantView)
    async def put_profile(call: Participating, participant_id: str, profile: Profile) -> Response:
        """Change your profile."""
        return await call.answer(
            200,
            ParticipantView.of,
            handlers.change_profile,
            call.caller,
            call.now,
            participant_id,
            profile,
        )

    @router.post("/participants/{participant_id}/training", response_model=ParticipantView)
    async def complete_training(
        call: Participating, participant_id: str, training: Annotated[TrainingRequest, Body()]
    ) -> Response:
        """Record that you finished a training module."""
        return await call.answer(
            200,
            ParticipantView.of,
            handlers.complete_training,
            call.caller,
            call.now,
            participant_id,
            training.module,
        )

    @router.post("/participants/{participant_id}/pause", response_model=ParticipantView)
    async def pause(call: Participating, participant_id: str) -> Response:
        """Take a break."""
        return await call.answer(
            200, ParticipantView.of, handlers.pause, call.caller, call.now, participant_id
        )

    @router.post("/participants/{participant_id}/resume", response_model=ParticipantView)
    async def resume(call: Participating, participant_id: str) -> Response:
        """Come back from a break."""
        return await call.answer(
            200, ParticipantView.of, handlers.resume, call.caller, call.now, participant_id
        )

    @router.post("/participants/{participant_id}/withdraw", response_model=ParticipantView)
    async def withdraw(call: Participating, participant_id: str) -> Response:
        """Leave the program; no reason is asked."""
        return await call.answer(
            200, ParticipantView.of, handlers.withdraw, call.caller, call.now, participant_id
        )

    return router
