"""Rebuilding the figures of an embedded platform that stands still."""

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
    with folder.lock():
        log = LocalLog(folder.log)
        await log.open()
        beginning = {
            TopicPartition(topic, partition): 0
            for topic in consumer.topics
            for partition in range(log.topics[topic])
        }
        await log.commit_offsets(consumer.group, beginning)
        await log.close()
        store = platform.store("reporting")
        await store.open(DOCUMENTS)
        await rebuild(store, consumer.group)
        await store.close()
    return len(beginning)
