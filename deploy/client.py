"""A client of Upward's HTTP APIs, for the command line and the demo: as a customer would call."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import httpx
import orjson

Json = dict[str, Any]


class ApiError(Exception):
    """The platform refused: the problem document in words."""

    def __init__(self, response: httpx.Response) -> None:
        try:
            problem = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            problem = {}
        self.status = response.status_code
        self.code = str(problem.get("code", "http_error"))
        self.problem: Json = problem
        where = f"{response.request.method} {response.request.url.path}"
        detail = problem.get("detail") or response.text[:200]
        super().__init__(f"{where} answered {self.status} ({self.code}): {detail}")


class Client:
    """Calls with a bearer token; every command carries an Idempotency-Key where one is given."""

    def __init__(self, base_url: str, http: httpx.AsyncClient | None = None) -> None:
        self._http = http or httpx.AsyncClient(
            base_url=base_url,
            timeout=httpx.Timeout(120, connect=10),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=64),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, token: str, path: str, **query: str | int) -> Json:
        """Return the body of a 2xx answer. Raises ApiError."""
        return self._body(await self._http.get(path, params=query or None, headers=_headers(token)))

    async def items(self, token: str, path: str, **query: str | int) -> AsyncIterator[Json]:
        """Yield the items of all pages. Raises ApiError."""
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
        """Send a command with a JSON body and return the answer's. Raises ApiError."""
        headers = _headers(token, key) | {"content-type": "application/json"}
        content = orjson.dumps(body)
        if key is None:
            response = await self._http.request(method, path, content=content, headers=headers)
        else:
            response = await self._try(method, path, content=content, headers=headers)
        return self._body(response)

    async def upload(self, token: str, path: str, content: bytes, media_type: str) -> Json:
        """Send a file and return the answer's body. Raises ApiError."""
        headers = _headers(token) | {"content-type": media_type}
        return self._body(await self._http.post(path, content=content, headers=headers))

    async def text(self, path: str) -> tuple[int, str]:
        """Return status and text of a public path."""
        response = await self._http.get(path)
        return response.status_code, response.text

    async def _try(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send what may be sent again: a read, or a command with its key.

        A lost connection or a 503 leaves open whether the command was carried out; the same key
        gives the same answer. Raises httpx.TransportError when that does not help.
        """
        for pause in (0.05, 0.2, 1.0):
            try:
                response = await self._http.request(method, path, **options)
            except httpx.TransportError:
                await asyncio.sleep(pause)
                continue
            if response.status_code != 503:
                return response
            await asyncio.sleep(pause)
        return await self._http.request(method, path, **options)

    @staticmethod
    def _body(response: httpx.Response) -> Json:
        if not response.is_success:
            raise ApiError(response)
        body: Json = orjson.loads(response.content)
        return body


def _headers(token: str, key: str | None = None) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {token}"}
    if key is not None:
        headers["Idempotency-Key"] = key
    return headers
