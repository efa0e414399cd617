"""Consumer groups of the local log: who reads which partition, as Kafka's coordinator decides."""

import asyncio
import itertools
import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Protocol, cast

from aiokafka import TopicPartition
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor

if TYPE_CHECKING:
    from aiokafka.cluster import ClusterMetadata

_log = logging.getLogger(__name__)
_member_numbers = itertools.count(1)


def new_member_id(client_id: str) -> str:
    """Return a member id; members sort in the order in which they were made."""
    return f"{client_id}-{next(_member_numbers):09}"


class Member(Protocol):
    """A consumer of a group, as its coordinator sees it."""

    member_id: str
    strategy: type[AbstractPartitionAssignor]
    rebalance_timeout: float

    def subscribed_topics(self) -> Collection[str]:
        """Return the topics that exist and that the member wants."""

    async def prepare_rebalance(self) -> None:
        """Stop fetching and tell the listener; commits are still accepted until the end."""

    def take(self, partitions: frozenset[TopicPartition]) -> None:
        """Read these partitions from now on, and no others."""

    def expelled(self) -> None:
        """The member held up a rebalance too long: others read its partitions now."""


class ConsumerGroup:
    """Eager rebalancing: all members give up everything, then all get their new share.

    Runs in memory, for the members of one process. A member that keeps its listener longer than
    the largest `rebalance_timeout` of the group is expelled and joins again when it is done.
    """

    def __init__(self, name: str, topics: Mapping[str, int]) -> None:
        """`topics` is the log's own, living view."""
        self._name = name
        self._topics = topics
        self._members: dict[str, Member] = {}
        self._wanted = False
        self._task: asyncio.Task[None] | None = None
        self._late: set[asyncio.Task[None]] = set()

    def __contains__(self, member: Member) -> bool:
        return member.member_id in self._members

    @property
    def empty(self) -> bool:
        """Whether nobody is a member; only then may outsiders commit offsets."""
        return not self._members

    def join(self, member: Member) -> None:
        """Add a member, or note that its subscription changed; the rebalance runs by itself."""
        self._members[member.member_id] = member
        self.rebalance()

    def leave(self, member: Member) -> None:
        """Remove a member without telling its listener, and share out what it read."""
        if self._members.pop(member.member_id, None) is not None and self._members:
            self.rebalance()

    def rebalance(self) -> None:
        """Share the partitions anew; while one rebalance runs, one more is enough."""
        self._wanted = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"rebalance-{self._name}")

    async def _run(self) -> None:
        while self._wanted:
            await self._prepare_all()
            # Nothing is awaited between here and the last `take`: all that was wanted is in it.
            self._wanted = False
            self._assign()

    async def _prepare_all(self) -> None:
        prepared: set[str] = set()
        while waiting := [m for m in self._members.values() if m.member_id not in prepared]:
            # Whoever joins meanwhile is prepared in the next turn and takes part in this rebalance.
            tasks = {asyncio.create_task(m.prepare_rebalance()): m for m in waiting}
            timeout = max(m.rebalance_timeout for m in waiting)
            _, late = await asyncio.wait(tasks, timeout=timeout)
            prepared.update(member.member_id for member in waiting)
            for task in late:
                self._expel(tasks[task], task)

    def _expel(self, member: Member, task: "asyncio.Task[None]") -> None:
        self._late.add(task)
        if self._members.pop(member.member_id, None) is not None:
            _log.warning("%s held up a rebalance of %s: expelled", member.member_id, self._name)

        def rejoin(done: "asyncio.Task[None]") -> None:
            self._late.discard(done)
            member.expelled()

        task.add_done_callback(rejoin)

    def _assign(self) -> None:
        if not self._members:
            return
        strategy = next(iter(self._members.values())).strategy
        shares = strategy.assign(
            cast("ClusterMetadata", _Topics(self._topics)),
            {key: strategy.metadata(m.subscribed_topics()) for key, m in self._members.items()},
        )
        for member_id, member in self._members.items():
            member.take(frozenset(shares[member_id].partitions()))


class _Topics:
    """The one question that an assignor of aiokafka asks of a cluster's metadata."""

    def __init__(self, topics: Mapping[str, int]) -> None:
        self._topics = topics

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        count = self._topics.get(topic)
        return None if count is None else set(range(count))
