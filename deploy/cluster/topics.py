"""Creating the contract's topics on Kafka, and what would change before it is done."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from faststream.kafka.security import parse_security

from deploy.cluster.settings import KafkaSettings
from shared.errors import UpwardError
from shared.events.topics import MAX_EVENT_BYTES, Topic

# A record's headers and framing come on top of its value.
_RECORD_OVERHEAD_BYTES = 64 * 1024
_DAY_MS = 24 * 60 * 60 * 1000
# Kafka's ConfigSource.DYNAMIC_TOPIC_CONFIG.
_TOPICS_OWN = 1
_REPLICATION = 3


class TopicsError(UpwardError):
    """The brokers refused a change of the topics."""

    code = "topics_refused"


@dataclass(frozen=True)
class _Entry:
    name: str
    value: str
    own: bool  # set on the topic, not a broker's default


@dataclass(frozen=True)
class Layout:
    """How a topic lies on the brokers."""

    partitions: int
    replication: int


@dataclass(frozen=True)
class Change:
    """One thing to do to a topic, in words and as what Kafka is asked; else for somebody to do."""

    topic: str
    said: str
    create: NewTopic | None = None
    partitions: int | None = None
    config: tuple[str, str] | None = None

    @property
    def by_hand(self) -> bool:
        """Whether nobody but an operator can do it."""
        return self.create is None and self.partitions is None and self.config is None


def wanted_config(topic: Topic, replication: int) -> dict[str, str]:
    """Return the configuration of a topic; nothing that a broker's default may change is left out.

    Two of three replicas must have a record before it counts as written, so that losing one broker
    loses nothing.
    """
    retention = -1 if topic.retention_days is None else topic.retention_days * _DAY_MS
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(retention),
        "retention.bytes": "-1",
        "min.insync.replicas": str(max(1, replication - 1)),
        "max.message.bytes": str(MAX_EVENT_BYTES + _RECORD_OVERHEAD_BYTES),
        "message.timestamp.type": "CreateTime",
        "unclean.leader.election.enable": "false",
    }


class TopicsAdmin:
    """An admin connection; an async context manager."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._client = AIOKafkaAdminClient(
            bootstrap_servers=list(settings.servers),
            client_id="upward-topics",
            request_timeout_ms=round(settings.request_timeout_seconds * 1000),
            **parse_security(settings.security()),
        )

    async def __aenter__(self) -> "TopicsAdmin":
        await self._client.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def plan(self, topics: Sequence[Topic], replication: int | None) -> list[Change]:
        """Return what differs between the declaration and the brokers.

        New topics get so many replicas, three if none are asked for; those that exist keep theirs.
        Partitions are only ever added. Raises TopicsError for a topic that has more than declared
        (taking some away would move keys and break their order), and for new topics with more
        replicas than there are brokers. Raises KafkaError, also where the user may not see a
        topic's configuration.
        """
        known = await self.layouts([topic.name for topic in topics])
        configs = await self._configs([topic.name for topic in topics if topic.name in known])
        copies = replication or _REPLICATION
        if len(known) < len(topics):
            await self._must_have_room(copies)
        changes: list[Change] = []
        for topic in topics:
            layout = known.get(topic.name)
            if layout is None:
                changes.append(_creation(topic, copies))
                continue
            if replication not in {None, layout.replication}:
                changes.append(
                    Change(
                        topic.name,
                        f"has {layout.replication} replicas, {replication} are asked for: move"
                        " them with Kafka's kafka-reassign-partitions.sh",
                    )
                )
            wanted = wanted_config(topic, layout.replication)
            found = {entry.name: entry.value for entry in configs[topic.name]}
            changes += _differences(topic, layout.partitions, wanted, found)
        return changes

    async def _must_have_room(self, replication: int) -> None:
        brokers = len((await self._client.describe_cluster())["brokers"])
        if brokers < replication:
            detail = (
                f"New topics would have {replication} replicas, more than there are brokers"
                f" ({brokers}): ask for fewer with --replication."
            )
            raise TopicsError(detail)

    async def partitions(self, names: Sequence[str]) -> dict[str, int]:
        """Return how many partitions each of these topics has; those that exist."""
        return {name: found.partitions for name, found in (await self.layouts(names)).items()}

    async def layouts(self, names: Sequence[str]) -> dict[str, Layout]:
        """Return how each of these topics lies on the brokers; those that exist."""
        described = await self._client.describe_topics(list(names))
        return {
            item["topic"]: Layout(
                len(item["partitions"]),
                max(len(partition["replicas"]) for partition in item["partitions"]),
            )
            for item in described
            if item["partitions"]
        }

    async def every_partition(self, names: Collection[str]) -> list[TopicPartition]:
        """Return all partitions of these topics. Raises TopicsError where one is not there."""
        found = await self.partitions(list(names))
        if missing := [name for name in names if name not in found]:
            detail = (
                f"{', '.join(missing)}: not there, or not for this Kafka user to see."
                " Run `upward topics apply`."
            )
            raise TopicsError(detail)
        return [
            TopicPartition(name, number) for name, count in found.items() for number in range(count)
        ]

    async def members(self, group: str) -> int:
        """Return how many consumers are in the group now."""
        answers: list[Any] = await self._client.describe_consumer_groups([group])
        ((code, _group, _state, _type, _protocol, members, *_),) = answers[0].groups
        if code:
            raise for_code(code)(group)
        return len(members)

    async def _configs(self, names: Sequence[str]) -> dict[str, list[_Entry]]:
        if not names:
            return {}
        answers: list[Any] = await self._client.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        )
        for answer in answers:
            for code, message, _type, name, *_ in answer.resources:
                # Without its entries all of a topic's configuration would look unset.
                if code:
                    raise for_code(code)(f"{name}: {message}")
        return {
            resource[3]: [
                _Entry(name, value, own=source == _TOPICS_OWN)
                for name, value, _read_only, source, *_ in resource[4]
            ]
            for answer in answers
            for resource in answer.resources
        }

    async def apply(self, changes: Sequence[Change]) -> None:
        """Do what was planned. Raises TopicsError with the brokers' reason, and KafkaError.

        A topic that another deployment has created meanwhile is there, as it shall be.
        """
        new = [change.create for change in changes if change.create is not None]
        if new:
            _check(await self._client.create_topics(new), fine=TopicAlreadyExistsError.errno)
        more = {c.topic: NewPartitions(c.partitions) for c in changes if c.partitions is not None}
        if more:
            _check(await self._client.create_partitions(more))
        by_topic: dict[str, dict[str, str]] = {}
        for change in changes:
            if change.config is not None:
                by_topic.setdefault(change.topic, {}).update([change.config])
        # The request replaces what a topic has of its own: what operators set beside ours stays.
        kept = {
            name: {entry.name: entry.value for entry in entries if entry.own}
            for name, entries in (await self._configs(list(by_topic))).items()
        }
        for name, config in by_topic.items():
            resource = ConfigResource(ConfigResourceType.TOPIC, name, kept[name] | config)
            answers: list[Any] = await self._client.alter_configs([resource])
            for answer in answers:
                for code, message, *_ in answer.resources:
                    if code:
                        raise _refusal(code, name, message)


def _creation(topic: Topic, replication: int) -> Change:
    wanted = wanted_config(topic, replication)
    said = f"create with {topic.partitions} partitions, {replication} replicas, " + (
        ", ".join(f"{name}={value}" for name, value in wanted.items())
    )
    new = NewTopic(topic.name, topic.partitions, replication, topic_configs=wanted)
    return Change(topic.name, said, create=new)


def _check(answer: Any, fine: int = NoError.errno) -> None:
    for topic, code, *message in answer.topic_errors:
        if code not in {NoError.errno, fine}:
            raise _refusal(code, topic, message[0] if message else None)


def _refusal(code: int, topic: str, message: str | None) -> Exception:
    if code == TopicAuthorizationFailedError.errno:
        return TopicAuthorizationFailedError(f"{topic}: {message or 'refused'}")
    return TopicsError(f"{topic}: {message or for_code(code).__name__}")


def _differences(
    topic: Topic, partitions: int, wanted: Mapping[str, str], found: Mapping[str, str]
) -> list[Change]:
    if partitions > topic.partitions:
        detail = (
            f"{topic.name} has {partitions} partitions and is declared with"
            f" {topic.partitions}; Kafka can't take any away."
        )
        raise TopicsError(detail)
    changes = []
    if partitions < topic.partitions:
        said = (
            f"add partitions, {partitions} to {topic.partitions}: keys move, so do this only"
            " while nothing is published"
        )
        changes.append(Change(topic.name, said, partitions=topic.partitions))
    changes += [
        Change(topic.name, f"set {name}={value} (now {found.get(name)})", config=(name, value))
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    return changes
