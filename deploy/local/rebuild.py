"""Rebuilding the figures of an embedded platform that stands still."""

from contextlib import AsyncExitStack

from aiokafka import TopicPartition

from deploy.local.folder import DataFolder
from deploy.local.platform import EmbeddedPlatform
from services.reporting.repository import DOCUMENTS, rebuild
from shared.messaging.local_log import LocalLog


async def rebuild_reporting(folder: DataFolder) -> int:
    """Set reporting back to the beginning of the log; return how many partitions it reads again.

    The platform's next start reads the whole log and arrives at the same figures. Offsets go back
    before anything is forgotten: a crash in between has reporting read what its inbox knows.
    Raises DataFolderInUseError while a platform runs on the folder.
    """
    platform = EmbeddedPlatform(folder, services=["reporting"])
    consumer = platform.services[0].consumer
    async with AsyncExitStack() as steps:
        steps.callback(folder.lock().close)
        log = LocalLog(folder.log)
        await log.open()
        steps.push_async_callback(log.close)
        beginning = {
            TopicPartition(topic, partition): 0
            for topic in consumer.topics
            for partition in range(log.topics.get(topic, 0))
        }
        await log.commit_offsets(consumer.group, beginning)
        store = platform.store("reporting")
        await store.open(DOCUMENTS)
        steps.push_async_callback(store.close)
        await rebuild(store, consumer.group)
    return len(beginning)
