"""A client of Upward's HTTP APIs, for the command line and the demo: as a customer would call."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import orjson

Json = dict[str, Any]

_PAUSES = (0.05, 0.2, 1.0)
_CONNECTIONS = 64


@dataclass(frozen=True)
class Answer:
    """What came back, whatever its status."""

    status: int
    content: bytes


class ApiError(Exception):
    """The platform refused: the problem document in words."""

    def __init__(self, where: str, answer: Answer) -> None:
        try:
            problem = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            problem = {}
        self.status = answer.status
        self.code = str(problem.get("code", "http_error"))
        self.problem: Json = problem
        detail = problem.get("detail") or answer.content[:200].decode(errors="replace")
        super().__init__(f"{where} answered {self.status} ({self.code}): {detail}")


class UnreachableError(Exception):
    """Nothing answers at the address, or the connection broke and did not come back."""


class Client:
    """Calls with a bearer token; every command carries an Idempotency-Key where one is given.

    `pauses` are the seconds before each repetition of what may be repeated.
    """

    def __init__(self, base_url: str, pauses: Sequence[float] = _PAUSES) -> None:
        self._base_url = base_url
        self._pauses = tuple(pauses)
        if not base_url.startswith(("http://", "https://")):
            msg = f"{base_url!r} is no address; it begins with http:// or https://."
            raise UnreachableError(msg)
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=120, connect=10),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def get(self, token: str, path: str, **query: str | int) -> Json:
        """Return the body of a 2xx answer. Raises ApiError and UnreachableError."""
        return await self._ask("GET", path, _headers(token), query=query, again=True)

    async def items(self, token: str, path: str, **query: str | int) -> AsyncIterator[Json]:
        """Yield the items of all pages. Raises ApiError and UnreachableError."""
        cursor: str | None = None
        while True:
            more = {} if cursor is None else {"cursor": cursor}
            body = await self.get(token, path, **{"limit": 200, **query, **more})
            for item in body["items"]:
                yield item
            cursor = body["next_cursor"]
            if cursor is None:
                return

    async def send(
        self, method: str, token: str, path: str, body: Mapping[str, Any], key: str | None = None
    ) -> Json:
        """Send a command with a JSON body and return the answer's.

        Raises ApiError and UnreachableError.
        """
        headers = _headers(token, key) | {"Content-Type": "application/json"}
        return await self._ask(method, path, headers, orjson.dumps(body), again=key is not None)

    async def upload(self, token: str, path: str, content: bytes, media_type: str) -> Json:
        """Send a file and return the answer's body. Raises ApiError and UnreachableError."""
        return await self._ask(
            "POST", path, _headers(token) | {"Content-Type": media_type}, content
        )

    async def text(self, path: str) -> tuple[int, str]:
        """Return status and text of a public path. Raises UnreachableError."""
        answer = await self._once("GET", path, {}, None, {})
        return answer.status, answer.content.decode()

    async def _ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | None = None,
        *,
        query: Mapping[str, str | int] | None = None,
        again: bool = False,
    ) -> Json:
        """Ask, and `again` what may be asked again: a read, or a command with its key.

        A lost connection or a 503 leaves open whether a command was carried out; the same key
        gives the same answer.
        """
        for pause in self._pauses if again else ():
            try:
                answer = await self._once(method, path, headers, content, query or {})
            except UnreachableError:
                await asyncio.sleep(pause)
                continue
            if answer.status != 503:
                return _body(f"{method} {path}", answer)
            await asyncio.sleep(pause)
        answer = await self._once(method, path, headers, content, query or {})
        return _body(f"{method} {path}", answer)

    def address(self, _path: str) -> str:
        """Return where this path is asked for now."""
        return self._base_url

    async def _once(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes | None,
        query: Mapping[str, str | int],
    ) -> Answer:
        address = self.address(path)
        try:
            async with self._http.request(
                method, address + path, params=query, data=content, headers=headers
            ) as response:
                return Answer(response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            msg = f"Nothing answers at {address} ({_reason(error)})."
            raise UnreachableError(msg) from error


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        # Its own text repeats the address and tells of the client's options.
        cause = error.os_error
        if isinstance(cause, ssl.SSLError):
            return str(cause)
        # Names that don't resolve have numbers of their own, and several addresses none.
        number = cause.errno or 0
        return os.strerror(number) if number > 0 else cause.strerror or str(cause)
    return str(error) or type(error).__name__


def _body(where: str, answer: Answer) -> Json:
    if not 200 <= answer.status < 300:
        raise ApiError(where, answer)
    body: Json = orjson.loads(answer.content)
    return body


def _headers(token: str, key: str | None = None) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {token}"}
    if key is not None:
        headers["Idempotency-Key"] = key
    return headers
