"""Telling a running reporting service what happened, and asking it for its figures."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx

from shared.messaging.local_producer import LocalProducer
from tests.support.platform import RunningPlatform, json_of
from tests.unit.reporting.builders import PROGRAM, Said

BREAKDOWNS = ("none", "role", "region", "department", "month")


async def tell(running: RunningPlatform, said: Sequence[Said]) -> None:
    """Put events on the log as their owners would, and wait until they count."""
    running.clock.set(max(running.clock.now(), *(each.time for each in said)))
    producer = LocalProducer(running.platform.log)
    await producer.start()
    sent = [
        await producer.send(
            each.record.topic,
            each.record.value,
            key=each.record.key,
            headers=each.record.headers,
        )
        for each in said
    ]
    await asyncio.gather(*sent)
    await producer.stop()
    await running.settle()


async def analyst(running: RunningPlatform) -> httpx.AsyncClient:
    return await running.client("an-analyst", "analyst")


async def ask(client: httpx.AsyncClient, **query: str | int) -> list[dict[str, Any]]:
    """Return all rows of an answer, page by page."""
    rows: list[dict[str, Any]] = []
    while True:
        answer: dict[str, Any] = json_of(
            await client.get("/reporting/v1/kpis", params={"program": PROGRAM, **query})
        )
        rows += answer["rows"]
        if answer["next_cursor"] is None:
            return rows
        query |= {"cursor": answer["next_cursor"]}


async def everything(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    return [row for by in BREAKDOWNS for row in await ask(client, by=by)]
