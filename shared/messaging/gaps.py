"""Noticing records that were deleted before their group had read them."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

from aiokafka import ConsumerRecord, TopicPartition

Record = ConsumerRecord[bytes | None, bytes | None]


_Next = dict[tuple[str, int], int | None]
"""What a group reads next of each partition; None where it has not begun."""


class RecordsDeletedError(Exception):
    """Retention took records that the group had not read; the message says which and what to do."""


class Positions(Protocol):
    """What a consumer knows of its partitions."""

    def assignment(self) -> set[TopicPartition]: ...
    async def committed(self, partition: TopicPartition) -> int | None: ...
    async def beginning_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]: ...


class GapGuard:
    """Compares every batch with what the group reads next.

    A client whose offset is out of range goes on at the oldest record that is left, without a word.
    """

    def __init__(self) -> None:
        self._next: _Next = {}

    def forget(self) -> None:
        """Start anew from the committed offsets: partitions were assigned."""
        self._next = {}

    async def check(self, positions: Positions, batch: Sequence[Record]) -> Callable[[], None]:
        """Raise RecordsDeletedError where records were deleted that the group has not read.

        Returns what is to be called once the batch is processed: until then it may have to come
        again. Other jumps are none of ours: offsets that a transaction's marks take are no records.
        Raises KafkaError, too.
        """
        # Of this assignment, whatever is waited for: what is learned for it is nobody's after it.
        known = self._next
        if not known:
            await self._look(positions, known)
        reached: _Next = {}
        for first, last in _rows(batch):
            place = first.topic, first.partition
            if place not in reached:
                await self._compare(positions, known, first)
            reached[place] = last.offset + 1
        return partial(known.update, reached)

    @staticmethod
    async def _look(positions: Positions, known: _Next) -> None:
        # All of them before the first commit, which takes the positions of all, those that the
        # client has moved on included.
        partitions = sorted(positions.assignment())
        committed = await asyncio.gather(*map(positions.committed, partitions))
        starts = await positions.beginning_offsets(partitions)
        for partition, wanted in zip(partitions, committed, strict=True):
            # Without a committed offset the group is new, and begins with what there is.
            if wanted is not None and starts[partition] > wanted:
                raise _deleted(partition, wanted, starts[partition])
        known.update(
            {
                (partition.topic, partition.partition): wanted
                for partition, wanted in zip(partitions, committed, strict=True)
            }
        )

    @staticmethod
    async def _compare(positions: Positions, known: _Next, first: Record) -> None:
        place = first.topic, first.partition
        wanted = known.get(place)
        if wanted is None:
            # Here the group begins, though this batch may have to come again.
            known[place] = first.offset
        elif first.offset > wanted:
            partition = TopicPartition(*place)
            start = (await positions.beginning_offsets([partition]))[partition]
            if start > wanted:
                raise _deleted(partition, wanted, start)


def _rows(batch: Sequence[Record]) -> Iterator[tuple[Record, Record]]:
    """Yield the first and the last record of each row of records from one partition."""
    first = last = batch[0]
    for record in batch:
        if record.partition != first.partition or record.topic != first.topic:
            yield first, last
            first = record
        last = record
    yield first, last


def _deleted(partition: TopicPartition, wanted: int, start: int) -> RecordsDeletedError:
    return RecordsDeletedError(
        f"{start - wanted} records of {partition.topic}/{partition.partition} were deleted before"
        f" they were read: set the group to offset {start} and replay the outbox of the topic's"
        " owner"
    )
