"""A group never passes over records that were deleted before it read them."""

from collections.abc import Sequence

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from shared.messaging.gaps import GapGuard, Record, RecordsDeletedError

PLACE = TopicPartition("t", 0)
OTHER = TopicPartition("t", 1)


class Positions:
    def __init__(self, committed: int | None, beginning: int) -> None:
        self._committed = committed
        self._beginning = beginning
        self.asked = 0

    def assignment(self) -> set[TopicPartition]:
        return {PLACE, OTHER}

    async def committed(self, partition: TopicPartition) -> int | None:
        self.asked += 1
        return self._committed

    async def beginning_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self._beginning)


def _batch(*offsets: int, place: TopicPartition = PLACE) -> list[Record]:
    return [
        ConsumerRecord(
            topic=place.topic, partition=place.partition, offset=offset, timestamp=0,
            timestamp_type=0, key=None, value=b"", checksum=None, serialized_key_size=0,
            serialized_value_size=0, headers=(),
        )
        for offset in offsets
    ]  # fmt: skip


async def test_a_batch_behind_deleted_records_is_refused_and_says_how_many_and_what_to_do() -> None:
    with pytest.raises(RecordsDeletedError, match=r"^4 records of t/0 .* offset 7 and replay"):
        await GapGuard().check(Positions(committed=3, beginning=7), _batch(7, 8))


async def test_a_group_that_never_read_begins_with_what_there_is() -> None:
    await GapGuard().check(Positions(committed=None, beginning=7), _batch(7))


async def test_offsets_that_hold_no_record_are_no_loss() -> None:
    await GapGuard().check(Positions(committed=3, beginning=0), _batch(5))


async def test_a_redelivered_batch_is_taken_again() -> None:
    guard, positions = GapGuard(), Positions(committed=3, beginning=0)
    (await guard.check(positions, _batch(3, 4)))()
    (await guard.check(positions, _batch(3, 4)))()


async def test_a_consumer_that_retention_overtakes_while_it_reads_stops_too() -> None:
    guard = GapGuard()
    (await guard.check(Positions(committed=3, beginning=0), _batch(3, 4)))()
    with pytest.raises(RecordsDeletedError, match=r"^5 records"):
        await guard.check(Positions(committed=5, beginning=10), _batch(10))


async def test_records_deleted_before_a_batch_came_again_are_noticed() -> None:
    guard = GapGuard()
    await guard.check(Positions(committed=3, beginning=0), _batch(3, 4, 5, 6))  # and not processed
    with pytest.raises(RecordsDeletedError, match=r"^2 records of t/0 .* offset 5 and replay"):
        await guard.check(Positions(committed=3, beginning=5), _batch(5, 6))


async def test_records_deleted_before_the_first_batch_of_a_group_came_again_are_noticed() -> None:
    guard = GapGuard()
    await guard.check(Positions(committed=None, beginning=3), _batch(3, 4))  # and not processed
    with pytest.raises(RecordsDeletedError, match=r"^7 records of t/0 .* offset 10"):
        await guard.check(Positions(committed=None, beginning=10), _batch(10))


async def test_a_partition_that_comes_in_two_rows_is_compared_once() -> None:
    guard = GapGuard()
    (await guard.check(Positions(committed=3, beginning=3), _batch(3)))()
    rows = _batch(4, 5) + _batch(3, place=OTHER) + _batch(6, 7)
    (await guard.check(Positions(committed=4, beginning=5), rows))()
    with pytest.raises(RecordsDeletedError, match=r"^2 records of t/0"):
        await guard.check(Positions(committed=8, beginning=10), _batch(10))


@pytest.mark.parametrize("looks", [1, 2], ids=["while it looks", "while it compares"])
async def test_an_assignment_during_a_check_begins_anew(looks: int) -> None:
    guard = GapGuard()

    class Moving(Positions):
        async def beginning_offsets(
            self, partitions: Sequence[TopicPartition]
        ) -> dict[TopicPartition, int]:
            nonlocal looks
            looks -= 1
            if looks == 0:
                guard.forget()
            return await super().beginning_offsets(partitions)

    (await guard.check(Moving(committed=3, beginning=0), _batch(5)))()
    later = Positions(committed=3, beginning=0)
    await guard.check(later, _batch(6))
    assert later.asked == 2


async def test_a_batch_of_the_last_assignment_tells_nothing_of_the_next() -> None:
    guard, positions = GapGuard(), Positions(committed=3, beginning=0)
    processed = await guard.check(positions, _batch(3, 4))
    guard.forget()
    processed()
    with pytest.raises(RecordsDeletedError, match=r"^2 records"):
        await guard.check(Positions(committed=5, beginning=7), _batch(7))


async def test_the_last_record_of_each_partition_counts() -> None:
    guard, positions = GapGuard(), Positions(committed=3, beginning=0)
    (await guard.check(positions, _batch(3, 4) + _batch(3, 4, 5, place=OTHER)))()
    later = Positions(committed=3, beginning=6)
    with pytest.raises(RecordsDeletedError, match=r"^1 records of t/0"):
        await guard.check(later, _batch(6))
    await guard.check(later, _batch(6, place=OTHER))


async def test_a_gap_is_found_before_the_batch_of_another_partition_is_committed() -> None:
    guard, positions = GapGuard(), Positions(committed=3, beginning=7)
    for _ in range(2):  # a client may bring one more batch before it is stopped
        with pytest.raises(RecordsDeletedError, match=r"^4 records of t/0"):
            await guard.check(positions, _batch(3, place=OTHER))


async def test_the_brokers_are_asked_once_for_each_partition_of_an_assignment() -> None:
    guard, positions = GapGuard(), Positions(committed=3, beginning=0)
    for offset in (3, 4, 5):
        (await guard.check(positions, _batch(offset)))()
    assert positions.asked == 2
    guard.forget()
    await guard.check(positions, _batch(6))
    assert positions.asked == 4
