"""The demo's program on Kafka and MongoDB: two replicas of every service, the embedded figures."""

import asyncio
from pathlib import Path

import pytest

from deploy.demo.run import ROSTER, Journal
from deploy.local.folder import DataFolder
from tests.support.cluster import UpwardCluster, pseudonym_key
from tests.support.demo import DemoRun, figures
from tests.support.servers import KafkaCluster, MongoServer


@pytest.mark.cluster
@pytest.mark.timeout(900)
async def test_a_cluster_of_two_replicas_ends_with_the_figures_of_one_embedded_process(
    tmp_path: Path, kafka: KafkaCluster, mongo: MongoServer
) -> None:
    months, mentors, mentees = 12, 60, 20
    embedded = DemoRun(tmp_path / "embedded", months=months, mentors=mentors, mentees=mentees)
    # Pseudonyms decide ties and luck: both get the same, in a folder that says whose demo it is.
    embedded.data.mkdir(parents=True)
    journal = Journal(seed=1, months=months, mentors=mentors, mentees=mentees, roster=ROSTER.name)
    journal.save(embedded.data)
    DataFolder(embedded.data).keep_secret("enrollment", "pseudonyms", pseudonym_key("enrollment"))
    finishing = asyncio.create_task(asyncio.to_thread(embedded.finish))

    cluster = UpwardCluster(tmp_path / "cluster", kafka.bootstrap, mongo.uri)
    cluster.prepare()
    try:
        cluster.start()
        async with cluster.client() as client:
            story = cluster.story(client, months=months, mentors=mentors, mentees=mentees)
            summary = await cluster.live(story)
        expected = await finishing
        embedded.check()
        assert figures(summary) == figures(expected)
        assert {name: summary[name] for name in ("events", "violations", "refused")} == {
            name: expected[name] for name in ("events", "violations", "refused")
        }
        cluster.check(summary, redelivery=True)
        seconds = cluster.terminate()
        assert max(seconds) < 30
    finally:
        cluster.kill()
