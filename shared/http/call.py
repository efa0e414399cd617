"""What a route gets: who asks, and the ways to read and to command."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

import orjson
from fastapi import Depends, Request, Response
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from pydantic import BaseModel

from shared.clock import Clock, Instant
from shared.errors import (
    ForbiddenError,
    InvalidInputError,
    UnauthenticatedError,
    UnsupportedMediaTypeError,
)
from shared.http.auth import Principal, Role, TokenVerifier
from shared.ids import derived_id
from shared.store.port import AtMost, Document, Index, Store, Transaction

P = ParamSpec("P")
T = TypeVar("T")

_JSON = "application/json"
_KEEP_ANSWERS = timedelta(days=7)
IDEMPOTENCY_HEADER = "Idempotency-Key"
_KEY = re.compile(r"^[\x21-\x7e]{1,200}\Z")


class CommandAnswer(Document):
    """The answer that a command with an Idempotency-Key got, given again to every repetition."""

    collection: ClassVar[str] = "command_answers"
    indexes: ClassVar[tuple[Index, ...]] = (Index(("answered_at",)),)

    fingerprint: str
    status: int
    body: str
    answered_at: Instant


@dataclass(frozen=True)
class Call:
    """One authorized request."""

    caller: Principal
    store: Store
    clock: Clock
    method: str
    path: str
    idempotency_key: str | None
    body_digest: str

    @property
    def now(self) -> datetime:
        """The service's present."""
        return self.clock.now()

    async def command(
        self,
        handler: Callable[Concatenate[Transaction, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run the handler in a transaction, without remembering its answer."""
        return await self.store.transact(handler, *args, **kwargs)

    async def answer(
        self,
        status: int,
        present: Callable[[T], BaseModel],
        handler: Callable[Concatenate[Transaction, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Response:
        """Run a command once: the same Idempotency-Key gives the same answer, and no second effect.

        The answer commits together with the command's effects. A refused command changed nothing
        and is not remembered: its repetition is judged anew. Raises InvalidInputError for a key
        that was used with another request.
        """
        if self.idempotency_key is None:
            result = present(await self.store.transact(handler, *args, **kwargs))
            return json_response(status, result.model_dump_json())
        answer_id = self._answer_id(self.idempotency_key)

        async def once(tx: Transaction) -> CommandAnswer:
            known = await tx.get(CommandAnswer, answer_id)
            if known is not None:
                return self._same_request(known)
            result = present(await handler(tx, *args, **kwargs))
            return tx.put(
                CommandAnswer(
                    id=answer_id,
                    fingerprint=self._fingerprint,
                    status=status,
                    body=result.model_dump_json(),
                    answered_at=self.now,
                )
            )

        answer = await self.store.transact(once)
        return json_response(answer.status, answer.body)

    async def earlier_answer(self) -> Response | None:
        """Return what a request with this Idempotency-Key was answered, None for the first.

        For commands that do more than one transaction before `answer` ends them. Raises
        InvalidInputError for a key that was used with another request.
        """
        if self.idempotency_key is None:
            return None
        known = await self.store.get(CommandAnswer, self._answer_id(self.idempotency_key))
        if known is None:
            return None
        return json_response(self._same_request(known).status, known.body)

    def _answer_id(self, key: str) -> str:
        return derived_id("answer", self.caller.subject, key)

    @property
    def _fingerprint(self) -> str:
        # With what the caller may: who lost a role or a program is not given an answer from before.
        rights = ",".join((*sorted(self.caller.roles), *sorted(self.caller.programs)))
        return f"{self.method} {self.path} {self.body_digest} {rights}"

    def _same_request(self, known: CommandAnswer) -> CommandAnswer:
        if known.fingerprint != self._fingerprint:
            raise InvalidInputError(
                "This key was used for another request.",
                code="idempotency_key_reused",
                field="Idempotency-Key",
            )
        return known


def json_response(status: int, body: str) -> Response:
    """Return a response of JSON text that is already encoded."""
    return Response(body, status_code=status, media_type="application/json")


async def purge_answers(store: Store, now: datetime) -> None:
    """Forget answers older than a week: a retry comes within minutes."""

    async def purge(tx: Transaction) -> int:
        old = await tx.find(
            CommandAnswer,
            {"answered_at": AtMost(now - _KEEP_ANSWERS)},
            order_by="answered_at",
            limit=500,
        )
        for answer in old:
            tx.delete(answer)
        return len(old)

    while await store.transact(purge):
        continue


@dataclass(frozen=True)
class Access:
    """What the application keeps on its state for `allow`."""

    store: Store
    clock: Clock
    verifier: TokenVerifier


def _check_json(body: bytes, *, wanted: bool) -> None:
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # FastAPI's parser takes NaN and lone surrogates, which nothing behind it can keep.
        raise InvalidInputError(
            "The body is not JSON.", code="json_invalid", field="body"
        ) from error
    if not wanted and read:
        detail = "This command takes no body."
        raise InvalidInputError(detail, code="extra_forbidden", field="body")


class _Authorize(HTTPBearer):
    """Lets callers with one of the roles through, as one dependency without any of its own.

    FastAPI solves each nested dependency and each header parameter anew for every request, which
    took longer than most handlers. The Idempotency-Key is described in `shared.http.app`.
    """

    def __init__(self, roles: tuple[Role, ...], media_type: str) -> None:
        super().__init__(scheme_name="HTTPBearer", description="A token of the configured issuer")
        self.roles = roles
        self._media_type = media_type

    async def __call__(self, request: Request) -> Call:  # type: ignore[override]  # see `allow`
        access: Access = request.app.state.access
        headers = request.headers
        scheme, token = get_authorization_scheme_param(headers.get("authorization"))
        if scheme.lower() != "bearer":
            raise UnauthenticatedError("Send an Authorization header with a bearer token.")
        caller = access.verifier.verify(token)
        if not caller.has(*self.roles):
            raise ForbiddenError(f"This needs one of the roles {', '.join(self.roles)}.")
        body = b""
        if request.method in {"POST", "PUT", "PATCH"}:
            body = await request.body()
            sent = headers.get("content-type", "").partition(";")[0].strip().lower()
            if body and sent != self._media_type:
                raise UnsupportedMediaTypeError(f"Send {self._media_type}.", field="Content-Type")
            if body and self._media_type == _JSON:
                _check_json(body, wanted=request.scope["route"].body_field is not None)
        key = headers.get(IDEMPOTENCY_HEADER)
        if key is not None and not _KEY.match(key):
            detail = "1 to 200 printable ASCII characters without spaces."
            raise InvalidInputError(detail, code="bad_key", field=IDEMPOTENCY_HEADER)
        return Call(
            caller=caller,
            store=access.store,
            clock=access.clock,
            method=request.method,
            path=request.url.path,
            idempotency_key=key,
            body_digest=hashlib.sha256(body).hexdigest() if key is not None else "",
        )


def allow(*roles: Role, media_type: str = _JSON) -> Any:
    """Return the dependency that lets only callers with one of these roles through.

    Objects are checked afterwards, in the service's `access.py`. A route without this dependency
    is public; the route walk of the tests knows each of those by name.
    """
    return Depends(_Authorize(roles, media_type))
