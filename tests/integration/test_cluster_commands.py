"""The commands of operators on a real Kafka and MongoDB, with reporting as the one that runs."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from deploy.cluster import rebuild
from deploy.cluster.doctor import examine
from deploy.cluster.event_log import follow_events
from deploy.cluster.migration import migrate
from deploy.cluster.reader import reader
from deploy.cluster.settings import KafkaSettings
from deploy.cluster.topics import TopicsAdmin, TopicsError
from shared.errors import StoreUnavailableError
from shared.events.topics import PROGRAMS, TOPICS, consumer_group
from tests.support.cluster import Replica, UpwardCluster, until
from tests.support.demo import ROOT
from tests.support.reporting import everything
from tests.support.servers import KafkaCluster, MongoServer, ServerError
from tests.unit.reporting.builders import PROGRAM, Said, year

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

STORY = year(pairs=8, months=2)
GROUP = consumer_group("reporting")


@pytest.fixture
def cluster(
    tmp_path: Path, mongo: MongoServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[UpwardCluster]:
    """A cluster without topics or collections, which this process' environment names, too."""
    try:
        kafka = KafkaCluster(tmp_path / "kafka")
    except ServerError as error:
        pytest.skip(str(error))
    with kafka:
        folder = tmp_path / "cluster"
        made = UpwardCluster(folder, kafka.bootstrap, mongo.uri, 1, services=("reporting",))
        made.clock.set(max(made.clock.now(), STORY.now))
        for name, value in made.env.items():
            monkeypatch.setenv(name, value)
        try:
            yield made
        finally:
            made.kill()


async def prepare(settings: KafkaSettings) -> None:
    async with TopicsAdmin(settings) as admin:
        await admin.apply(await admin.plan(list(TOPICS.values()), 1))
        for _ in range(100):
            if not await admin.plan(list(TOPICS.values()), 1):
                break
    await migrate("reporting")


@asynccontextmanager
async def producing(settings: KafkaSettings) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=list(settings.servers))
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def tell(producer: AIOKafkaProducer, said: Sequence[Said]) -> None:
    for each in said:
        record = each.record
        await producer.send(
            record.topic, record.value, key=record.key, headers=list(record.headers)
        )
    await producer.flush()


@contextmanager
def tailing() -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "deploy.cli", "events", "tail", "--json"]
    tail = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ}, stdout=subprocess.PIPE, text=True
    )
    try:
        yield tail
    finally:
        tail.kill()
        tail.communicate()


async def figures(reporting: Replica, token: str) -> list[dict[str, Any]]:
    """Return every figure, once all that was told has been applied."""

    def applied() -> bool:
        return reporting.metric("upward_consumed_total", outcome="applied") >= len(STORY.said)

    await until(applied, 60, "reporting read the whole log")
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=reporting.address, headers=headers) as client:
        return await everything(client)


async def test_reporting_reads_the_whole_log_again_but_only_while_it_stands_still(
    cluster: UpwardCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (reporting,) = cluster.all
    settings = KafkaSettings(servers=(cluster.kafka,))
    analyst = cluster.issuer.issue("ana", ("analyst",), (PROGRAM,))

    # What a deployment forgot is told.
    with pytest.raises(TopicsError, match="Run `upward topics apply`"):
        await anext(follow_events(settings))
    told = {finding.what: finding for finding in await examine(reporting.address, None)}
    assert told["Kafka"].state == told["MongoDB"].state == "ok"
    assert (told["topics"].state, told["topics"].advice) == ("wrong", "upward topics apply")
    assert "Run `upward migrate` first" in told["MongoDB, reporting"].found

    await prepare(settings)
    async with producing(settings) as producer:
        first = STORY.said[0]
        await tell(producer, [first])
        reporting.start()
        with tailing() as tail:
            assert tail.stdout is not None
            seen = asyncio.create_task(asyncio.to_thread(tail.stdout.readline))
            while not seen.done():
                await tell(producer, [first])
                await asyncio.sleep(0.2)
            event = json.loads(await seen)
            assert (event["id"], event["logtopic"]) == (first.envelope.id, PROGRAMS)
            assert event["logoffset"] > 0, "what was there before is not shown"
            tail.send_signal(signal.SIGINT)
            assert tail.wait(30) == 0
        await tell(producer, STORY.said)
    before = await figures(reporting, analyst)
    assert any(row["shown"] for row in before)

    # The one that runs is found well by an operator, and keeps its offsets.
    operator = cluster.issuer.issue("olga", ("operator",))
    told = {finding.what: finding for finding in await examine(reporting.address, None)}
    assert "only the role operator" in told["platform"].found
    looked = cluster.attempt("doctor", "--json", "--url", reporting.address, UPWARD_TOKEN=operator)
    said = {each["what"]: each for each in json.loads(looked.stdout)}
    for what in ("Kafka", "topics", "MongoDB", "MongoDB, reporting", "reporting"):
        assert said[what]["state"] == "ok", said[what]
    assert (said["sessions"]["state"], looked.returncode) == ("wrong", 1)
    with monkeypatch.context() as mistaken:
        mistaken.setenv("UPWARD_SECRET_KEY", base64.b64encode(b"another" * 5).decode())
        told = {finding.what: finding for finding in await examine(reporting.address, None)}
    assert told["MongoDB, reporting"].state == "wrong"
    assert "another secret key" in told["MongoDB, reporting"].found
    assert "UPWARD_SECRET_KEY" in told["MongoDB, reporting"].advice
    refused = cluster.attempt("rebuild")
    assert refused.returncode == 1
    assert "stop every replica of reporting" in " ".join(refused.stderr.split())
    async with TopicsAdmin(settings) as admin:
        places = await admin.every_partition([PROGRAMS])
    async with reader(settings, places, client_id="test", group=GROUP) as outsider:
        with pytest.raises(rebuild.GroupAtWorkError, match="A replica is in the group"):
            await rebuild._rewind(outsider, GROUP, places)
    reporting.terminate()

    # Retention takes a record, of which there are others.
    admin_client = AIOKafkaAdminClient(bootstrap_servers=cluster.kafka)
    await admin_client.start()
    gone = TopicPartition(PROGRAMS, event["logpartition"])
    await admin_client.delete_records({gone: RecordsToDelete(1)})
    await admin_client.close()

    # A first run dies between its two steps.
    with monkeypatch.context() as dying:
        dying.setattr(rebuild, "rebuild", forgets_nothing)
        with pytest.raises(StoreUnavailableError):
            await rebuild.rebuild_reporting()
    done = cluster.attempt("rebuild")
    assert done.returncode == 0, done
    assert "Reporting reads 30 partitions" in done.stdout
    assert f"`upward replay enrollment --topic {PROGRAMS}`" in done.stderr
    reporting.start()
    assert await figures(reporting, analyst) == before


async def forgets_nothing(*_: object) -> None:
    raise StoreUnavailableError("The store went away.")
