"""The fault table: what is done to a running platform, and what else must then be true."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiokafka import TopicPartition

from shared.clock import monotonic
from shared.events.registry import EVENTS_BY_TYPE
from shared.events.topics import PAIRS, PARTICIPANTS, SESSIONS
from tests.faults.cluster.campaign import GROUPS, LIVE_SECONDS, SESSION_SECONDS, Campaign
from tests.faults.cluster.evidence import Record, handled
from tests.faults.cluster.journal import JournaledClient
from tests.faults.cluster.poison import FOREIGN, Made, drifted, header, headers_of, poisons, stale
from tests.faults.cluster.proxy import Mode
from tests.support.cluster import Replica, until

Inject = Callable[[Campaign, random.Random], Awaitable[None]]

GRACE_SECONDS = 30.0
_SKEW_SECONDS = 3600
_TOLD_SECONDS = 30.0
_DIES_SECONDS = 15.0
_FULL_SECONDS = 60.0
_CUT_SECONDS = 12.0
_LEASES_MOVE_SECONDS = 7.0
_TRIES = 4
_CONSUMERS = tuple(GROUPS.values())
_SKEW = Path(__file__).parent / "skew"


@dataclass(frozen=True)
class Fault:
    """One line of the table. `inject` hurts, then heals; the story goes on meanwhile.

    A fault `at_rest` starts and ends while nothing else happens. `nodes` is how many brokers it
    takes; `fills` says that it fills a disk, which takes the right to mount one, and
    `kills_mongo` that the database must be ours to kill.
    """

    number: str
    name: str
    inject: Inject
    at_rest: bool = False
    nodes: int = 1
    fills: bool = False
    kills_mongo: bool = False


@dataclass(frozen=True)
class NotRun:
    """A fault of the table that is not injected, and why."""

    number: str
    name: str
    reason: str


def _any_of(campaign: Campaign, service: str, luck: random.Random) -> Replica:
    return luck.choice(campaign.cluster.of(service))


# -- processes that die ---------------------------------------------------------------------------


async def _die_at(
    campaign: Campaign,
    luck: random.Random,
    failpoint: str,
    *,
    alone: bool = False,
) -> None:
    """Have a replica of the service that is written to die there; `alone`, all others are down.

    The step may be over before the failpoint is reached: then it is another service's turn.
    """
    for _ in range(_TRIES):
        replicas = campaign.cluster.of(campaign.busy())
        replica, *others = luck.sample(replicas, len(replicas))
        pid = await campaign.arm(replica, failpoint)
        down = others if alone else []
        for other in down:
            await campaign.take_down(other)
        died = await campaign.dies(replica, pid, _DIES_SECONDS)
        for other in down:
            await campaign.bring_back(other)
        if died:
            return
        await campaign.restart(replica)
    raise AssertionError(f"{failpoint} was never reached")


async def kill_between_commit_and_reply(campaign: Campaign, luck: random.Random) -> None:
    await _die_at(campaign, luck, f"store.after_commit:{luck.randint(3, 12)}")


async def kill_relay_after_publish(campaign: Campaign, luck: random.Random) -> None:
    # The others give the relay's lease up as they end. They stay away until it has died: one that
    # comes back at once takes the lease as often as not.
    await _die_at(campaign, luck, f"relay.after_publish:{luck.randint(1, 4)}", alone=True)


async def kill_consumer_between_commits(campaign: Campaign, luck: random.Random) -> None:
    # Every step tells it something.
    service = "reporting"
    # The batch may have held nothing that the service applies.
    for _ in range(_TRIES):
        before = await campaign.duplicates(service)
        replica = _any_of(campaign, service, luck)
        pid = await campaign.arm(replica, f"consumer.after_apply:{luck.randint(1, 3)}")
        assert await campaign.dies(replica, pid, LIVE_SECONDS), "it never applied a batch"
        if await campaign.dropped_duplicates(service, before, LIVE_SECONDS):
            return
    raise AssertionError("no inbox has dropped anything")


def kill_consumers(times: int) -> Inject:
    async def inject(campaign: Campaign, luck: random.Random) -> None:
        for _ in range(times):
            replica = _any_of(campaign, luck.choice(_CONSUMERS), luck)
            await asyncio.sleep(luck.uniform(0.2, 2))
            if replica.running:
                pid = replica.pid
                await campaign.run(replica.kill)
                await campaign.until_back(replica, pid)

    return inject


def terminate_under_load(times: int) -> Inject:
    async def inject(campaign: Campaign, luck: random.Random) -> None:
        slowest, left = 0.0, campaign.left_groups()
        for _ in range(times):
            replica = _any_of(campaign, luck.choice(_CONSUMERS), luck)
            await asyncio.sleep(luck.uniform(0, 1))
            slowest = max(slowest, await _end_in_time(campaign, replica))
            await campaign.bring_back(replica)
        said = campaign.left_groups() - left
        assert said >= times, f"{times} consumers ended and {said} said so to their group"
        campaign.outcome.notes.append(f"slowest of {times} SIGTERM {slowest:.1f} s")

    return inject


async def _end_in_time(campaign: Campaign, replica: Replica) -> float:
    seconds = await campaign.take_down(replica)
    assert seconds < GRACE_SECONDS, f"{replica.name} took {seconds:.1f} s to end"
    code = replica.exit_code
    assert code == 0, f"{replica.name} ended with {code}: {replica.log_tail()}"
    return seconds


async def leak_a_cancellation(campaign: Campaign, luck: random.Random) -> None:
    # Every step tells it something.
    replica = _any_of(campaign, "reporting", luck)
    hit = luck.randint(1, 3)
    pid = await campaign.arm(replica, f"consumer.before_apply:{hit}:cancel")
    await until(
        lambda: replica.metric("upward_consumer_retries_total", service="reporting") > 0,
        LIVE_SECONDS,
        f"batch {hit} of {replica.name} is cancelled and taken again",
    )
    assert replica.running, f"{replica.name} has ended"
    assert (replica.pid, replica.live()) == (pid, True), f"{replica.name} is not at work"
    await campaign.restart(replica, UPWARD_FAILPOINT="")


def pause_replica(service: str | None, seconds: float) -> Inject:
    async def inject(campaign: Campaign, luck: random.Random) -> None:
        replica = _any_of(campaign, service or luck.choice(_CONSUMERS), luck)
        replica.pause()
        try:
            await asyncio.sleep(seconds)
        finally:
            replica.resume()

    return inject


async def scale_up_and_down(campaign: Campaign, luck: random.Random) -> None:
    service = luck.choice(("reporting", "feedback"))
    first, second = campaign.cluster.of(service)
    third = campaign.extra(service, 3)
    await campaign.run(third.launch)
    await asyncio.sleep(5)
    await campaign.take_down(first)
    await asyncio.sleep(5)
    await campaign.take_down(second)
    await campaign.run(first.launch)
    await asyncio.sleep(5)
    await campaign.run(second.launch)
    await asyncio.sleep(5)
    await campaign.run(third.terminate)
    campaign.held_down -= {first.name, second.name}


async def start_without_kafka(campaign: Campaign, luck: random.Random) -> None:
    replica = _any_of(campaign, luck.choice(_CONSUMERS), luck)
    await campaign.take_down(replica)
    await campaign.run(campaign.kafka.kill)
    try:
        await campaign.run(replica.launch)
        await asyncio.sleep(8)
        idle = replica.running and replica.ready()
        assert not idle, f"{replica.name} says that it is ready, without any broker"
        code = "waits" if replica.running else "has ended"
        campaign.outcome.notes.append(f"without a broker, a new process {code}")
    finally:
        await campaign.run(campaign.kafka.start)
        campaign.held_down.discard(replica.name)
    await until(replica.ready, 60, f"{replica.name} works")


# -- servers that die, stand still or can't be reached --------------------------------------------


def pause_broker(seconds: float) -> Inject:
    async def inject(campaign: Campaign, luck: random.Random) -> None:
        replica = _any_of(campaign, luck.choice(_CONSUMERS), luck)
        campaign.kafka.nodes[0].pause()
        try:
            await asyncio.sleep(seconds / 4)
            took = await _end_in_time(campaign, replica)
            campaign.outcome.notes.append(f"SIGTERM without a broker {took:.1f} s")
            await asyncio.sleep(max(0, seconds * 3 / 4 - took))
        finally:
            campaign.kafka.nodes[0].resume()
        await campaign.bring_back(replica)

    return inject


def kill_broker(times: int) -> Inject:
    async def inject(campaign: Campaign, luck: random.Random) -> None:
        for _ in range(times):
            await asyncio.sleep(luck.uniform(0.5, 2))
            node = luck.choice(campaign.kafka.nodes)
            await campaign.run(node.kill)
            await asyncio.sleep(luck.uniform(0, 3))
            await campaign.run(node.start)

    return inject


async def cut_kafka(campaign: Campaign, luck: random.Random) -> None:
    modes: tuple[Mode, ...] = ("cut", "deaf", "mute")
    async with campaign.cut(campaign.kafka_link, luck.choice(modes)):
        await asyncio.sleep(_CUT_SECONDS)
    # Those that are to be cut off now hold all leases: the others end, and begin anew.
    others = [replica for replica in campaign.cluster.all if replica.number != 1]
    await asyncio.gather(*map(campaign.take_down, others))
    await asyncio.sleep(_LEASES_MOVE_SECONDS)
    await asyncio.gather(*map(campaign.bring_back, others))
    # Where no answer comes, a holder forgets to renew its lease in time; a refusal comes at once.
    async with campaign.cut(campaign.kafka_link, "refuse"):
        # The step under way may have told all it had to; the next one begins and ends in here.
        # One after the other its services find out that their holders are cut off.
        wanted = campaign.at_step + 2
        await until(
            lambda: campaign.at_step >= wanted, 3 * LIVE_SECONDS, "the story goes on without them"
        )


async def lose_mongo(campaign: Campaign, luck: random.Random) -> None:
    modes: tuple[Mode, ...] = ("cut", "deaf", "refuse")
    for mode in luck.sample(modes, 2):
        async with campaign.cut(campaign.mongo_link, mode):
            await asyncio.sleep(_CUT_SECONDS / 2)
        await asyncio.sleep(1)
    await campaign.run(campaign.mongo.kill)
    await asyncio.sleep(luck.uniform(0, 2))
    await campaign.run(campaign.mongo.start)


async def fill_broker_disk(campaign: Campaign, luck: random.Random) -> None:
    (node,) = campaign.kafka.nodes
    async with campaign.full(campaign.kafka_disk):
        # A broker whose only disk has failed ends; what keeps it in operation starts it again.
        await until(lambda: not node.running, _FULL_SECONDS, "the broker can't write")
        await asyncio.sleep(luck.uniform(1, 4))
    await campaign.run(node.start)


async def fill_mongo_disk(campaign: Campaign, luck: random.Random) -> None:
    client = campaign.story.client
    assert isinstance(client, JournaledClient)
    before = client.repeated
    async with campaign.full(campaign.mongo_disk):
        await until(
            lambda: client.repeated > before, _FULL_SECONDS, "somebody is told to come back"
        )
        await asyncio.sleep(luck.uniform(1, 4))
    # A server that could not write ends, or is to be restarted.
    await campaign.run(campaign.mongo.kill)
    await campaign.run(campaign.mongo.start)


async def skew_clocks(campaign: Campaign, luck: random.Random) -> None:
    skew = campaign.folder / "skew"
    skew.write_text("0")
    service = campaign.busy()
    replica = _any_of(campaign, service, luck)
    await campaign.restart(replica, PYTHONPATH=str(_SKEW), WALL_CLOCK_SKEW=str(skew))
    for seconds in luck.sample((_SKEW_SECONDS, -_SKEW_SECONDS), 2):
        skew.write_text(str(seconds))
        await asyncio.sleep(3)
    skew.write_text("0")
    await campaign.restart(replica, PYTHONPATH="")


# -- records that come twice, late or broken -------------------------------------------------------


async def replay_everything(campaign: Campaign, luck: random.Random) -> None:
    for service in ("reporting", luck.choice(("matching", "sessions", "feedback"))):
        replicas = campaign.cluster.of(service)
        await asyncio.gather(*map(campaign.take_down, replicas))
        offsets = await campaign.committed(service)
        await campaign.move_group(service, dict.fromkeys(offsets, 0))
        await asyncio.gather(*map(campaign.bring_back, replicas))


async def deliver_late_and_twice(campaign: Campaign, luck: random.Random) -> None:
    await campaign.publish(stale(await _told(campaign, lambda _: True), luck))


def _originals(records: Sequence[Record]) -> list[Record]:
    """Return the services' own events: what an earlier fault made of them is no neighbor."""
    return [
        r
        for r in records
        if not r.topic.endswith(".dlq.v1")
        and header(r, "type") in EVENTS_BY_TYPE
        and r.value
        and not header(r, "id").startswith(FOREIGN)
    ]


async def _told(campaign: Campaign, wanted: Callable[[Record], bool]) -> list[Record]:
    """Return the events that are wanted; where the story has only begun, wait for the first."""
    deadline = monotonic() + _TOLD_SECONDS
    while True:
        found = [r for r in _originals(await campaign.topics.read()) if wanted(r)]
        if found:
            return found
        assert monotonic() < deadline, "the story tells nothing of the kind"
        await asyncio.sleep(0.5)


def _read_by(group: str) -> set[str]:
    return {EVENTS_BY_TYPE[kind].topic for kind in handled()[group]}


async def poison(campaign: Campaign, luck: random.Random) -> None:
    topics = luck.sample((PARTICIPANTS, PAIRS, SESSIONS), 3)
    records = await _told(campaign, lambda r: r.topic in topics)
    topic = next(topic for topic in topics if any(r.topic == topic for r in records))
    record = luck.choice([r for r in records if r.topic == topic])
    made = poisons(record, luck)
    luck.shuffle(made)
    await _must_be_buried(campaign, made)


async def drift_schemas(campaign: Campaign, luck: random.Random) -> None:
    enrolled = await _told(campaign, lambda r: header(r, "type") == "upward.enrolled.v1")
    record = luck.choice(enrolled)
    await _must_be_buried(campaign, drifted(record, luck))


async def _must_be_buried(campaign: Campaign, made: Sequence[Made]) -> None:
    places = await campaign.publish(made)

    def missing() -> list[str]:
        found = []
        for group, service in GROUPS.items():
            reasons = {
                (letter["topic"], letter["partition"], letter["offset"]): letter["reason"]
                for letter in campaign.stores.dead_letters(service)
            }
            for record, place in zip(made, places, strict=True):
                wanted = record.topic in _read_by(group) and (
                    not record.data_only or record.type in handled()[group]
                )
                if wanted and record.reason and record.reason not in reasons.get(place, ""):
                    found.append(f"{service} has no dead letter for {record.event_id}")
        return found

    await until(lambda: not missing(), 60, "every bad record is a dead letter with its reason")


async def flood(campaign: Campaign, luck: random.Random) -> None:
    known = await _told(campaign, lambda r: r.topic in {PARTICIPANTS, SESSIONS})
    one = luck.choice(known)
    topic, place = one.topic, TopicPartition(one.topic, one.partition)
    records = [r for r in known if (r.topic, r.partition) == tuple(place)]
    made: list[Made] = []
    for _ in range(1000):
        record = luck.choice(records)
        if luck.random() < 0.3:
            made.append(luck.choice(poisons(record, luck)[-2:]))
        else:
            event_id = header(record, "id")
            made.append(Made(record.topic, record.key, record.value, headers_of(record), event_id))
    bad = sum(bool(record.reason) for record in made)
    places = await campaign.publish(made, place.partition)
    readers = [service for group, service in GROUPS.items() if topic in _read_by(group)]
    for service in readers:
        await until(
            lambda service=service: not any(r.ready() for r in campaign.cluster.of(service)),
            60,
            f"the breaker stops {service} and turns its readiness off",
        )
        buried = len(
            [
                letter
                for letter in campaign.stores.dead_letters(service)
                if (letter["topic"], letter["partition"], letter["offset"]) in set(places)
            ]
        )
        assert buried < bad, f"all {bad} went to the dead letters of {service}"
        campaign.outcome.notes.append(f"{service} stopped after {buried} of {bad} bad records")
    # What an operator does after such a flood: skip it. Nothing else was published meanwhile.
    for service in readers:
        replicas = campaign.cluster.of(service)
        await asyncio.gather(*map(campaign.take_down, replicas))
        await campaign.move_group(service, {place: places[-1][2] + 1})
        await asyncio.gather(*map(campaign.bring_back, replicas))


async def outlive_retention(campaign: Campaign, luck: random.Random) -> None:
    replicas = campaign.cluster.of("reporting")
    with campaign.without("reporting"):
        await asyncio.gather(*map(campaign.take_down, replicas))
        read = await campaign.committed("reporting")
        gone: dict[TopicPartition, int] = {}
        async with asyncio.timeout(60):
            while not gone:
                await asyncio.sleep(0.5)
                ends = await campaign.ends(read)
                gone = {place: end for place, end in ends.items() if end > read[place] + 1}
        await campaign.delete_records(gone)
        lost = sum(start - read[place] for place, start in gone.items())
        await asyncio.gather(*(campaign.run(replica.launch) for replica in replicas))
        await until(
            lambda: (
                all(replica.live() and not replica.ready() for replica in replicas)
                and any(replica.metric("upward_consumer_stopped") for replica in replicas)
            ),
            60,
            f"reporting stops at {lost} records that were deleted before it read them",
        )
        campaign.outcome.notes.append(f"stopped at {lost} records that retention took")
        # What the message asks for: move on to what is there, and publish all again.
        await asyncio.gather(*map(campaign.take_down, replicas))
        await campaign.move_group("reporting", gone)
        await asyncio.gather(*map(campaign.bring_back, replicas))
    await campaign.replay_outboxes()


FAULTS: tuple[Fault, ...] = (
    Fault("F1", "kill -9 between commit and reply", kill_between_commit_and_reply),
    Fault("F2", "kill -9 of the relay after publishing", kill_relay_after_publish),
    Fault("F3", "kill -9 between store and offset commit", kill_consumer_between_commits),
    Fault("F4", "kill -9 of consumers at random, 4 times", kill_consumers(4)),
    Fault("F5", "SIGTERM under load, 4 times", terminate_under_load(4)),
    Fault("F6", "SIGSTOP of a consumer, 12 s", pause_replica(None, 2 * SESSION_SECONDS)),
    Fault("F7", "SIGSTOP of the broker, 30 s", pause_broker(30)),
    Fault("F8", "kill -9 of the broker", kill_broker(1)),
    Fault("F10", "half of the clients cut off the broker", cut_kafka),
    Fault("F11", "half of the clients cut off MongoDB; its kill -9", lose_mongo, kills_mongo=True),
    Fault("F12", "groups set back to the first record", replay_everything, at_rest=True),
    Fault("F13", "copies in another order, old after new", deliver_late_and_twice),
    Fault("F14", "poison of nine kinds", poison),
    Fault("F15", "flood, 30 % poison", flood, at_rest=True),
    Fault("F17", "a wall clock one hour ahead, then behind", skew_clocks),
    Fault("F18", "schema drift", drift_schemas),
    Fault("F19", "2 to 3 to 1 to 3 replicas, each 5 s", scale_up_and_down),
    Fault("F20", "no broker at a process's start", start_without_kafka),
    Fault("F21", "a process that stands still, 15 s", pause_replica("matching", 15)),
    Fault("F21b", "a cancellation leaks into a batch", leak_a_cancellation),
    Fault("F23", "retention passed", outlive_retention),
    # Those with servers of their own, last: the others share theirs.
    Fault("F9", "kill -9 of leaders, 3 brokers", kill_broker(3), nodes=3),
    Fault("F16", "the broker's disk is full", fill_broker_disk, fills=True),
    Fault("F16b", "MongoDB's disk is full", fill_mongo_disk, fills=True, kills_mongo=True),
)

NOT_RUN: tuple[NotRun, ...] = (
    NotRun(
        "F11",
        "the primary steps down",
        "the one-node server has no other primary; set MONGODB_URI to a replica set of three",
    ),
    NotRun("F22", "erasure during a replay", "there is no erasure yet"),
)
