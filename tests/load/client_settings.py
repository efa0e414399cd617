"""Stages that hold the services' settings of Kafka's client against others."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.events.topics import FEEDBACK
from shared.messaging.consumer import (
    FETCH_WAIT_MS,
    HEARTBEAT_SECONDS,
    QUIET_MS,
    SESSION_TIMEOUT_SECONDS,
)
from shared.messaging.dead_letters import RawRecord
from tests.load.backlog import Drained
from tests.load.bench_platform import ConsumerSettings
from tests.load.fetching import quiet_buses
from tests.load.measure import Figure, Stage
from tests.load.membership import (
    Hurt,
    kill_one,
    kill_one_and_restart,
    restart_all_in_turn,
    standstill,
    take_one_away,
)

_KIB = 1024
_CLIENTS_FETCH_KIB = 1024  # aiokafka's own, which services leave as it is
_CLIENTS_FETCH_WAIT_MS = 500
_FETCH_KIB = (64, 256, 4096)
_POLL_MS = (5, 100)
_LONE_EVENTS = 60

_KAFKAS_SESSION_SECONDS = 45.0
_CLIENTS_HEARTBEAT_SECONDS = 3.0


async def fetch_stage(
    folder: Path,
    drain: Callable[[ConsumerSettings], Awaitable[Drained]],
    records: Sequence[RawRecord],
    repetitions: int,
) -> Stage:
    """Measure how a backlog drains by size and wait of fetches, and how a quiet bus is polled."""
    sizes = (_CLIENTS_FETCH_KIB, *_FETCH_KIB)
    runs = [
        [await drain({"max_partition_fetch_bytes": size * _KIB}) for size in sizes]
        for _ in range(repetitions)
    ]
    waits: list[tuple[float, float]] = []
    for _ in range(repetitions):
        longer = await drain({"fetch_max_wait_ms": _CLIENTS_FETCH_WAIT_MS})
        waits.append((longer.per_second, (await drain({})).per_second))
    lone = [record for record in records if record.topic == FEEDBACK][:_LONE_EVENTS]
    quiet = await quiet_buses(folder, lone, (QUIET_MS, *_POLL_MS))
    return Stage(
        name="fetch",
        asks="Would other fetches drain a backlog faster, or other polls bring an event sooner?",
        figures=(
            *(
                Figure.beside(
                    f"a backlog on SQLite, {size:,} KiB of a partition at once",
                    "events/CPU s",
                    [(run[place].per_cpu_second, run[0].per_cpu_second) for run in runs],
                    f"{_CLIENTS_FETCH_KIB:,} KiB, as services do",
                )
                for place, size in enumerate(_FETCH_KIB, start=1)
            ),
            Figure.beside(
                f"a backlog on SQLite, fetches that wait up to {_CLIENTS_FETCH_WAIT_MS} ms",
                "events/s",
                waits,
                f"{FETCH_WAIT_MS} ms, as services do",
            ),
            *(
                Figure.beside(
                    f"an idle service that polls for {poll} ms",
                    "% of a core",
                    [(100 * quiet[poll].idle_share, 100 * quiet[QUIET_MS].idle_share)],
                    f"{QUIET_MS} ms, as services do",
                )
                for poll in _POLL_MS
            ),
        ),
        latencies={
            f"a lone event to a service that polls for {poll} ms": each.delays
            for poll, each in quiet.items()
        },
        notes=("A lone event's time is from its send to the commit of what it brings.",),
    )


@dataclass(frozen=True)
class _Way:
    """A way to be a member of a group."""

    name: str
    session: float = SESSION_TIMEOUT_SECONDS
    heartbeat: float = HEARTBEAT_SECONDS
    static: bool = False

    @property
    def settings(self) -> ConsumerSettings:
        """As aiokafka's arguments."""
        return {
            "session_timeout_ms": round(1000 * self.session),
            "heartbeat_interval_ms": round(1000 * self.heartbeat),
        }


_OURS = _Way("as services do")
_LONG = _Way(f"a session of {_KAFKAS_SESSION_SECONDS:g} s", session=_KAFKAS_SESSION_SECONDS)
_STATIC = _Way("static members", static=True)
_SELDOM = _Way(
    f"heartbeats of {_CLIENTS_HEARTBEAT_SECONDS:g} s", heartbeat=_CLIENTS_HEARTBEAT_SECONDS
)
_SCENES: tuple[tuple[str, Hurt, tuple[_Way, ...]], ...] = (
    ("one of two dies", kill_one, (_LONG,)),
    ("one dies and is started again at once", kill_one_and_restart, (_LONG, _STATIC)),
    ("both are restarted in turn", restart_all_in_turn, (_SELDOM, _STATIC)),
    ("one is asked to end", take_one_away, (_SELDOM, _STATIC)),
)


async def membership_stage(place: Callable[[], Path], sample: RawRecord) -> Stage:
    """Measure how long partitions stand still while members die, restart and leave."""
    figures: list[Figure] = []
    session, heartbeat = f"{SESSION_TIMEOUT_SECONDS:g}", f"{HEARTBEAT_SECONDS:g}"
    notes = [
        f"As services do: sessions of {session} s, a heartbeat each {heartbeat} s.",
        "No member of ours is static; aiokafka has no cooperative protocol.",
    ]
    for scene, hurt, ways in _SCENES:
        ours = await standstill(place(), sample, _OURS.settings, hurt)
        notes.append(f"{scene}, as services do: {ours}")
        for way in ways:
            other = await standstill(place(), sample, way.settings, hurt, static=way.static)
            figures.append(
                Figure.beside(
                    f"{scene}: {way.name}",
                    "s",
                    [(other.seconds, ours.seconds)],
                    _OURS.name,
                )
            )
            notes.append(f"{scene}, {way.name}: {other}")
    return Stage(
        name="membership",
        asks="How long does a partition wait while a group's members die, restart or leave?",
        figures=tuple(figures),
        notes=tuple(notes),
    )
