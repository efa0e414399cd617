"""What other tests take for granted of the servers that they start, kill and pause."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pymongo
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.support.servers import KafkaCluster, MongoServer
from tests.support.servers.process import TOOLS, ServerError, ServerProcess

ROOT = Path(__file__).parents[2]
FETCH = ROOT / "tests" / "support" / "servers" / "fetch_kafka.py"

VICTIM = """
import os, signal, sys
from pathlib import Path
from tests.support.servers.process import ServerProcess
server = ServerProcess("sleeper", ["sleep", "600"], Path(sys.argv[1]), lambda: True)
server.start()
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    died = subprocess.run(
        [sys.executable, "-c", VICTIM, str(tmp_path / "log")], cwd=ROOT, capture_output=True
    )
    status = Path(f"/proc/{int(died.stdout)}/status")
    deadline = time.monotonic() + 5
    while status.exists() and "(zombie)" not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo the port is taken; exit 1"]
    server = ServerProcess("the broker", command, tmp_path / "log", lambda: False)
    with pytest.raises(ServerError, match=r"(?s)the broker ended at its start.*the port is taken"):
        server.start()


@pytest.mark.cluster
def test_a_jar_that_is_not_the_locked_one_is_refused_by_its_name(tmp_path: Path) -> None:
    lock = tmp_path / "kafka.lock"
    lock.write_text(f"org.example:broker:1.0 {hashlib.sha256(b'locked').hexdigest()}\n")
    forged = tmp_path / "maven" / "org" / "example" / "broker" / "1.0" / "broker-1.0.jar"
    forged.parent.mkdir(parents=True)
    forged.write_bytes(b"forged")
    refused = subprocess.run(
        [TOOLS / "tools" / "bin" / "python", FETCH, lock, tmp_path], capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("org.example:broker:1.0 is not what kafka.lock says")
    assert not list((tmp_path / "kafka").iterdir())


@pytest.mark.cluster
def test_what_the_document_server_acknowledged_survives_its_kill(mongo: MongoServer) -> None:
    if not mongo.killable:
        pytest.skip("the server of MONGODB_URI is not ours to kill")
    client: pymongo.MongoClient[dict[str, int]] = pymongo.MongoClient(mongo.uri, w="majority")
    with client:
        numbers = client["servers"]["numbers"]
        for number in range(100):
            with client.start_session() as session, session.start_transaction():
                numbers.insert_one({"_id": number}, session=session)
        mongo.kill()
        mongo.start()
        assert numbers.count_documents({}) == 100


@pytest.mark.cluster
async def test_three_nodes_take_records_while_one_of_them_is_down(tmp_path: Path) -> None:
    with KafkaCluster(tmp_path, nodes=3) as kafka:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic("pairs", 3, kafka.replication)])
        await admin.close()
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all") as producer:
            kafka.nodes[0].kill()
            for partition in range(3):
                await producer.send_and_wait("pairs", b"kept", partition=partition)
