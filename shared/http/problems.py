"""RFC 9457 problem documents: the one form in which every refusal is told."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from shared.errors import (
    ForbiddenError,
    NotFoundError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UpwardError,
)
from shared.logging import get_logger

MEDIA_TYPE = "application/problem+json"
_RETRY_SECONDS = "2"
_MAX_ERRORS = 50
_MAX_FIELD = 100
_BY_STATUS: Mapping[int, type[UpwardError]] = {
    error.status: error
    for error in (UnauthenticatedError, ForbiddenError, NotFoundError, TooLargeError)
}


class FieldProblem(BaseModel):
    """One input that breaks a rule: which field, which rule, and what the rule asks for."""

    field: str
    rule: str
    message: str


class Problem(BaseModel):
    """A problem document. `code` is stable; `errors` names each offending field."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem] = []


_REFERENCE = "#/components/schemas/{model}"
_CONTENT = {MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(model=Problem.__name__)}}}

RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": _CONTENT}
    for status, text in {
        400: "The request can't be read",
        401: "No valid bearer token",
        403: "The caller may not do this",
        404: "No such object that the caller may see",
        409: "The object's present state does not allow this",
        413: "The body is too large",
        415: "The content type is not one that the route reads",
        422: "A field breaks a rule",
        503: "The store or the bus is away; try again",
    }.items()
}


def component_schemas() -> dict[str, Any]:
    """Return the schemas that `RESPONSES` refers to, for an OpenAPI document's components."""
    schema = Problem.model_json_schema(ref_template=_REFERENCE)
    return {**schema.pop("$defs"), Problem.__name__: schema}


def problem_response(
    status: int,
    code: str,
    title: str,
    detail: str,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the problem as an HTTP response."""
    problem = Problem(
        type=f"urn:upward:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        code=code,
        errors=list(errors),
    )
    return Response(
        problem.model_dump_json(), status_code=status, media_type=MEDIA_TYPE, headers=headers
    )


def from_error(error: UpwardError) -> Response:
    """Return the problem document of one of our errors."""
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in {429, 503}:
        headers["Retry-After"] = _RETRY_SECONDS
    errors = []
    if error.field is not None:
        errors.append(FieldProblem(field=error.field, rule=error.code, message=error.detail))
    return problem_response(
        error.status, error.code, error.title, error.detail, errors, headers or None
    )


def field_problems(error: ValidationError | RequestValidationError) -> list[FieldProblem]:
    """Name the field and the rule of each error, never the input itself: it may be personal."""
    found = []
    for item in error.errors()[:_MAX_ERRORS]:
        location = [str(part) for part in item["loc"]]
        if location and location[0] in {"body", "query", "path", "header"}:
            location = location[1:] or location
        # An unknown field's name is the caller's: any text, of any length.
        name = ".".join(location)[:_MAX_FIELD].encode(errors="replace").decode()
        found.append(FieldProblem(field=name, rule=item["type"], message=item["msg"]))
    return found


def unexpected() -> Response:
    """Return the problem document of a failure that nobody foresaw."""
    return problem_response(
        500, "internal", "Something went wrong", "The service failed; it has logged why."
    )


def install(app: FastAPI, service: str) -> None:
    """Answer every error of the application with a problem document."""
    log = get_logger(service)

    @app.exception_handler(UpwardError)
    async def refuse(_request: Request, error: UpwardError) -> Response:
        if isinstance(error, UnavailableError):
            log.warning("unavailable", error=error.detail)
        return from_error(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        errors = field_problems(error)
        detail = "; ".join(f"{item.field}: {item.message}" for item in errors[:5])
        return problem_response(422, "invalid_input", "The input breaks a rule", detail, errors)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        detail = str(error.detail)
        if (known := _BY_STATUS.get(error.status_code)) is not None:
            return from_error(known(detail))
        code = {400: "unreadable", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = _methods(request)
        return problem_response(error.status_code, code, detail, detail, headers=headers)


def _methods(request: Request) -> str:
    """Return every method of the path; Starlette knows only those of the first route with it."""
    found: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.path_regex.fullmatch(request.scope["path"]):
            found |= route.methods or set()
    return ", ".join(sorted(found))
