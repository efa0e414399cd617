"""Looks at a group's offsets, on clients that answer late."""

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError

from shared.messaging.lag import Offsets

A = TopicPartition("t", 0)


class SlowClient:
    """A client that answers when the test lets it."""

    def __init__(self) -> None:
        self.asked = self.stopped = 0
        self.end = 7
        self.answers = asyncio.Event()
        self.error: Exception | None = None

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopped += 1

    async def committed(self, _partition: TopicPartition) -> int | None:
        self.asked += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return 5

    async def end_offsets(self, _partitions: object) -> dict[TopicPartition, int]:
        return {A: self.end}


async def test_while_a_look_is_late_nobody_begins_another_and_after_it_one_is_fresh() -> None:
    client = SlowClient()
    offsets = Offsets(lambda: client)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await offsets.look([A], 0.01)
    assert client.asked == 1
    asyncio.get_running_loop().call_later(0.05, client.answers.set)
    assert await offsets.look([A], 5) == ({A: 7}, {A: 5})
    assert client.asked == 2
    client.end = 9
    assert (await offsets.look([A], 5))[0] == {A: 9}


async def test_a_late_look_that_fails_is_not_the_next_one_s_failure() -> None:
    client = SlowClient()
    client.error = KafkaConnectionError("away")
    offsets = Offsets(lambda: client)
    with pytest.raises(TimeoutError):
        await offsets.look([A], 0.01)
    client.answers.set()
    await asyncio.sleep(0.01)
    with pytest.raises(KafkaConnectionError):
        await offsets.look([A], 5)
    client.error = None
    assert (await offsets.look([A], 5))[1] == {A: 5}


async def test_closing_waits_for_no_answer() -> None:
    client = SlowClient()
    offsets = Offsets(lambda: client)
    with pytest.raises(TimeoutError):
        await offsets.look([A], 0.01)
    await asyncio.wait_for(offsets.close(), 1)
    assert client.stopped == 1
