"""HTTP routes of feedback: parse, authorize, call a handler, answer."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter
from fastapi import Response as HttpResponse
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints

from services.feedback import access, handlers
from services.feedback.domain import Pseudonyms, Response, Survey, SurveyState
from services.feedback.instruments import Item, instrument_of
from shared.errors import raise_not_found
from shared.events.participants import Role
from shared.events.programs import SurveyKind
from shared.http.call import Call, allow
from shared.http.pagination import Cursor, Limit, Page, page, read_cursor
from shared.store.port import Condition

Participating = Annotated[Call, allow("participant")]
ParticipantOrCoordinator = Annotated[Call, allow("participant", "coordinator")]
"""A coordinator is told what anybody is told of an object that is not theirs: there is none."""

ItemId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class SurveyView(BaseModel):
    """A survey, as the one who is asked sees it."""

    survey_id: str
    program_id: str
    kind: SurveyKind
    role: Role
    session_id: str
    due_on: date
    state: SurveyState
    response_id: str | None

    @classmethod
    def of(cls, survey: Survey) -> "SurveyView":
        """Return the survey without its items."""
        return cls(
            survey_id=survey.id,
            **survey.model_dump(include=set(cls.model_fields) - {"survey_id"}),
        )


class Questionnaire(BaseModel):
    """A survey with the items to answer."""

    survey: SurveyView
    instrument: str
    instrument_version: int
    items: tuple[Item, ...]

    @classmethod
    def of(cls, survey: Survey) -> "Questionnaire":
        """Return the survey with the items of its instrument's version."""
        return cls(
            survey=SurveyView.of(survey),
            instrument=survey.instrument,
            instrument_version=survey.instrument_version,
            items=instrument_of(survey.instrument, survey.instrument_version).items,
        )


class ResponseRequest(BaseModel):
    """One answer for each item of the survey."""

    model_config = ConfigDict(extra="forbid")

    # Without the extra, the schema would promise to take any other key with any value.
    answers: dict[ItemId, StrictInt] = Field(
        min_length=1, max_length=100, json_schema_extra={"additionalProperties": False}
    )


class ResponseView(BaseModel):
    """A response, as the one who gave it sees it."""

    response_id: str
    survey_id: str
    answers: dict[str, int]
    scores: dict[str, float]
    submitted_on: date

    @classmethod
    def of(cls, response: Response) -> "ResponseView":
        """Return the response."""
        return cls(
            response_id=response.id,
            **response.model_dump(include=set(cls.model_fields) - {"response_id"}),
        )


def routes(pseudonyms: Pseudonyms) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["feedback"])

    @router.get("/surveys")
    async def list_surveys(
        call: Participating,
        state: SurveyState | None = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[SurveyView]:
        """List your surveys, the longest due first."""
        where: dict[str, Condition] = {"person_id": call.caller.subject}
        if state is not None:
            where["state"] = state
        found = await call.store.find(
            Survey, where, order_by="due_on", after=read_cursor(cursor), limit=limit + 1
        )
        return page(found, limit, SurveyView.of, order_by="due_on")

    @router.get("/surveys/{survey_id}")
    async def get_survey(call: ParticipantOrCoordinator, survey_id: str) -> Questionnaire:
        """Return your survey with the items to answer."""
        survey = await call.store.get(Survey, survey_id)
        if survey is None:
            raise_not_found("survey", survey_id)
        access.must_be_own_survey(call.caller, survey)
        return Questionnaire.of(survey)

    @router.post("/surveys/{survey_id}/responses", status_code=201, response_model=ResponseView)
    async def answer_survey(
        call: Participating, survey_id: str, request: ResponseRequest
    ) -> HttpResponse:
        """Answer your survey; an answer stands."""
        return await call.answer(
            201,
            ResponseView.of,
            handlers.answer_survey,
            call.caller,
            call.now,
            pseudonyms,
            survey_id,
            request.answers,
        )

    @router.get("/responses/{response_id}")
    async def get_response(call: ParticipantOrCoordinator, response_id: str) -> ResponseView:
        """Return your response."""
        response = await call.store.get(Response, response_id)
        if response is None:
            raise_not_found("response", response_id)
        access.must_be_own_response(call.caller, response)
        return ResponseView.of(response)

    return router
