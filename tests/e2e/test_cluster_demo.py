"""The demo's program on Kafka and MongoDB: two replicas of every service, the embedded figures."""

import json
from pathlib import Path

import pytest

from deploy.local.folder import DataFolder
from tests.support.cluster import UpwardCluster, pseudonym_key
from tests.support.demo import DemoRun, figures
from tests.support.servers import KafkaCluster, MongoServer


@pytest.mark.cluster
@pytest.mark.timeout(900)
async def test_a_cluster_of_two_replicas_ends_with_the_figures_of_one_embedded_process(
    tmp_path: Path, kafka: KafkaCluster, mongo: MongoServer
) -> None:
    embedded = DemoRun(tmp_path / "embedded", months=12, mentors=120, mentees=40)
    # Pseudonyms decide ties and luck.
    DataFolder(embedded.data).keep_secret("enrollment", "pseudonyms", pseudonym_key("enrollment"))
    expected = embedded.finish()
    embedded.check()

    cluster = UpwardCluster(tmp_path / "cluster", kafka.bootstrap, mongo.uri)
    cluster.prepare()
    try:
        cluster.start()
        async with cluster.client() as client:
            story = cluster.story(client, months=12, mentors=120, mentees=40)
            summary = await cluster.live(story)
        assert figures(summary) == figures(expected)
        assert {name: summary[name] for name in ("events", "violations", "refused")} == {
            name: expected[name] for name in ("events", "violations", "refused")
        }
        cluster.check(summary, redelivery=True)
        (tmp_path / "figures.json").write_text(json.dumps(summary["events"]))
        seconds = cluster.terminate()
        assert max(seconds) < 30
    finally:
        cluster.kill()
