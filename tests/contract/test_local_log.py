"""What only the local log promises: durability, its file, its single writer."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    InvalidPartitionsError,
    KafkaConfigurationError,
    KafkaConnectionError,
    MessageSizeTooLargeError,
    UnknownTopicOrPartitionError,
)
from aiokafka.structs import RecordMetadata

from shared.messaging.broker import EmbeddedKafkaBroker
from shared.messaging.local_consumer import LocalConsumer
from shared.messaging.local_log import LocalLog
from shared.messaging.local_producer import LocalProducer
from shared.messaging.local_storage import NewRecord, connect_writer

TOPIC = "upward.pairs.v1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
async def log(path: Path) -> AsyncIterator[LocalLog]:
    log = LocalLog(path)
    await log.open()
    await log.create_topics({TOPIC: 3})
    yield log
    await log.close()


def record(value: bytes | None = b"value", key: bytes | None = b"key") -> NewRecord:
    return NewRecord(key, value, (("ce_id", b"1"),), 1_700_000_000_000)


# Durability


@pytest.mark.parametrize(
    ("failpoint", "commit_every"),
    [
        ("log.before_append:60", 0),
        ("log.after_append:60", 0),
        ("log.before_offsets:20", 5),
        ("log.after_offsets:20", 5),
    ],
)
def test_a_killed_process_loses_nothing_that_it_acknowledged(
    path: Path, failpoint: str, commit_every: int
) -> None:
    victim = subprocess.run(
        [sys.executable, "-m", "tests.contract.log_victim", str(path), str(commit_every)],
        env={**os.environ, "UPWARD_FAILPOINT": failpoint},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert victim.returncode == -signal.SIGKILL, victim.stderr
    reader = LocalLog.reader(path)
    acknowledged = 0
    for line in victim.stdout.splitlines():
        kind, *numbers = line.split()
        if kind == "record":
            partition, offset, key, number = map(int, numbers)
            (found,) = reader.read("pairs", partition, offset, 1)
            assert (found.offset, found.key, found.value) == (
                offset,
                b"key-%d" % key,
                b"%d" % number,
            )
            acknowledged += 1
        else:
            partition, offset = map(int, numbers)
            assert (reader.committed("group", TopicPartition("pairs", partition)) or 0) >= offset
    assert acknowledged > 10
    for partition in range(3):
        kept = reader.read("pairs", partition, 0, 100_000)
        assert [found.offset for found in kept] == list(range(len(kept)))
        for name in {found.key for found in kept}:
            values = [int(found.value or b"") for found in kept if found.key == name]
            assert values == list(range(len(values)))
    reader.close()


async def test_closing_finishes_what_is_queued(path: Path, log: LocalLog) -> None:
    queued = [log.append(TOPIC, 0, [record(b"%d" % number)]) for number in range(100)]
    await log.close()
    await log.close()
    assert [future.result() for future in queued] == list(range(100))
    with pytest.raises(KafkaConnectionError):
        log.append(TOPIC, 0, [record()])
    reader = LocalLog.reader(path)
    assert reader.end_offset(TopicPartition(TOPIC, 0)) == 100
    reader.close()


async def test_topics_records_and_offsets_survive_reopening(path: Path, log: LocalLog) -> None:
    place = TopicPartition(TOPIC, 1)
    await log.append(TOPIC, 1, [record(), record(None)])
    await log.commit_offsets("group", {place: 2})
    await log.close()
    again = LocalLog(path)
    await again.open()
    assert again.topics == {TOPIC: 3}
    assert again.end_offset(place) == 2
    assert again.reads.committed("group", place) == 2
    assert await again.append(TOPIC, 1, [record()]) == 2
    await again.close()


def test_a_commit_waits_for_the_disk(path: Path) -> None:
    # A power cut cannot be tested here; these two settings are what survives one.
    connection = connect_writer(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    connection.close()


# Sharing a commit


async def test_many_waiting_appends_share_few_commits(log: LocalLog) -> None:
    before = log.stats.commits
    await asyncio.gather(*(log.append(TOPIC, n % 3, [record()]) for n in range(1000)))
    assert log.stats.records == 1000
    assert log.stats.commits - before < 100


async def test_a_writer_that_finds_work_waiting_commits_it_in_submission_order(
    log: LocalLog,
) -> None:
    appended = [log.append(TOPIC, 0, [record(b"%d" % n), record(b"%d+" % n)]) for n in range(50)]
    assert await asyncio.gather(*appended) == list(range(0, 100, 2))
    values = [found.value for found in log.read(TOPIC, 0, 0, 100)]
    assert values == [text for n in range(50) for text in (b"%d" % n, b"%d+" % n)]


# Errors


class TinyLog(LocalLog):
    """A log on a disk of a few pages."""

    def _connect(self) -> sqlite3.Connection:
        connection = super()._connect()
        connection.execute("PRAGMA max_page_count = 40")
        return connection


async def test_a_full_disk_is_told_to_the_publisher_and_acknowledged_records_stay(
    path: Path,
) -> None:
    log = TinyLog(path)
    await log.open()
    await log.create_topics({TOPIC: 1})
    producer = LocalProducer(log)
    sent: list[RecordMetadata] = []

    async def fill_the_disk() -> None:
        while True:
            sent.append(await producer.send_and_wait(TOPIC, b"x" * 5000, b"k"))

    with pytest.raises(KafkaConnectionError, match="full") as refused:
        await fill_the_disk()
    assert refused.value.retriable
    assert len(sent) > 5
    # What fits is still taken, at the offset that the refused record did not get.
    small = await producer.send_and_wait(TOPIC, b"", b"k")
    assert small.offset == len(sent)
    await producer.stop()
    await log.close()


async def test_one_refused_commit_answers_everyone_who_waited_for_it(path: Path) -> None:
    log = TinyLog(path)
    await log.open()
    await log.create_topics({TOPIC: 1})
    outcomes = await asyncio.gather(
        *(log.append(TOPIC, 0, [record(b"x" * 50_000)]) for _ in range(20)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, KafkaConnectionError)]
    assert refused
    assert log.stats.records == 20 - len(refused)
    await log.close()


async def test_a_file_that_another_process_locks_is_a_retriable_error_not_a_hang(
    path: Path, log: LocalLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = LocalLog(path)
    monkeypatch.setattr("shared.messaging.local_storage._BUSY_TIMEOUT_SECONDS", 0.05)
    await impatient.open()
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    with pytest.raises(KafkaConnectionError, match="locked"):
        await impatient.append(TOPIC, 0, [record()])
    broker = EmbeddedKafkaBroker(impatient, logger=None)
    assert not await broker.ping(timeout=1)
    lock.execute("ROLLBACK")
    await broker.start()
    assert await broker.ping(timeout=5)
    lock.execute("BEGIN IMMEDIATE")
    assert not await broker.ping(timeout=5)
    lock.close()
    await broker.stop()
    await impatient.close()


async def test_nothing_is_created_by_using_it(log: LocalLog) -> None:
    producer = LocalProducer(log)
    with pytest.raises(UnknownTopicOrPartitionError):
        await producer.send("unknown", b"v")
    with pytest.raises(UnknownTopicOrPartitionError):
        await producer.send(TOPIC, b"v", partition=3)
    with pytest.raises(UnknownTopicOrPartitionError):
        await producer.partitions_for("unknown")
    with pytest.raises(UnknownTopicOrPartitionError):
        await LocalConsumer(log, "unknown").start()
    assert log.topics == {TOPIC: 3}


async def test_a_topic_keeps_its_number_of_partitions(log: LocalLog) -> None:
    await log.create_topics({TOPIC: 3})
    with pytest.raises(InvalidPartitionsError):
        await log.create_topics({TOPIC: 4})
    assert log.topics == {TOPIC: 3}


async def test_the_log_has_a_limit_of_its_own(path: Path) -> None:
    log = LocalLog(path, max_record_bytes=1000)
    await log.open()
    await log.create_topics({TOPIC: 1})
    with pytest.raises(MessageSizeTooLargeError):
        log.append(TOPIC, 0, [record(b"x" * 1001)])
    await log.close()


async def test_a_file_of_a_newer_program_is_refused(path: Path) -> None:
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(KafkaConfigurationError, match="99"):
        await LocalLog(path).open()


async def test_a_file_that_is_no_log_is_refused(path: Path) -> None:
    path.write_text("this is not a database, and long enough for SQLite to notice it. " * 20)
    with pytest.raises(KafkaConnectionError):
        await LocalLog(path).open()
    with pytest.raises(KafkaConnectionError):
        LocalLog.reader(path)
    with pytest.raises(KafkaConnectionError):
        LocalLog.reader(path.with_name("missing.db"))


async def test_options_that_no_kafka_client_has_are_refused(log: LocalLog) -> None:
    with pytest.raises(TypeError, match="retires"):
        LocalProducer(log, retires=3)
    with pytest.raises(TypeError, match="grupo_id"):
        LocalConsumer(log, grupo_id="g")


# Readers and other processes


async def test_a_reader_sees_each_commit_while_the_log_is_written(
    path: Path, log: LocalLog
) -> None:
    reader = LocalLog.reader(path)
    assert reader.last_position() == 0
    for number in range(1, 20):
        await log.append(TOPIC, number % 3, [record(b"%d" % number)])
        assert reader.last_position() == number
        assert [found.value for found in reader.export(after=number - 1)] == [b"%d" % number]
    with pytest.raises(UnknownTopicOrPartitionError):
        reader.read("unknown", 0, 0, 1)
    assert reader.topics() == {TOPIC: 3}
    reader.close()


async def test_an_export_has_every_record_in_the_order_of_the_commits(log: LocalLog) -> None:
    await log.create_topics({"upward.sessions.v1": 2})
    sent: list[tuple[str, bytes]] = []
    for number in range(60):
        topic = TOPIC if number % 3 else "upward.sessions.v1"
        await log.append(topic, number % 2, [record(b"%d" % number)])
        sent.append((topic, b"%d" % number))
    exported = list(log.reads.export(chunk=7))
    assert [(found.topic, found.value) for found in exported] == sent
    assert [found.position for found in exported] == list(range(1, 61))
    assert exported[0].headers == (("ce_id", b"1"),)


async def test_a_follower_gets_what_comes_later(path: Path, log: LocalLog) -> None:
    await log.append(TOPIC, 0, [record(b"old")])
    reader = LocalLog.reader(path)
    followed = reader.follow()
    assert (await anext(followed)).value == b"old"
    asyncio.get_running_loop().call_later(0.05, log.append, TOPIC, 1, [record(b"new")])
    async with asyncio.timeout(10):
        assert (await anext(followed)).value == b"new"
    reader.close()


async def test_records_and_topics_of_another_process_are_noticed(path: Path, log: LocalLog) -> None:
    consumer = LocalConsumer(log, group_id="group", auto_offset_reset="earliest")
    consumer.subscribe(pattern="^upward")
    await consumer.start()
    assert await log.append(TOPIC, 0, [record(b"ours")]) == 0
    operator = LocalLog(path)
    await operator.open()
    assert await operator.append(TOPIC, 0, [record(b"theirs")]) == 1
    await operator.create_topics({"upward.matching.dlq.v1": 1})
    await operator.append("upward.matching.dlq.v1", 0, [record(b"dead")])
    # The offsets go on where the other one stopped.
    assert await log.append(TOPIC, 0, [record(b"ours again")]) == 2
    await operator.close()
    values: list[object] = []
    async with asyncio.timeout(10):
        while len(values) < 4:
            values.append((await consumer.getone()).value)
    assert [value for value in values if value != b"dead"] == [b"ours", b"theirs", b"ours again"]
    await consumer.stop()


async def test_partitions_take_turns_at_being_read_first(log: LocalLog) -> None:
    await log.append(TOPIC, 0, [record() for _ in range(100)])
    await log.append(TOPIC, 2, [record()])
    consumer = LocalConsumer(log, TOPIC, auto_offset_reset="earliest")
    await consumer.start()
    polls = [await consumer.getmany(max_records=10) for _ in range(2)]
    assert set().union(*polls) == {TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 2)}
    await consumer.stop()


class SlowListener(ConsumerRebalanceListener):
    """Takes its time to learn of its partitions."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        pass

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        await self.release.wait()


async def test_nothing_is_read_while_the_listener_learns_of_its_partitions(log: LocalLog) -> None:
    await log.append(TOPIC, 0, [record()])
    listener = SlowListener()
    consumer = LocalConsumer(log, group_id="group", auto_offset_reset="earliest")
    consumer.subscribe([TOPIC], listener=listener)
    await consumer.start()
    assert await consumer.getmany(timeout_ms=20) == {}
    listener.release.set()
    assert len(await consumer.getmany(timeout_ms=10_000)) == 1
    await consumer.stop()


async def test_a_poll_takes_a_bounded_share_of_large_records(log: LocalLog) -> None:
    await log.append(TOPIC, 0, [record(b"x" * 10_000) for _ in range(50)])
    consumer = LocalConsumer(
        log, TOPIC, auto_offset_reset="earliest", max_partition_fetch_bytes=100_000
    )
    await consumer.start()
    (first,) = (await consumer.getmany()).values()
    assert len(first) == 11
    assert [found.offset for found in first] == list(range(11))
    await consumer.stop()
