"""Long loops leave the event loop to others, and lose nothing on the way."""

import asyncio

import pytest

from shared.turns import in_turns


@pytest.mark.parametrize(("items", "turns"), [(0, 0), (9, 0), (10, 1), (35, 3)])
async def test_others_have_their_turn_after_each_full_part(items: int, turns: int) -> None:
    had = 0

    async def other() -> None:
        nonlocal had
        while True:
            await asyncio.sleep(0)
            had += 1

    task = asyncio.create_task(other())
    await asyncio.sleep(0)
    async for _ in in_turns(range(items), 10):
        pass
    task.cancel()

    assert had == turns


async def test_every_item_comes_once_and_in_order() -> None:
    parts = [part async for part in in_turns(iter(range(25)), 10)]

    assert [len(part) for part in parts] == [10, 10, 5]
    assert [item for part in parts for item in part] == list(range(25))
