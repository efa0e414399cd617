"""What every bus must do: the local log and Apache Kafka alike."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest
from aiokafka import ConsumerRebalanceListener, ConsumerRecord, OffsetAndMetadata, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalOperation,
    IllegalStateError,
    MessageSizeTooLargeError,
    NoOffsetForPartitionError,
    ProducerClosed,
)
from faststream import AckPolicy
from faststream.kafka import KafkaMessage

from shared.messaging.local_consumer import LocalConsumer
from tests.contract.buses import (
    PATIENCE_SECONDS,
    Bus,
    EmbeddedBus,
    KafkaBus,
    RecordingListener,
    pattern_of,
    read,
    unique,
)


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.cluster)])
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bus]:
    running: Bus
    if request.param == "kafka":
        running = KafkaBus(request.getfixturevalue("kafka").bootstrap)
    else:
        running = EmbeddedBus(tmp_path / "log.db")
    await running.start()
    yield running
    await running.close()


@pytest.fixture
async def topic(bus: Bus) -> str:
    name = unique("pairs")
    await bus.create_topics({name: 6})
    return name


@pytest.fixture
def group() -> str:
    return unique("sessions")


async def send(bus: Bus, topic: str, count: int, keys: int = 10) -> None:
    """Send `count` records whose values count up within each key."""
    producer = await bus.producer()
    futures = [
        await producer.send(topic, b"%d" % number, b"key-%d" % (number % keys))
        for number in range(count)
    ]
    await asyncio.gather(*futures)


# Partitions, order, offsets


async def test_records_of_a_key_keep_their_partition_and_order(bus: Bus, topic: str) -> None:
    await send(bus, topic, 200)
    consumer = bus.consumer(topic)
    await consumer.start()
    partitions = defaultdict(set)
    values = defaultdict(list)
    for record in await read(consumer, 200):
        partitions[record.key].add(record.partition)
        values[record.key].append(int(record.value or b""))
    assert all(len(found) == 1 for found in partitions.values())
    assert len(set().union(*partitions.values())) > 1
    assert all(numbers == sorted(numbers) for numbers in values.values())


@pytest.mark.parametrize(
    ("key", "murmur2"),
    [
        # The vectors of Apache Kafka's own UtilsTest.
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
async def test_a_key_lands_on_the_partition_that_kafkas_clients_choose(
    bus: Bus, topic: str, key: bytes, murmur2: int
) -> None:
    producer = await bus.producer()
    sent = await producer.send_and_wait(topic, b"", key)
    assert sent.partition == (murmur2 & 0x7FFFFFFF) % 6


async def test_an_explicit_partition_wins_over_the_key(bus: Bus, topic: str) -> None:
    producer = await bus.producer()
    for partition in range(6):
        sent = await producer.send_and_wait(topic, b"", b"same", partition=partition)
        assert sent.topic_partition == TopicPartition(topic, partition)


async def test_records_without_a_key_use_every_partition(bus: Bus, topic: str) -> None:
    producer = await bus.producer()
    sent = [await producer.send_and_wait(topic, b"x") for _ in range(120)]
    assert {metadata.partition for metadata in sent} == set(range(6))


async def test_offsets_of_a_partition_have_no_gaps(bus: Bus, topic: str) -> None:
    await send(bus, topic, 300, keys=37)
    consumer = bus.consumer(topic)
    await consumer.start()
    offsets = defaultdict(list)
    for record in await read(consumer, 300):
        offsets[record.partition].append(record.offset)
    for found in offsets.values():
        assert found == list(range(len(found)))
    ends = await consumer.end_offsets([TopicPartition(topic, n) for n in offsets])
    assert {tp.partition: end for tp, end in ends.items()} == {
        number: len(found) for number, found in offsets.items()
    }


async def test_an_acknowledgement_names_the_place_where_the_record_is(bus: Bus, topic: str) -> None:
    producer = await bus.producer()
    sent = await producer.send_and_wait(topic, b"v", b"k", timestamp_ms=1_700_000_000_123)
    consumer = bus.consumer(topic)
    await consumer.start()
    record = await consumer.getone()
    assert (record.topic, record.partition, record.offset) == (topic, sent.partition, sent.offset)
    assert record.timestamp == sent.timestamp == 1_700_000_000_123


async def test_many_publishers_at_once_keep_the_order_of_each_key(bus: Bus, topic: str) -> None:
    producer = await bus.producer()

    async def publish(key: int) -> None:
        for number in range(30):
            await producer.send_and_wait(topic, b"%d" % number, b"key-%d" % key)

    await asyncio.gather(*(publish(key) for key in range(20)))
    consumer = bus.consumer(topic)
    await consumer.start()
    values = defaultdict(list)
    for record in await read(consumer, 600):
        values[record.key].append(record.value)
    assert len(values) == 20
    assert all(found == [b"%d" % number for number in range(30)] for found in values.values())


# What a record carries


async def test_headers_come_back_as_sent_with_nulls_and_bytes_that_are_no_text(
    bus: Bus, topic: str
) -> None:
    headers = [("ce_id", b"1"), ("none", None), ("raw", b"\xff\x00\xfe"), ("ce_id", "ü".encode())]
    producer = await bus.producer()
    await producer.send_and_wait(topic, b"v", b"k", headers=headers)
    consumer = bus.consumer(topic)
    await consumer.start()
    record = await consumer.getone()
    assert list(record.headers) == headers


async def test_a_tombstone_has_no_value(bus: Bus, topic: str) -> None:
    producer = await bus.producer()
    await producer.send_and_wait(topic, None, b"erased")
    consumer = bus.consumer(topic)
    await consumer.start()
    record = await consumer.getone()
    assert (record.key, record.value) == (b"erased", None)
    assert (record.serialized_key_size, record.serialized_value_size) == (6, -1)


async def test_a_record_that_is_too_large_is_refused_and_the_next_one_taken(
    bus: Bus, topic: str
) -> None:
    producer = await bus.producer(max_request_size=10_000)
    with pytest.raises(MessageSizeTooLargeError):
        await producer.send_and_wait(topic, b"x" * 10_001, b"k")
    await producer.send_and_wait(topic, b"small", b"k")
    consumer = bus.consumer(topic)
    await consumer.start()
    assert (await consumer.getone()).value == b"small"


async def test_serializers_and_deserializers_are_applied(bus: Bus, topic: str) -> None:
    producer = await bus.producer(
        key_serializer=lambda key: key.encode(), value_serializer=lambda value: b"%d" % value
    )
    await producer.send_and_wait(topic, 7, "key")
    consumer = bus.consumer(topic, key_deserializer=bytes.decode, value_deserializer=int)
    await consumer.start()
    record = await consumer.getone()
    assert (record.key, record.value) == ("key", 7)


async def test_a_batch_stays_together_whatever_its_keys(bus: Bus, topic: str) -> None:
    producer = await bus.producer()
    batch = producer.create_batch()
    for number in range(20):
        added = batch.append(timestamp=None, key=b"key-%d" % number, value=b"%d" % number)
        assert added is not None
    await (await producer.send_batch(batch, topic, partition=2))
    consumer = bus.consumer(topic)
    await consumer.start()
    records = await read(consumer, 20)
    assert [(r.partition, r.value) for r in records] == [(2, b"%d" % n) for n in range(20)]


async def test_a_batch_tells_when_it_is_full(bus: Bus) -> None:
    batch = (await bus.producer(max_batch_size=1000)).create_batch()
    added = [batch.append(timestamp=None, key=None, value=b"x" * 300) for _ in range(5)]
    assert added[0] is not None
    assert added[-1] is None
    assert batch.record_count() < 5


# Reading


async def test_a_poll_returns_no_more_than_max_records(bus: Bus, topic: str) -> None:
    await send(bus, topic, 100)
    consumer = bus.consumer(topic)
    await consumer.start()
    sizes: list[int] = []
    while sum(sizes) < 100:
        taken = await consumer.getmany(timeout_ms=1000, max_records=7)
        sizes.append(sum(map(len, taken.values())))
    assert max(sizes) == 7


async def test_a_poll_waits_for_its_timeout_when_there_is_nothing(bus: Bus, topic: str) -> None:
    consumer = bus.consumer(topic)
    await consumer.start()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    assert await consumer.getmany(timeout_ms=150) == {}
    assert loop.time() - begin >= 0.14


async def test_a_waiting_poll_returns_as_soon_as_a_record_arrives(bus: Bus, topic: str) -> None:
    producer = await bus.producer()
    consumer = bus.consumer(topic)
    await consumer.start()
    poll = asyncio.create_task(consumer.getmany(timeout_ms=60_000))
    await producer.send_and_wait(topic, b"news", b"k")
    async with asyncio.timeout(PATIENCE_SECONDS):
        taken = await poll
    assert [record.value for batch in taken.values() for record in batch] == [b"news"]


async def test_a_cancelled_poll_loses_no_record(bus: Bus, topic: str) -> None:
    producer = await bus.producer()
    consumer = bus.consumer(topic)
    await consumer.start()
    got: list[object] = []
    for number in range(20):
        poll = asyncio.create_task(consumer.getmany(timeout_ms=60_000))
        await producer.send_and_wait(topic, b"%d" % number, b"k")
        poll.cancel()
        for outcome in await asyncio.gather(poll, return_exceptions=True):
            if isinstance(outcome, dict):
                got += [record.value for batch in outcome.values() for record in batch]
    got += [record.value for record in await read(consumer, 20 - len(got))]
    assert got == [b"%d" % number for number in range(20)]


async def test_a_full_partition_does_not_hide_the_others(bus: Bus, topic: str) -> None:
    producer = await bus.producer()
    futures = [await producer.send(topic, b"x", partition=0) for _ in range(200)]
    futures.append(await producer.send(topic, b"x", partition=5))
    await asyncio.gather(*futures)
    consumer = bus.consumer(topic)
    await consumer.start()
    polls = [set(await consumer.getmany(timeout_ms=1000, max_records=10)) for _ in range(21)]
    assert set().union(*polls) == {TopicPartition(topic, 0), TopicPartition(topic, 5)}


async def test_seek_moves_the_position_and_reads_again(bus: Bus, topic: str) -> None:
    await send(bus, topic, 20, keys=1)
    consumer = bus.consumer(topic)
    await consumer.start()
    records = await read(consumer, 20)
    place = TopicPartition(topic, records[0].partition)
    assert await consumer.position(place) == 20
    consumer.seek(place, 5)
    assert await consumer.position(place) == 5
    assert [r.offset for r in await read(consumer, 15)] == list(range(5, 20))
    await consumer.seek_to_beginning(place)
    assert (await consumer.getone()).offset == 0
    await consumer.seek_to_end(place)
    assert await consumer.position(place) == 20


async def test_seek_refuses_what_is_not_assigned_and_what_is_no_offset(
    bus: Bus, topic: str
) -> None:
    consumer = bus.consumer(topic)
    await consumer.start()
    with pytest.raises(IllegalStateError):
        consumer.seek(TopicPartition(unique("other"), 0), 0)
    with pytest.raises(ValueError, match="positive"):
        consumer.seek(TopicPartition(topic, 0), -1)


async def test_a_position_past_the_end_is_reset_by_the_policy(bus: Bus, topic: str) -> None:
    await send(bus, topic, 3, keys=1)
    consumer = bus.consumer(topic)
    await consumer.start()
    records = await read(consumer, 3)
    consumer.seek(TopicPartition(topic, records[0].partition), 1000)
    assert [record.offset for record in await read(consumer, 3)] == [0, 1, 2]


async def test_latest_reads_only_what_comes_after_the_start(bus: Bus, topic: str) -> None:
    await send(bus, topic, 10)
    consumer = bus.consumer(topic, auto_offset_reset="latest")
    await consumer.start()
    for number in range(6):
        place = TopicPartition(topic, number)
        assert await consumer.position(place) == (await consumer.end_offsets([place]))[place]
    producer = await bus.producer()
    await producer.send_and_wait(topic, b"later", b"k")
    assert [record.value for record in await read(consumer, 1)] == [b"later"]


async def test_without_a_reset_policy_a_missing_offset_is_an_error(bus: Bus, topic: str) -> None:
    consumer = bus.consumer(topic, auto_offset_reset="none", group_id=unique("none"))
    await consumer.start()
    with pytest.raises(NoOffsetForPartitionError):
        await read(consumer, 1)


async def test_a_paused_partition_gives_nothing_until_it_is_resumed(bus: Bus, topic: str) -> None:
    place = TopicPartition(topic, 3)
    consumer = bus.consumer(topic)
    await consumer.start()
    consumer.pause(place)
    producer = await bus.producer()
    await producer.send_and_wait(topic, b"held", partition=3)
    await producer.send_and_wait(topic, b"passes", partition=4)
    assert [record.value for record in await read(consumer, 1)] == [b"passes"]
    assert consumer.paused() == {place}
    assert await consumer.getmany(timeout_ms=100) == {}
    consumer.resume(place)
    assert [record.value for record in await read(consumer, 1)] == [b"held"]


async def test_a_consumer_reads_the_partitions_that_it_assigns_itself(bus: Bus, topic: str) -> None:
    await send(bus, topic, 60)
    mine = TopicPartition(topic, 0)
    consumer = bus.consumer()
    consumer.assign([mine])
    await consumer.start()
    assert consumer.assignment() == {mine}
    end = (await consumer.end_offsets([mine]))[mine]
    assert {record.partition for record in await read(consumer, end)} == {0}
    with pytest.raises(IllegalStateError):
        consumer.subscribe([topic])


async def test_stopping_ends_a_waiting_read(bus: Bus, topic: str) -> None:
    consumer = bus.consumer(topic)
    await consumer.start()
    waiting = asyncio.create_task(consumer.getone())
    await asyncio.sleep(0)
    await consumer.stop()
    with pytest.raises(ConsumerStoppedError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            await waiting
    with pytest.raises(ConsumerStoppedError):
        await consumer.getmany(timeout_ms=0)


# Groups and commits


async def test_a_group_shares_its_partitions_and_reads_each_record_once(
    bus: Bus, topic: str, group: str
) -> None:
    first = bus.consumer(topic, group_id=group)
    await first.start()
    second = bus.consumer(topic, group_id=group)
    await second.start()
    await send(bus, topic, 300, keys=50)
    records: list[tuple[int, int]] = []

    async def read_until_all(consumer: LocalConsumer) -> None:
        while len(records) < 300:
            taken = await consumer.getmany(timeout_ms=200)
            records.extend((r.partition, r.offset) for batch in taken.values() for r in batch)

    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(read_until_all(first), read_until_all(second))
    assert len(records) == len(set(records)) == 300
    assert first.assignment().isdisjoint(second.assignment())
    assert {len(first.assignment()), len(second.assignment())} == {3}


async def test_two_groups_both_get_everything(bus: Bus, topic: str) -> None:
    await send(bus, topic, 50)
    for _ in range(2):
        consumer = bus.consumer(topic, group_id=unique("group"))
        await consumer.start()
        assert len(await read(consumer, 50)) == 50


async def test_a_restart_goes_on_after_what_was_committed(bus: Bus, topic: str, group: str) -> None:
    await send(bus, topic, 40, keys=1)
    consumer = bus.consumer(topic, group_id=group)
    await consumer.start()
    records = await read(consumer, 25)
    await consumer.commit()
    await read(consumer, 5)
    await consumer.stop()
    await bus.restart()
    again = bus.consumer(topic, group_id=group)
    await again.start()
    assert await again.committed(TopicPartition(topic, records[0].partition)) == 25
    # What was read and not committed comes again.
    assert [record.offset for record in await read(again, 15)] == list(range(25, 40))


async def test_given_offsets_are_committed_as_they_are(bus: Bus, topic: str, group: str) -> None:
    await send(bus, topic, 10, keys=1)
    consumer = bus.consumer(topic, group_id=group)
    await consumer.start()
    place = TopicPartition(topic, (await read(consumer, 10))[0].partition)
    assert await consumer.committed(place) is None
    await consumer.commit({place: 4})
    assert await consumer.committed(place) == 4
    await consumer.commit({place: OffsetAndMetadata(3, "back")})
    assert await consumer.committed(place) == 3


async def test_without_a_group_nothing_is_committed(bus: Bus, topic: str) -> None:
    consumer = bus.consumer(topic)
    await consumer.start()
    with pytest.raises(IllegalOperation):
        await consumer.commit()
    with pytest.raises(IllegalOperation):
        await consumer.committed(TopicPartition(topic, 0))


async def test_automatic_commits_happen_at_the_stop(bus: Bus, topic: str, group: str) -> None:
    await send(bus, topic, 10)
    consumer = bus.consumer(topic, group_id=group, enable_auto_commit=True)
    await consumer.start()
    await read(consumer, 10)
    await consumer.stop()
    await send(bus, topic, 1)
    again = bus.consumer(topic, group_id=group)
    await again.start()
    assert [record.value for record in await read(again, 1)] == [b"0"]


async def test_automatic_commits_happen_by_the_clock(bus: Bus, topic: str, group: str) -> None:
    await send(bus, topic, 10, keys=1)
    consumer = bus.consumer(
        topic, group_id=group, enable_auto_commit=True, auto_commit_interval_ms=50
    )
    await consumer.start()
    place = TopicPartition(topic, (await read(consumer, 10))[0].partition)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await consumer.committed(place) != 10:
            await consumer.getmany(timeout_ms=20)


async def test_a_joining_member_makes_the_others_give_up_before_they_get_again(
    bus: Bus, topic: str, group: str
) -> None:
    listener = RecordingListener()
    first = bus.consumer(group_id=group)
    first.subscribe([topic], listener=listener)
    await first.start()
    everything = frozenset(TopicPartition(topic, number) for number in range(6))
    await listener.until(lambda told: ("assigned", everything) in told)
    assert listener.told == [("revoked", frozenset()), ("assigned", everything)]

    second = bus.consumer(topic, group_id=group)
    await second.start()
    await listener.until(lambda told: len(told) == 4)
    assert listener.told[2] == ("revoked", everything)
    event, kept = listener.told[3]
    assert event == "assigned"
    assert kept == first.assignment()
    assert kept | second.assignment() == everything
    assert not kept & second.assignment()


async def test_what_is_committed_while_partitions_are_revoked_is_not_read_again(
    bus: Bus, topic: str, group: str
) -> None:
    await send(bus, topic, 60)
    first = bus.consumer(group_id=group)
    first.subscribe([topic], listener=RecordingListener(on_revoked=first.commit))
    await first.start()
    await read(first, 60)
    second = bus.consumer(topic, group_id=group)
    await second.start()
    await send(bus, topic, 30)
    again: list[bytes | None] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(again) < 30:
            for consumer in (first, second):
                taken = await consumer.getmany(timeout_ms=100)
                again += [record.value for batch in taken.values() for record in batch]
    assert sorted(int(value or b"") for value in again) == list(range(30))


async def test_after_a_rebalance_each_partition_is_read_from_its_committed_offset(
    bus: Bus, topic: str, group: str
) -> None:
    await send(bus, topic, 60)
    first = bus.consumer(topic, group_id=group)
    await first.start()
    await read(first, 60)
    second = bus.consumer(topic, group_id=group)
    await second.start()
    # The first member committed nothing: what it keeps comes again as well as what it gave up.
    again: set[tuple[int, int]] = set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(again) < 60:
            for consumer in (first, second):
                taken = await consumer.getmany(timeout_ms=100)
                again |= {(r.partition, r.offset) for batch in taken.values() for r in batch}


async def test_automatic_commits_happen_before_partitions_are_given_up(
    bus: Bus, topic: str, group: str
) -> None:
    await send(bus, topic, 60)
    first = bus.consumer(topic, group_id=group, enable_auto_commit=True)
    await first.start()
    await read(first, 60)
    second = bus.consumer(topic, group_id=group)
    await second.start()
    assert await committed_total(second, topic) == 60


async def test_a_member_that_leaves_hands_its_partitions_over(
    bus: Bus, topic: str, group: str
) -> None:
    listener = RecordingListener()
    stays = bus.consumer(group_id=group)
    stays.subscribe([topic], listener=listener)
    await stays.start()
    leaves = bus.consumer(topic, group_id=group)
    await leaves.start()
    await send(bus, topic, 60)
    await leaves.stop()
    await listener.until(lambda told: told[-1][0] == "assigned" and len(told[-1][1]) == 6)
    async with asyncio.timeout(PATIENCE_SECONDS):
        seen: set[tuple[int, int]] = set()
        while len(seen) < 60:
            taken = await stays.getmany(timeout_ms=1000)
            seen |= {(r.partition, r.offset) for batch in taken.values() for r in batch}


async def test_a_member_cannot_commit_what_it_gave_up(bus: Bus, topic: str, group: str) -> None:
    listener = RecordingListener()
    first = bus.consumer(group_id=group)
    first.subscribe([topic], listener=listener)
    await first.start()
    before = first.assignment()
    second = bus.consumer(topic, group_id=group)
    await second.start()
    await listener.until(lambda told: len(told) == 4)
    lost = min(before - first.assignment())
    with pytest.raises((CommitFailedError, IllegalStateError)):
        await first.commit({lost: 1})
    assert await second.committed(lost) is None


async def test_a_member_that_holds_up_a_rebalance_loses_its_right_to_commit(
    bus: Bus, topic: str, group: str
) -> None:
    release = asyncio.Event()

    async def hang() -> None:
        await release.wait()

    listener = RecordingListener(on_revoked=hang)
    slow = bus.consumer(group_id=group, rebalance_timeout_ms=300)
    slow.subscribe([topic], listener=listener)
    await slow.start()
    place = min(slow.assignment())
    quick_listener = RecordingListener()
    quick = bus.consumer(group_id=group, rebalance_timeout_ms=300)
    quick.subscribe([topic], listener=quick_listener)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await quick.start()
    assert len(quick.assignment()) == 6
    with pytest.raises(CommitFailedError):
        await slow.commit({place: 1})
    # When its listener is done it is a member again; each learns of its share in its own time.
    release.set()
    for told_one in (listener, quick_listener):
        await told_one.until(lambda told: told[-1][0] == "assigned" and len(told[-1][1]) == 3)
    assert slow.assignment().isdisjoint(quick.assignment())


class Seeker(ConsumerRebalanceListener):
    """Goes to offset 5 of whatever it gets, as an external offset store would."""

    def __init__(self, consumer: LocalConsumer) -> None:
        self.consumer = consumer

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        pass

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        for place in assigned:
            if await self.consumer.position(place) == 0:
                self.consumer.seek(place, 5)


async def test_nothing_is_read_before_the_listener_knows_of_its_partitions(
    bus: Bus, topic: str, group: str
) -> None:
    producer = await bus.producer()
    for _ in range(8):
        await producer.send_and_wait(topic, b"v", partition=1)
    consumer = bus.consumer(group_id=group)
    consumer.subscribe([topic], listener=Seeker(consumer))
    await consumer.start()
    assert [record.offset for record in await read(consumer, 3)] == [5, 6, 7]


async def test_a_failing_listener_does_not_stop_its_group(bus: Bus, topic: str, group: str) -> None:
    async def fail() -> None:
        message = "a listener's own trouble"
        raise RuntimeError(message)

    first = bus.consumer(group_id=group)
    first.subscribe([topic], listener=RecordingListener(on_revoked=fail))
    await first.start()
    second = bus.consumer(topic, group_id=group)
    await second.start()
    assert len(second.assignment()) == 3


async def test_a_pattern_reads_its_topics_and_those_that_come_later(bus: Bus, group: str) -> None:
    prefix = unique("upward")
    await bus.create_topics({f"{prefix}.pairs": 2, unique("other"): 2})
    listener = RecordingListener()
    consumer = bus.consumer(group_id=group)
    consumer.subscribe(pattern=pattern_of(prefix), listener=listener)
    await consumer.start()
    assert {place.topic for place in consumer.assignment()} == {f"{prefix}.pairs"}
    later = f"{prefix}.sessions"
    await bus.create_topics({later: 2})
    await listener.until(
        lambda told: told[-1][0] == "assigned" and TopicPartition(later, 1) in told[-1][1]
    )
    producer = await bus.producer()
    await producer.send_and_wait(later, b"later", b"k")
    assert [record.value for record in await read(consumer, 1)] == [b"later"]


async def test_a_subscription_can_change_while_the_consumer_runs(
    bus: Bus, topic: str, group: str
) -> None:
    other = unique("sessions")
    await bus.create_topics({other: 2})
    consumer = bus.consumer(topic, group_id=group)
    await consumer.start()
    # aiokafka's fetcher dies of a change in the very turn of the loop that ends `start`.
    await send(bus, topic, 1)
    await read(consumer, 1)
    listener = RecordingListener()
    consumer.subscribe([other], listener=listener)
    await listener.until(lambda told: told[-1] == ("assigned", frozenset(consumer.assignment())))
    assert {place.topic for place in consumer.assignment()} == {other}
    assert consumer.subscription() == {other}
    producer = await bus.producer()
    await producer.send_and_wait(topic, b"not wanted", b"k")
    await producer.send_and_wait(other, b"wanted", b"k")
    assert [record.value for record in await read(consumer, 1)] == [b"wanted"]


async def test_who_unsubscribes_reads_nothing_and_leaves_the_group(
    bus: Bus, topic: str, group: str
) -> None:
    listener = RecordingListener()
    stays = bus.consumer(group_id=group)
    stays.subscribe([topic], listener=listener)
    await stays.start()
    leaves = bus.consumer(topic, group_id=group)
    await leaves.start()
    await send(bus, topic, 60)
    await read(leaves, 1)
    leaves.unsubscribe()
    assert leaves.assignment() == set()
    poll = asyncio.create_task(leaves.getmany(timeout_ms=50))
    await listener.until(lambda told: told[-1][0] == "assigned" and len(told[-1][1]) == 6)
    # aiokafka's poll waits for the next subscription, however short its timeout is.
    assert not poll.done() or poll.result() == {}
    poll.cancel()
    with pytest.raises(IllegalStateError):
        await leaves.commit()


async def test_a_subscription_is_topics_or_a_pattern_or_partitions(bus: Bus, topic: str) -> None:
    consumer = bus.consumer()
    with pytest.raises(TypeError):
        consumer.subscribe()
    with pytest.raises(TypeError):
        consumer.subscribe([topic], pattern="upward")
    consumer.subscribe([topic])
    with pytest.raises(IllegalStateError):
        consumer.assign([TopicPartition(topic, 0)])


async def test_iterating_ends_when_the_consumer_stops(bus: Bus, topic: str) -> None:
    await send(bus, topic, 3)
    consumer = bus.consumer(topic)
    await consumer.start()
    count = 0
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for _ in consumer:
            count += 1
            if count == 3:
                await consumer.stop()
    assert count == 3


async def test_clients_know_the_topics_and_their_partitions(bus: Bus, topic: str) -> None:
    consumer = bus.consumer(topic)
    await consumer.start()
    assert topic in await consumer.topics()
    assert consumer.partitions_for_topic(topic) == set(range(6))
    assert consumer.partitions_for_topic(unique("unknown")) is None
    assert await (await bus.producer()).partitions_for(topic) == set(range(6))


async def test_a_stopped_producer_has_sent_everything_and_takes_no_more(
    bus: Bus, topic: str
) -> None:
    producer = await bus.producer()
    futures = [await producer.send(topic, b"x", b"k") for _ in range(20)]
    await producer.stop()
    assert all(future.done() for future in futures)
    with pytest.raises(ProducerClosed):
        await producer.send(topic, b"late", b"k")


# Through FastStream


async def test_a_batch_comes_again_after_an_error_and_is_committed_after_success(
    bus: Bus, topic: str, group: str
) -> None:
    await send(bus, topic, 20, keys=1)
    broker = bus.broker(logger=None)
    attempts: list[list[int]] = []
    done = asyncio.Event()

    @broker.subscriber(
        topic,
        group_id=group,
        batch=True,
        max_records=10,
        batch_timeout_ms=50,
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )
    async def handle(_: list[bytes], message: KafkaMessage) -> None:
        records = message.raw_message
        assert isinstance(records, tuple)
        attempts.append([record.offset for record in records])
        if len(attempts) <= 2:
            trouble = "not yet"
            raise RuntimeError(trouble)
        if records[-1].offset == 19:
            done.set()

    await broker.start()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await done.wait()
    await broker.stop()
    assert attempts[0] == attempts[1] == attempts[2]
    assert [offset for attempt in attempts[2:] for offset in attempt] == list(range(20))
    assert await committed_by(bus, topic, group) == 20


async def test_stopping_the_broker_finishes_and_commits_what_is_in_flight(
    bus: Bus, topic: str, group: str
) -> None:
    await send(bus, topic, 5, keys=1)
    broker = bus.broker(logger=None, graceful_timeout=PATIENCE_SECONDS)
    begun, release = asyncio.Event(), asyncio.Event()
    handled: list[int] = []

    @broker.subscriber(
        topic,
        group_id=group,
        batch=True,
        batch_timeout_ms=50,
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )
    async def handle(_: list[bytes], message: KafkaMessage) -> None:
        begun.set()
        await release.wait()
        assert isinstance(message.raw_message, tuple)
        handled.extend(record.offset for record in message.raw_message)

    await broker.start()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await begun.wait()
        stopping = asyncio.create_task(broker.stop())
        await asyncio.sleep(0)
        release.set()
        await stopping
    assert handled
    assert await committed_by(bus, topic, group) == len(handled)
    assert not await broker.ping(timeout=1)


async def test_a_single_record_subscriber_gets_each_record(
    bus: Bus, topic: str, group: str
) -> None:
    await send(bus, topic, 30)
    broker = bus.broker(logger=logging.getLogger("faststream-of-this-test"))
    values: list[bytes] = []
    done = asyncio.Event()

    @broker.subscriber(
        topic, group_id=group, auto_offset_reset="earliest", ack_policy=AckPolicy.ACK
    )
    async def handle(_: object, message: KafkaMessage) -> None:
        assert isinstance(message.raw_message, ConsumerRecord)
        values.append(bytes(message.raw_message.value or b""))
        if len(values) == 30:
            done.set()

    await broker.start()
    assert await broker.ping(timeout=5)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await done.wait()
    await broker.stop()
    assert sorted(map(int, values)) == list(range(30))
    assert await committed_by(bus, topic, group) == 30


async def test_unconfirmed_publications_are_durable_when_their_futures_are_done(
    bus: Bus, topic: str
) -> None:
    broker = bus.broker(logger=None)
    await broker.start()
    futures = [
        await broker.publish(b"%d" % number, topic, key=b"k", no_confirm=True)
        for number in range(50)
    ]
    sent = await asyncio.gather(*futures)
    await bus.restart()
    consumer = bus.consumer(topic)
    await consumer.start()
    records = await read(consumer, 50)
    assert [record.offset for record in records] == [metadata.offset for metadata in sent]
    assert [record.value for record in records] == [b"%d" % number for number in range(50)]


async def committed_by(bus: Bus, topic: str, group: str) -> int:
    """Return how many records of a topic a group has committed; nobody may be its member."""
    outsider = bus.consumer(group_id=group)
    outsider.assign([TopicPartition(topic, number) for number in range(6)])
    await outsider.start()
    return await committed_total(outsider, topic)


async def committed_total(consumer: LocalConsumer, topic: str) -> int:
    """Return the sum of the group's committed offsets over a topic's partitions."""
    places = [TopicPartition(topic, number) for number in range(6)]
    return sum([await consumer.committed(place) or 0 for place in places])
