"""Reading the log off Kafka: by emission, each partition in its order, little of it at a time."""

from collections.abc import Mapping, Sequence

from aiokafka import ConsumerRecord, TopicPartition

from deploy.cluster.event_log import merged

ONE, TWO = TopicPartition("upward.pairs.v1", 0), TopicPartition("upward.pairs.v1", 1)
Record = ConsumerRecord[bytes | None, bytes | None]


def record(place: TopicPartition, offset: int, event_id: bytes | None) -> Record:
    headers = () if event_id is None else (("ce_id", event_id),)
    return ConsumerRecord(
        *(place.topic, place.partition, offset, 0, 0, None, None, 0, 0, 0),
        headers=headers,
    )


class Partitions:
    """Partitions that are read two records at a time."""

    def __init__(self, ids: Mapping[TopicPartition, Sequence[bytes | None]]) -> None:
        self.records = {
            place: [record(place, offset, event_id) for offset, event_id in enumerate(each)]
            for place, each in ids.items()
        }
        self.read = dict.fromkeys(ids, 0)

    async def position(self, partition: TopicPartition) -> int:
        return self.read[partition]

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int
    ) -> dict[TopicPartition, list[Record]]:
        (place,) = partitions
        start = self.read[place]
        found = self.records[place][start : start + 2]
        self.read[place] += len(found)
        return {place: found} if found else {}

    async def merged(self, ends: Mapping[TopicPartition, int]) -> list[tuple[int, int]]:
        return [(each.partition, each.offset) async for each in merged(self, ends)]


async def test_records_come_by_emission_and_never_out_of_their_partition_s_order() -> None:
    partitions = Partitions({ONE: [b"1", b"7", b"3", b"8"], TWO: [b"2", None, b"4", b"9"]})

    # 3 stands behind 7 in its partition, so it comes after it; what has no id, after its neighbor.
    assert await partitions.merged({ONE: 4, TWO: 4}) == [
        (0, 0),
        (1, 0),
        (1, 1),
        (1, 2),
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 3),
    ]


async def test_what_comes_after_the_end_is_left_out() -> None:
    partitions = Partitions({ONE: [b"1", b"2", b"3"], TWO: []})

    assert await partitions.merged({ONE: 1, TWO: 0}) == [(0, 0)]


async def test_a_partition_is_read_no_further_than_it_is_told_of() -> None:
    partitions = Partitions({ONE: [b"%d" % n for n in range(1, 9)], TWO: [b"0", b"9"]})
    seen = 0
    async for _ in merged(partitions, {ONE: 8, TWO: 2}):
        seen += 1
        assert sum(partitions.read.values()) <= seen + 3
    assert seen == 10
