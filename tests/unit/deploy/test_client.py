"""Why nothing answers is told in few words, and the right ones."""

import ssl
from errno import ECONNREFUSED

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from deploy.client import Client, UnreachableError
from tests.support.servers import free_ports

KEY = ConnectionKey("upward.example.com", 443, True, True, None, None, None)


async def test_a_refused_connection_is_told_without_the_client_s_own_options() -> None:
    (port,) = free_ports(1)
    async with Client(f"http://127.0.0.1:{port}", pauses=()) as client:
        with pytest.raises(UnreachableError) as caught:
            await client.text("/readyz")
    said = f"Nothing answers at http://127.0.0.1:{port} (Connection refused)."
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (aiohttp.ClientConnectorError(KEY, OSError(ECONNREFUSED, "x")), "Connection refused"),
        (aiohttp.ClientConnectorError(KEY, OSError(-2, "Name not known")), "Name not known"),
        (aiohttp.ClientConnectorError(KEY, OSError("Multiple exceptions: a, b")), "a, b"),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "wrong version")), "wrong version"),
        (aiohttp.ServerDisconnectedError(), "Server disconnected"),
        (TimeoutError(), "TimeoutError"),
    ],
)
async def test_the_cause_is_named(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(aiohttp.ClientSession, "request", fails)
    async with Client("https://upward.example.com", pauses=()) as client:
        with pytest.raises(UnreachableError) as caught:
            await client.text("/readyz")
    assert said in str(caught.value)
    assert "None" not in str(caught.value)
    assert "not permitted" not in str(caught.value)
