"""Rebuilding the figures of a cluster whose reporting stands still."""

from contextlib import AsyncExitStack

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError

from deploy.cluster.platform import ClusterPlatform
from deploy.cluster.reader import reader
from deploy.cluster.settings import KafkaSettings, load
from deploy.cluster.topics import TopicsAdmin
from services.reporting.repository import rebuild
from shared.errors import UpwardError


class GroupAtWorkError(UpwardError):
    """A replica is in the consumer group, whose offsets can't be set meanwhile."""

    code = "group_at_work"


async def rebuild_reporting() -> dict[TopicPartition, int]:
    """Set reporting back to the beginning of the log; return where each partition begins.

    The next replica reads the whole log and arrives at the same figures. A partition that begins
    after 0 has lost its first records to retention. Raises GroupAtWorkError while a replica runs,
    TopicsError, KafkaError, StoreUnavailableError, and InvalidInputError for a bad setting.
    """
    service = ClusterPlatform("reporting").service
    settings = load(KafkaSettings)
    consumer, store = service.consumer, service.store
    async with AsyncExitStack() as steps:
        async with TopicsAdmin(settings) as admin:
            partitions = await admin.every_partition(consumer.topics)
            if await admin.members(consumer.group):
                raise _at_work(consumer.group)
        client = await steps.enter_async_context(
            reader(settings, partitions, client_id="upward-rebuild", group=consumer.group)
        )
        await store.open(service.documents)
        steps.push_async_callback(store.close)
        # Offsets go back before anything is forgotten: after a crash in between, reporting reads
        # what its inbox knows, and nothing counts twice. The other way round it would go on at the
        # end of the log with nothing before. The inbox is forgotten last, so that a crash between
        # documents and inbox doubles nothing either; the figures it took come with the second run.
        await _rewind(client, consumer.group, partitions)
        await rebuild(store, consumer.group)
        # Once more: a replica that started meanwhile has passed over what the inbox still knew.
        return await _rewind(client, consumer.group, partitions)


async def _rewind(
    client: AIOKafkaConsumer, group: str, partitions: list[TopicPartition]
) -> dict[TopicPartition, int]:
    beginnings: dict[TopicPartition, int] = await client.beginning_offsets(partitions)
    try:
        # Brokers take it of somebody outside of the group only while nobody is inside.
        await client.commit(beginnings)
    except CommitFailedError:
        raise _at_work(group) from None
    return beginnings


def _at_work(group: str) -> GroupAtWorkError:
    return GroupAtWorkError(
        f"A replica is in the group {group}: stop every replica of reporting, then run this again."
        " One that was killed is missed after UPWARD_KAFKA_SESSION_TIMEOUT_SECONDS."
    )
