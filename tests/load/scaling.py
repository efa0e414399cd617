"""Throughput of one, two and four replicas of reporting on as many partitions, on MongoDB."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from shared.clock import monotonic
from shared.messaging.dead_letters import RawRecord
from tests.load.bench_platform import create_topics, publish, until
from tests.support.cluster import UpwardCluster
from tests.support.servers import KafkaCluster

_LOOK_SECONDS = 0.1


def _consumed(cluster: UpwardCluster) -> int:
    return round(
        sum(replica.metric("upward_consumed_total", service="reporting") for replica in cluster.all)
    )


async def replicas_per_second(
    folder: Path, mongodb: str, replicas: int, records: Sequence[RawRecord]
) -> float:
    """Return how many events a second so many replicas take from as many partitions a topic.

    The replicas wait for the events; the time is from the first publication to the last commit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kafka = KafkaCluster(folder)
    cluster = UpwardCluster(
        folder / "upward", kafka.bootstrap, mongodb, replicas=replicas, services=("reporting",)
    )

    async def all_consumed() -> bool:
        return await asyncio.to_thread(_consumed, cluster) >= len(records)

    try:
        await asyncio.to_thread(kafka.start)
        await create_topics(kafka.bootstrap, partitions=replicas)
        await asyncio.to_thread(cluster.run, "migrate", "reporting")
        await asyncio.to_thread(cluster.start)
        begun = monotonic()
        await publish(kafka.bootstrap, records)
        await until(all_consumed, _LOOK_SECONDS)
        return len(records) / (monotonic() - begun)
    finally:
        await asyncio.to_thread(cluster.kill)
        await asyncio.to_thread(kafka.kill)
