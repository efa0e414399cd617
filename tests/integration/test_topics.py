"""Declared topics on a real broker: created, compared, changed, and never silently left alone."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from deploy.cluster.settings import KafkaSettings
from deploy.cluster.topics import Change, TopicsAdmin, TopicsError
from shared.events.topics import Topic
from tests.contract.buses import unique
from tests.support.cluster import UpwardCluster, until
from tests.support.servers import KafkaCluster, MongoServer

pytestmark = pytest.mark.cluster


@pytest.fixture
async def admin(kafka: KafkaCluster) -> AsyncIterator[TopicsAdmin]:
    async with TopicsAdmin(KafkaSettings(servers=(kafka.bootstrap,))) as running:
        yield running


@pytest.fixture
def topic() -> Topic:
    return Topic(unique("upward.pairs"), "matching", (), partitions=3, retention_days=30)


async def settled(admin: TopicsAdmin, topic: Topic) -> None:
    """Wait until the brokers tell of what was applied."""
    for _ in range(100):
        if not await admin.plan([topic], 1):
            return
    raise AssertionError(await admin.plan([topic], 1))


async def test_a_topic_is_created_as_declared_and_then_nothing_is_left_to_do(
    admin: TopicsAdmin, topic: Topic
) -> None:
    (change,) = await admin.plan([topic], 1)
    assert change.said.startswith("create with 3 partitions, 1 replicas")
    assert await admin.partitions([topic.name]) == {}, "planning changed something"
    await admin.apply([change])
    await settled(admin, topic)
    assert await admin.partitions([topic.name]) == {topic.name: 3}


async def test_of_deployments_at_once_none_fails_for_what_another_has_created(
    admin: TopicsAdmin, topic: Topic
) -> None:
    other = replace(topic, name=f"{topic.name}.other")
    ours, theirs = await admin.plan([topic, other], 1), await admin.plan([topic], 1)
    await admin.apply(theirs)
    await admin.apply(ours)
    for each in (topic, other):
        await settled(admin, each)
    assert await admin.partitions([topic.name, other.name]) == {topic.name: 3, other.name: 3}


async def test_a_changed_declaration_changes_the_topic_and_leaves_what_operators_set(
    admin: TopicsAdmin, topic: Topic
) -> None:
    await admin.apply(await admin.plan([topic], 1))
    await settled(admin, topic)
    own = {entry.name: entry.value for entry in (await admin._configs([topic.name]))[topic.name]}
    own = {name: own[name] for name in ("retention.ms", "max.message.bytes")}
    resource = ConfigResource(
        ConfigResourceType.TOPIC, topic.name, own | {"compression.type": "zstd"}
    )
    await admin._client.alter_configs([resource])
    changed = replace(topic, partitions=5, retention_days=None)
    said = [change.said for change in await admin.plan([changed], 1)]
    assert said[0].startswith("add partitions, 3 to 5: keys move")
    assert any(item.startswith("set retention.ms=-1") for item in said[1:])
    await admin.apply(await admin.plan([changed], 1))
    await settled(admin, changed)
    assert await admin.partitions([topic.name]) == {topic.name: 5}
    now = {entry.name: entry.value for entry in (await admin._configs([topic.name]))[topic.name]}
    assert (now["retention.ms"], now["compression.type"]) == ("-1", "zstd")


async def test_partitions_are_never_taken_away(admin: TopicsAdmin, topic: Topic) -> None:
    await admin.apply(await admin.plan([topic], 1))
    await settled(admin, topic)
    with pytest.raises(TopicsError, match="has 3 partitions and is declared with 2"):
        await admin.plan([replace(topic, partitions=2)], 1)


@pytest.mark.parametrize("asked", [None, 3])
async def test_more_replicas_than_brokers_are_refused_before_anything_is_done(
    admin: TopicsAdmin, topic: Topic, asked: int | None
) -> None:
    with pytest.raises(TopicsError, match=r"3 replicas.*brokers \(1\).*--replication"):
        await admin.plan([topic], asked)
    assert await admin.partitions([topic.name]) == {}


async def test_what_the_brokers_refuse_is_told_with_their_reason(
    admin: TopicsAdmin, topic: Topic
) -> None:
    impossible = Change(topic.name, "create", create=NewTopic(topic.name, 1, 9))
    with pytest.raises(TopicsError, match=topic.name):
        await admin.apply([impossible])


async def test_a_topic_keeps_its_replicas_and_what_must_be_in_sync_follows_from_them(
    admin: TopicsAdmin, topic: Topic
) -> None:
    await admin.apply(await admin.plan([topic], 1))
    await settled(admin, topic)
    assert await admin.plan([topic], None) == []
    (change,) = await admin.plan([topic], 2)
    assert change.said == (
        "has 1 replicas, 2 are asked for: move them with Kafka's kafka-reassign-partitions.sh"
    )
    await admin.apply([change])
    assert await admin.plan([topic], 1) == []


async def all_end(cluster: UpwardCluster, what: str) -> None:
    await until(lambda: not any(replica.running for replica in cluster.all), 90, what)


@pytest.mark.timeout(300)
async def test_a_service_creates_nothing_and_says_what_is_missing(
    tmp_path: Path, mongo: MongoServer
) -> None:
    with KafkaCluster(tmp_path / "kafka") as kafka:
        cluster = UpwardCluster(
            tmp_path,
            kafka.bootstrap,
            mongo.uri,
            replicas=1,
            # One that misses what it reads, and one that only publishes.
            services=("sessions", "enrollment"),
            # The client asks for an unknown topic as long as one request may take, and again.
            env={"UPWARD_KAFKA_REQUEST_TIMEOUT_SECONDS": "3"},
        )
        try:
            for replica in cluster.all:
                replica.launch()
            await all_end(cluster, "services without their collections end")
            for replica in cluster.all:
                assert "Run `upward migrate` first" in replica.log_tail()

            assert "create the collection" in cluster.run("migrate", "sessions", "enrollment")
            assert cluster.run("migrate", "sessions").strip().endswith("is there.")
            for replica in cluster.all:
                replica.launch()
            await all_end(cluster, "services without their topics end")
            for replica in cluster.all:
                assert "`upward topics apply`" in replica.log_tail()
            said = cluster.run("topics", "apply", "--replication", "1", "--dry-run")
            assert said.strip().endswith("11 changes; nothing was done.")
            cluster.run("topics", "apply", "--replication", "1")
            cluster.start()
            assert all(replica.ready() for replica in cluster.all)
        finally:
            cluster.kill()
