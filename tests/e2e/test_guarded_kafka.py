"""A Kafka that allows nothing by itself: TLS, passwords, and the rights that we say are needed."""

import dataclasses
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

from deploy.cluster.rights import Right, rights
from deploy.cluster.settings import KafkaSettings
from deploy.cluster.topics import TopicsAdmin
from shared.events.topics import PROGRAMS, SERVICES, TOPICS, consumer_group
from tests.support.cluster import UpwardCluster, until
from tests.support.servers import KafkaCluster, MongoServer, ServerError
from tests.support.servers.guard import Guard
from tests.support.story import SPEC

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ADMIN = "admin"
DEPLOYER, OPERATOR = "upward-deploy", "upward-operator"
USERS = {ADMIN: "secret of admin"} | {
    user: f"secret of {user}"
    for user in (DEPLOYER, OPERATOR, *(f"upward-{name}" for name in SERVICES))
}
# As Kafka numbers them.
_TYPES = {"topic": 2, "group": 3}
_OPERATIONS = {
    "Read": 3,
    "Write": 4,
    "Create": 5,
    "Alter": 7,
    "Describe": 8,
    "DescribeConfigs": 10,
    "AlterConfigs": 11,
}
_LITERAL, _ALLOW = 3, 3

Acl = tuple[int, str, int, str, str, int, int]


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard(tmp_path / "guard", USERS, ADMIN)


@pytest.fixture
def guarded(tmp_path: Path, guard: Guard) -> Iterator[KafkaCluster]:
    try:
        cluster = KafkaCluster(tmp_path / "kafka", guard=guard)
    except ServerError as error:
        pytest.skip(str(error))
    with cluster:
        yield cluster


def login(guard: Guard, user: str) -> dict[str, str]:
    """Return the environment that makes a process this user."""
    return {
        "UPWARD_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "UPWARD_KAFKA_SASL_USERNAME": user,
        "UPWARD_KAFKA_SASL_PASSWORD": USERS[user],
        "UPWARD_KAFKA_SSL_CA_FILE": str(guard.ca_file),
    }


@pytest.fixture
async def admin(guarded: KafkaCluster, guard: Guard) -> AsyncIterator[TopicsAdmin]:
    settings = KafkaSettings.model_validate(
        {
            "servers": (guarded.bootstrap,),
            "security_protocol": "SASL_SSL",
            "sasl_username": ADMIN,
            "sasl_password": USERS[ADMIN],
            "ssl_ca_file": guard.ca_file,
        }
    )
    async with TopicsAdmin(settings) as running:
        yield running


def acl(user: str, operation: str, resource: str, name: str) -> Acl:
    kind = _TYPES[resource]
    return kind, name, _LITERAL, f"User:{user}", "*", _OPERATIONS[operation], _ALLOW


def of_service(right: Right) -> Acl:
    return acl(f"upward-{right.service}", right.operation, right.resource, right.name)


async def grant(admin: TopicsAdmin, granted: Iterable[Acl]) -> None:
    for right in granted:
        answer: Any = await admin._client._send_request(CreateAclsRequest(*right))
        assert not answer.creation_responses[0][0], answer


async def revoke(admin: TopicsAdmin, right: Acl) -> None:
    answer: Any = await admin._client._send_request(DeleteAclsRequest(*right))
    assert len(answer.filter_responses[0][2]) == 1, answer


async def test_services_run_with_their_rights_alone_and_come_back_when_one_was_taken_away(
    tmp_path: Path, guarded: KafkaCluster, guard: Guard, admin: TopicsAdmin, mongo: MongoServer
) -> None:
    cluster = UpwardCluster(
        tmp_path / "cluster",
        guarded.bootstrap,
        mongo.uri,
        replicas=1,
        services=("enrollment", "matching"),
        # A client without its right to the group can't leave it: its session must pass.
        env=login(guard, ADMIN) | {"UPWARD_KAFKA_SESSION_TIMEOUT_SECONDS": "6"},
    )
    for replica in cluster.all:
        replica.configure(**login(guard, f"upward-{replica.service}"))
    (matching,) = cluster.of("matching")
    await grant(admin, map(of_service, rights()))

    # What a service has no right to: to create topics.
    as_service = login(guard, "upward-enrollment")
    refused = cluster.attempt("topics", "apply", "--replication", "1", **as_service)
    assert refused.returncode != 0
    assert "The Kafka user upward-enrollment lacks a right: " in refused.stderr, refused
    assert "Authorization failed" in refused.stderr, refused
    cluster.prepare()

    # Nor how topics are configured: that is no fault of theirs.
    looked = json.loads(cluster.attempt("doctor", "--json", **as_service).stdout)
    (topics,) = (each for each in looked if each["what"] == "topics")
    assert (topics["state"], "may not see" in topics["found"]) == ("note", True), looked

    def applied(number: int) -> bool:
        return matching.metric("upward_consumed_total", outcome="applied") >= number

    try:
        cluster.start()
        async with cluster.client() as client:
            office = cluster.issuer.issue("hanna", ("coordinator",), ("first", "second"))

            async def publish(program: str) -> None:
                path = f"/enrollment/v1/programs/{program}"
                await client.send("PUT", office, path, SPEC, key=f"publish-{program}")

            await publish("first")
            await until(lambda: applied(1), 30, "matching applied the program")

            own_group = acl("upward-matching", "Read", "group", "upward.matching")
            await revoke(admin, own_group)
            await until(
                lambda: matching.metric("upward_consumer_replaced_total") >= 1,
                60,
                "matching gave its client up",
            )
            assert matching.live()
            await publish("second")
            await grant(admin, [own_group])
            await until(lambda: applied(2), 60, "matching came back")
    finally:
        cluster.kill()


async def test_the_commands_do_with_the_rights_that_the_readme_names(
    tmp_path: Path, guarded: KafkaCluster, guard: Guard, admin: TopicsAdmin, mongo: MongoServer
) -> None:
    cluster = UpwardCluster(
        tmp_path / "cluster", guarded.bootstrap, mongo.uri, services=(), env=login(guard, DEPLOYER)
    )
    deploying = ("Create", "Describe", "Alter", "DescribeConfigs", "AlterConfigs")
    await grant(
        admin,
        (acl(DEPLOYER, right, "topic", topic) for topic in TOPICS for right in deploying),
    )
    # New topics, then another configuration and more partitions of one that is there.
    programs = TOPICS[PROGRAMS]
    few = dataclasses.replace(programs, partitions=1, retention_days=1)
    await admin.apply(await admin.plan([few], 1))
    said = cluster.run("topics", "apply", "--replication", "1")
    assert f"{PROGRAMS}: add partitions, 1 to {programs.partitions}" in said
    assert f"{PROGRAMS}: set retention.ms=" in said
    assert f"Done: {len(said.splitlines()) - 1}; for you to do: 0." in said
    assert "All topics are as they are declared." in cluster.run("topics", "apply")
    cluster.run("migrate")

    as_operator, file = login(guard, OPERATOR), tmp_path / "log.ndjson"
    refused = cluster.attempt("events", "export", str(file), **as_operator)
    assert (refused.returncode, list(tmp_path.glob("log*"))) == (1, [])
    await grant(admin, (acl(OPERATOR, "Read", "topic", topic) for topic in TOPICS))
    exported = cluster.attempt("events", "export", str(file), **as_operator)
    assert (exported.returncode, file.read_text()) == (0, ""), exported
    refused = cluster.attempt("rebuild", **as_operator)
    assert refused.returncode == 1
    assert f"The Kafka user {OPERATOR} lacks a right: " in refused.stderr, refused
    await grant(admin, [acl(OPERATOR, "Read", "group", consumer_group("reporting"))])
    # A broker that never had a group makes the place for their offsets only now.
    await until(
        lambda: cluster.attempt("rebuild", **as_operator).returncode == 0, 60, "rebuild is done"
    )


async def test_a_login_that_kafka_refuses_is_told_as_such(
    tmp_path: Path, guarded: KafkaCluster, guard: Guard
) -> None:
    wrong = login(guard, DEPLOYER) | {"UPWARD_KAFKA_SASL_PASSWORD": "another"}
    cluster = UpwardCluster(tmp_path / "cluster", guarded.bootstrap, "", services=(), env=wrong)
    refused = cluster.attempt("topics", "apply")
    assert refused.returncode == 1
    assert "SaslAuthenticationFailed" in refused.stderr
    assert "or refuses the login" in refused.stderr
    assert "another" not in refused.stderr
