"""A process that appends, prints what was acknowledged, and is killed at some point."""

import asyncio
import sys
from pathlib import Path

from aiokafka import TopicPartition

from shared.messaging.local_log import LocalLog
from shared.messaging.local_producer import LocalProducer


def tell(*facts: object) -> None:
    sys.stdout.write(" ".join(map(str, facts)) + "\n")
    sys.stdout.flush()


async def main(path: Path, commit_every: int) -> None:
    log = LocalLog(path)
    await log.open()
    await log.create_topics({"pairs": 3})
    producer = LocalProducer(log)

    async def publish(key: int) -> None:
        for number in range(1000):
            sent = await producer.send_and_wait("pairs", b"%d" % number, b"key-%d" % key)
            tell("record", sent.partition, sent.offset, key, number)
            if commit_every and number % commit_every == 0:
                await log.commit_offsets("group", {TopicPartition("pairs", key % 3): number})
                tell("offset", key % 3, number)

    await asyncio.gather(*(publish(key) for key in range(3 if commit_every else 20)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
