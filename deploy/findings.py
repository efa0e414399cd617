"""What `upward doctor` says, and what it asks of a running platform, wherever that runs."""

import asyncio
from typing import Literal

from pydantic import BaseModel

from deploy.client import ApiError, Client, UnreachableError
from shared.events.topics import SERVICES

# A service answers with its flow after it asked its own store and bus.
_FLOW_SECONDS = 8.0
_DENIED = (401, 403)


class Finding(BaseModel):
    """One thing that was looked at."""

    state: Literal["ok", "note", "wrong"]
    what: str
    found: str
    advice: str = ""


async def flows(client: Client, token: str) -> list[Finding]:
    """Return how far each service is, asked with an operator's token, within a few seconds.

    Never raises for what it finds.
    """
    return await asyncio.gather(*(_flow(client, token, service) for service in SERVICES))


async def _flow(client: Client, token: str, service: str) -> Finding:
    try:
        async with asyncio.timeout(_FLOW_SECONDS):
            flow = await client.get(token, f"/{service}/v1/operations/flow")
    except ApiError as error:
        advice = "Give a token of the role operator." if error.status in _DENIED else ""
        return Finding(state="wrong", what=service, found=str(error), advice=advice)
    except UnreachableError as error:
        return Finding(state="wrong", what=service, found=str(error))
    except TimeoutError:
        found = f"does not answer within {_FLOW_SECONDS:g} s"
        return Finding(state="wrong", what=service, found=found)
    dead, stopped = flow["dead_letters_open"], flow["stopped_because"]
    return Finding(
        state="wrong" if dead or stopped else "ok",
        what=service,
        found=stopped or f"outbox {flow['outbox_pending']}, lag {flow['lag']}, dead letters {dead}",
        advice=f"upward dlq list {service}" if dead or stopped else "",
    )
