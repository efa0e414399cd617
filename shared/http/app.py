"""The FastAPI application of a service: the same limits, errors, health and metrics for all."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from fastapi.security.utils import get_authorization_scheme_param
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import metrics
from shared.clock import monotonic
from shared.errors import UnauthenticatedError, UnavailableError
from shared.health import Health
from shared.http import problems
from shared.http.auth import TokenVerifier
from shared.http.call import IDEMPOTENCY_HEADER, Access
from shared.http.limits import Admission, Admit, BodyLimit
from shared.ids import new_event_id
from shared.logging import get_logger
from shared.tracing import Trace, next_traceparent, traced

_MAX_CORRELATION = 100
_STOPS = "The service stopped before it could answer; ask again, with the same key if you sent one."
_UNHEALTHY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "What is wrong, a line each",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


_IDEMPOTENCY_PARAMETER = {
    "name": IDEMPOTENCY_HEADER,
    "in": "header",
    "required": False,
    "description": "The same key gives the same answer, and no second effect",
    "schema": {"type": "string", "pattern": r"^[\x21-\x7e]{1,200}$"},
}


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is not None:
            return self.openapi_schema
        document = super().openapi()
        document["components"]["schemas"] |= problems.component_schemas()
        for path in document["paths"].values():
            for method in path.keys() & {"post", "put", "patch"}:
                path[method].setdefault("parameters", []).append(_IDEMPOTENCY_PARAMETER)
        return document


def _operation_id(route: APIRoute) -> str:
    return route.name


def create_app(
    service: str,
    *,
    title: str,
    description: str,
    access: Access,
    admission: Admission,
    routers: Sequence[APIRouter],
    public_routers: Sequence[APIRouter],
    health: Health,
    body_limits: Mapping[str, int],
) -> FastAPI:
    """Return the application: `/<service>/v1/…`, `/<service>/openapi.json`, health and metrics."""
    app = _Application(
        title=title,
        description=description,
        version="1",
        openapi_url=f"/{service}/openapi.json",
        docs_url=None,
        redoc_url=None,
        # A redirect would name a host that the caller chose, in no form that a document tells of.
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.state.access = access
    problems.install(app, service)
    for router in routers:
        _register(app, router, f"/{service}/v1", problems.RESPONSES)
    for router in (*public_routers, health_router(health)):
        _register(app, router, "", {})
    app.add_middleware(BodyLimit, limits=body_limits)
    app.add_middleware(
        Admit, admission=admission, prefix=f"/{service}/v1/", always=f"/{service}/v1/operations/"
    )
    app.add_middleware(_Authenticate, verifier=access.verifier, prefix=f"/{service}/v1/")
    app.add_middleware(_Observe, service=service)
    return app


def _register(
    app: FastAPI, router: APIRouter, prefix: str, responses: dict[int | str, dict[str, Any]]
) -> None:
    """Put the router's routes into the application's own list.

    `include_router` keeps routers nested and matches a request anew, twice, on each level: with
    two levels that was a quarter of the time of a small request.
    """
    for route in router.routes:
        assert isinstance(route, APIRoute)
        app.router.add_api_route(
            prefix + route.path,
            route.endpoint,
            response_model=route.response_model,
            status_code=route.status_code,
            tags=route.tags,
            description=route.description,
            responses={**responses, **route.responses},
            methods=list(route.methods or ()),
            response_class=route.response_class,
            name=route.name,
            openapi_extra=route.openapi_extra,
            include_in_schema=route.include_in_schema,
            generate_unique_id_function=_operation_id,
        )


def health_router(health: Health) -> APIRouter:
    """Return the probes and the metrics: public, and without anything about people."""
    router = APIRouter(tags=["health"], default_response_class=PlainTextResponse)

    @router.get("/livez", response_model=None, responses=_UNHEALTHY)
    async def live() -> Response:
        """Answer 200 while the process does its work, 503 when only a restart would help."""
        return _health_answer(health.live())

    @router.get("/readyz", response_model=None, responses=_UNHEALTHY)
    async def ready() -> Response:
        """Answer 200 when requests can be taken: the store answers, and events are consumed.

        A bus that is away is no reason, until so many events wait for it that commands are refused.
        """
        return _health_answer(await health.ready())

    @router.get("/metrics", response_model=None)
    async def prometheus() -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


def _health_answer(troubles: list[str]) -> Response:
    if not troubles:
        return Response("ok\n", media_type="text/plain")
    return Response("\n".join(troubles) + "\n", status_code=503, media_type="text/plain")


class _Authenticate:
    """Refuses who has no valid token before anybody reads the body.

    FastAPI parses the body first and would tell a stranger what is wrong with it.
    """

    def __init__(self, app: ASGIApp, verifier: TokenVerifier, prefix: str) -> None:
        self._app = app
        self._verifier = verifier
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(self._prefix):
            try:
                self._check(Request(scope).headers.get("authorization"))
            except UnauthenticatedError as error:
                await problems.from_error(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, authorization: str | None) -> None:
        scheme, token = get_authorization_scheme_param(authorization)
        if scheme.lower() != "bearer":
            raise UnauthenticatedError("Send an Authorization header with a bearer token.")
        self._verifier.verify(token)


class _Observe:
    """Gives each request its links, measures it, and answers what nobody else did."""

    def __init__(self, app: ASGIApp, service: str) -> None:
        self._app = app
        self._service = service
        self._log = get_logger(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        sent = request.headers.get("x-correlation-id", "")
        acceptable = sent.isascii() and sent.isprintable() and 0 < len(sent) <= _MAX_CORRELATION
        correlation_id = sent if acceptable else new_event_id()
        status: str | None = None

        async def record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                message["headers"] = [
                    *message["headers"],
                    (b"x-correlation-id", correlation_id.encode()),
                ]
            await send(message)

        started = monotonic()
        traceparent = next_traceparent(request.headers.get("traceparent"))
        try:
            with traced(Trace(correlation_id=correlation_id, traceparent=traceparent)):
                try:
                    await self._app(scope, receive, record)
                except asyncio.CancelledError:
                    # The server gives up requests that outlast its stop: nothing else cancels one.
                    if status is not None:
                        raise
                    await problems.from_error(UnavailableError(_STOPS))(scope, receive, record)
                except Exception as error:
                    # Here, and not in Starlette's outermost handler, the log knows its links.
                    self._log.error("unexpected_error", exc_info=error)
                    if status is not None:
                        raise
                    await problems.unexpected()(scope, receive, record)
        finally:
            method = request.method if request.method in _METHODS else "other"
            route = getattr(scope.get("route"), "path", "none")
            metrics.HTTP_SECONDS.labels(self._service, method, route, status or "500").observe(
                monotonic() - started
            )
