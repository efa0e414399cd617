"""Plain FastStream: one message and one write at a time."""

import asyncio
from typing import Any

import uvloop
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import DuplicateKeyError

from shared.events.feedback import FeedbackSubmitted
from tests.load.peers.work import TOPIC, Task, bucket_of


async def main() -> None:
    """Run until all expected records are counted."""
    task, finished = Task(), asyncio.Event()
    broker = KafkaBroker(task.kafka, logger=None)

    async def store(event_id: str, bucket: str) -> None:
        ledger.apply([(event_id, bucket)])

    async def store_in_mongo(event_id: str, bucket: str) -> None:
        try:
            await database["inbox"].insert_one({"_id": event_id})
        except DuplicateKeyError:
            return
        await database["buckets"].update_one({"_id": bucket}, {"$inc": {"count": 1}}, upsert=True)

    if task.mongodb is None:
        ledger, write = task.ledger(), store
    else:
        uri, name = task.mongodb
        client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(uri)
        database, write = client[name], store_in_mongo

    @broker.subscriber(
        TOPIC, group_id=task.group, auto_offset_reset="earliest", ack_policy=AckPolicy.ACK
    )
    async def count(event: FeedbackSubmitted, message: KafkaMessage) -> None:
        if finished.is_set():
            return  # beyond its part of the backlog
        await write(message.headers["ce_id"], bucket_of(event))
        if task.count(1):
            finished.set()

    async with broker:
        await broker.start()
        await finished.wait()
    task.report()


if __name__ == "__main__":
    uvloop.run(main())
