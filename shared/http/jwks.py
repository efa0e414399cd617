"""An issuer's public keys, read from its JWK set and kept fresh while it rotates them."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import jwt
import orjson

from shared.clock import monotonic
from shared.errors import UnavailableError
from shared.logging import get_logger

ALGORITHMS = ("ES256", "RS256")
"""Fixed here and not taken from a token's header; no symmetric one, ever."""

_REFRESH_SECONDS = 600.0
# A flood of unknown key ids must not become a flood of requests to the issuer.
_SOONEST_SECONDS = 30.0
_TIMEOUT_SECONDS = 5.0
_MAX_BYTES = 256 * 1024


class FixedKeys:
    """Keys that never change."""

    def __init__(self, keys: Mapping[str, jwt.PyJWK]) -> None:
        self._keys = dict(keys)

    def get(self, key_id: str) -> jwt.PyJWK | None:
        """Return the key of this id."""
        return self._keys.get(key_id)


class JwkSet:
    """The keys at an `https://` address or in a file, read again every ten minutes.

    An unknown key id has them read again at once, though not more often than every 30 seconds.
    While the source is away the keys last read stay in use.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._keys: dict[str, jwt.PyJWK] = {}
        self._read_at = -_REFRESH_SECONDS
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._log = get_logger("auth")

    def get(self, key_id: str) -> jwt.PyJWK | None:
        """Return the key of this id, None where the last read set has none."""
        key = self._keys.get(key_id)
        if key is None:
            self._wanted.set()
        return key

    async def start(self) -> None:
        """Read the keys and keep them fresh. Raises UnavailableError if they can't be read."""
        await self._read()
        self._task = asyncio.create_task(self._keep_fresh())

    async def stop(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _keep_fresh(self) -> None:
        while True:
            # Not wait_for: Python 3.11's swallows a cancellation that meets the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REFRESH_SECONDS):
                    await self._wanted.wait()
            await asyncio.sleep(max(0.0, self._read_at + _SOONEST_SECONDS - monotonic()))
            self._wanted.clear()
            try:
                await self._read()
            except UnavailableError as error:
                self._log.warning("jwks_not_read", error=error.detail)

    async def _read(self) -> None:
        self._read_at = monotonic()
        try:
            document = orjson.loads(await self._fetch())
            found = {
                key_id: key
                for item in document["keys"]
                if (key_id := item.get("kid")) and (key := _usable(item)) is not None
            }
        except (
            OSError,
            aiohttp.ClientError,
            TimeoutError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:
            reason = str(error) or type(error).__name__
            msg = f"The keys at {self._source} can't be read: {reason}"
            raise UnavailableError(msg) from error
        if not found:
            msg = (
                f"There is no usable key at {self._source}: each has a `kid`, and is of"
                f" {' or '.join(ALGORITHMS)}."
            )
            raise UnavailableError(msg)
        self._keys = found

    async def _fetch(self) -> bytes:
        if not self._source.startswith("https://"):
            return Path(self._source).read_bytes()
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.get(self._source, raise_for_status=True, allow_redirects=False) as answer,
        ):
            content = await answer.content.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            msg = "the key set is too large"
            raise ValueError(msg)
        return content


def _usable(item: Mapping[str, str]) -> jwt.PyJWK | None:
    if item.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(dict(item))
    except jwt.PyJWTError:
        return None
    return key if key.algorithm_name in ALGORITHMS else None
