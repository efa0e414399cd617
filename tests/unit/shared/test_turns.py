"""Long loops leave the event loop to others, and lose nothing on the way."""

import asyncio

import pytest

from shared import turns as turns_module
from shared.turns import in_turns


@pytest.mark.parametrize(("milliseconds", "turns"), [(0.0, 0), (0.3, 2), (1.0, 10), (5.0, 10)])
async def test_others_have_their_turn_after_a_millisecond_and_the_part_that_it_ends_in(
    milliseconds: float, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    had, now = 0, 0.0
    monkeypatch.setattr(turns_module, "monotonic", lambda: now)

    async def other() -> None:
        nonlocal had
        while True:
            await asyncio.sleep(0)
            had += 1

    task = asyncio.create_task(other())
    await asyncio.sleep(0)
    async for _ in in_turns(range(100), 10):
        now += milliseconds / 1000
    task.cancel()

    assert had == turns


async def test_every_item_comes_once_and_in_order() -> None:
    parts = [part async for part in in_turns(iter(range(25)), 10)]

    assert [len(part) for part in parts] == [10, 10, 5]
    assert [item for part in parts for item in part] == list(range(25))
