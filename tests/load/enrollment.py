"""A company for the enrollment service: a roster to import, people who enroll, bare references."""

import csv
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import orjson
from fastapi import FastAPI, Response
from pydantic import BaseModel, BeforeValidator
from starlette.types import ASGIApp

from services.enrollment.api import ParticipantView
from services.enrollment.app import build
from services.enrollment.domain import Profile, Slug
from shared.http.auth import LocalIssuer
from shared.ids import keyed_id
from shared.messaging.local_log import LocalLog
from shared.runtime import Service
from tests.load.asgi import Request, ask
from tests.load.bench_platform import BenchPlatform, until
from tests.support.platform import running_platform

PROGRAM = "reverse-mentoring"
ENROLL = f"/enrollment/v1/programs/{PROGRAM}/participants"
_IMPORT = "/enrollment/v1/roster/imports"
_SPEC = {
    "title": "Reverse mentoring",
    "topics": [{"topic_id": "ai", "title": "AI"}, {"topic_id": "media", "title": "Media"}],
    "starts_on": "2026-01-05",
    "ends_on": "2027-12-31",
    "eligibility": {"mentor_min_level": 4, "mentee_max_level": 2},
}
_PROFILE = {
    "role": "mentor",
    "teaches": [{"topic_id": "ai", "proficiency": 5}, {"topic_id": "media", "proficiency": 3}],
    "languages": ["en", "fr"],
    "eagerness": "I like to explain.",
}
PROFILES = (orjson.dumps(_PROFILE), orjson.dumps(_PROFILE | {"languages": ["en"]}))
"""Two that differ, so that each change of one into the other is a change."""

_TEAM = 8


def roster(people: int) -> bytes:
    """Return a roster of a company of teams: everybody but the first has a manager."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["employee_id", "name", "level", "department", "manager_id", "timezone"])
    for number in range(people):
        manager = f"E{(number - 1) // _TEAM}" if number else ""
        department = f"Department {number % 40}"
        rows.writerow([f"E{number}", f"Person {number}", 5, department, manager, "Europe/London"])
    return text.getvalue().encode()


@dataclass(frozen=True)
class Company:
    """A running enrollment service with a roster and a program that nobody is in yet."""

    service: Service
    issuer: LocalIssuer
    pseudonyms: bytes
    people: int

    @property
    def app(self) -> ASGIApp:
        """The service's HTTP application."""
        return self.service.app

    async def at_rest(self) -> None:
        """Wait until every event is published."""
        await until(self._all_published, 0.05)

    async def _all_published(self) -> bool:
        return (await self.service.flow()).outbox_pending == 0

    async def import_roster(self, content: bytes) -> None:
        """Import a roster."""
        hr = self.issuer.issue("hr-desk", ("hr",))
        await ask(self.app, Request.of("POST", _IMPORT, hr, content, "text/csv"), 201)

    async def found(self) -> None:
        """Import the people and publish the program."""
        await self.import_roster(roster(self.people))
        office = self.issuer.issue("office", ("coordinator",), (PROGRAM,))
        path = f"/enrollment/v1/programs/{PROGRAM}"
        await ask(self.app, Request.of("PUT", path, office, orjson.dumps(_SPEC)))

    def token(self, number: int) -> str:
        """Return a person's token."""
        subject = keyed_id(self.pseudonyms, "p", f"E{number}")
        return self.issuer.issue(subject, ("participant",))

    def enrollments(self) -> list[Request]:
        """Return a request of each person."""
        return [
            Request.of("POST", ENROLL, self.token(number), PROFILES[0])
            for number in range(self.people)
        ]


@asynccontextmanager
async def embedded_company(folder: Path, people: int) -> AsyncIterator[tuple[Company, LocalLog]]:
    """Run enrollment on the embedded bus and store."""
    async with running_platform(folder, ["enrollment"]) as running:
        key = running.folder.secret("enrollment", "pseudonyms")
        company = Company(running.platform.services[0], running.platform.issuer, key, people)
        await company.found()
        await company.at_rest()
        yield company, running.platform.log


@asynccontextmanager
async def cluster_company(
    folder: Path, kafka: str, mongodb: str | None, people: int
) -> AsyncIterator[Company]:
    """Run enrollment on Kafka, and on MongoDB where its URI is given, else on SQLite."""
    platform = BenchPlatform(folder, kafka, mongodb)
    service = build(platform)
    await platform.migrate("enrollment", service.documents)
    await service.start()
    try:
        key = platform.secret("enrollment", "pseudonyms")
        company = Company(service, platform.issuer, key, people)
        await company.found()
        await company.at_rest()
        yield company
    finally:
        await service.stop()


def route_without_work() -> ASGIApp:
    """Return a plain FastAPI application that validates an enrollment and does nothing."""
    app = FastAPI()
    moment = datetime.fromisoformat("2026-01-05T08:00:00+00:00")
    answer = ParticipantView(
        participant_id="pt_7uw4pp4eegwtls26odyyfpj7pt",
        program_id=PROGRAM,
        person_id="p_4km4pyr2ery4fzgr7movtlv72r",
        status="enrolled",
        profile=Profile.model_validate_json(PROFILES[0]),
        completed=[],
        ready=True,
        ready_at=moment,
        enrolled_at=moment,
    ).model_dump_json()

    @app.post("/enrollment/v1/programs/{program_id}/participants", status_code=201)
    async def enroll(program_id: Slug, profile: Profile) -> Response:
        return Response(answer, status_code=201, media_type="application/json")

    return app


_Empty = BeforeValidator(lambda value: value or None)


class RosterRow(BaseModel):
    """A row of a roster, as far as pydantic can check it."""

    employee_id: str
    name: Annotated[str | None, _Empty] = None
    job_title: Annotated[str | None, _Empty] = None
    level: Annotated[int | None, _Empty] = None
    department: Annotated[str | None, _Empty] = None
    manager_id: Annotated[str | None, _Empty] = None
    location: Annotated[str | None, _Empty] = None
    country: Annotated[str | None, _Empty] = None
    region: Annotated[str | None, _Empty] = None
    timezone: Annotated[str | None, _Empty] = None
    hire_date: Annotated[date | None, _Empty] = None
    leave_date: Annotated[date | None, _Empty] = None


def parse_with_pydantic(content: bytes) -> Iterator[RosterRow]:
    """Yield the rows of a roster; nothing beyond its single cells is looked at."""
    for row in csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")):
        yield RosterRow.model_validate(row)
