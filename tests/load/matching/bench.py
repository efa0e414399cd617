"""`upward bench matching`: the engine beside its peers, on the same instances, in one run."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from shared.clock import monotonic
from tests.load.matching.inside import measure
from tests.load.matching.pools import SHAPES, Shape
from tests.load.measure import Budget, Figure, Percentiles, Stage
from tests.support.servers.process import TOOLS

_ROOT = TOOLS.parent
_SECONDS = 7200.0


class MatchingBench(BaseModel):
    """One run of the benchmark."""

    model_config = ConfigDict(frozen=True)

    cores: int
    load_before: float
    seconds: float
    stages: tuple[Stage, ...]


class PeerError(Exception):
    """A peer could not be run; the text says why."""


@dataclass(frozen=True)
class Peer:
    """Somebody else's solver; `environment` of None is the project's own."""

    name: str
    environment: str | None


SCIPY = Peer("scipy", None)
LAPX = Peer("lapx", "lapx")
MENTOR_MATCH = Peer("mentor-match", "mentor-match")
STABLE = Peer("matching", "matching")
ORTOOLS = Peer("ortools", "ortools")

Told = dict[str, Any]


def _run(python: Path, module: str, *arguments: object) -> Told:
    command = [str(python), "-W", "ignore", "-m", module, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=_SECONDS
    )
    if done.returncode:
        raise PeerError(f"it ended with {done.returncode}: {done.stderr[-400:]}")
    told: Told = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    return told


def ours(mentors: int, mentees: int, shape: Shape = "usual", **files: Path) -> Told:
    """Solve an instance in a process of its own, and write what peers are to solve."""
    written = [f"{name}={file}" for name, file in files.items()]
    return _run(
        Path(sys.executable), "tests.load.matching.solve", mentors, mentees, 1, shape, *written
    )


def theirs(peer: Peer, file: Path) -> Told:
    """Let a peer solve what was written. Raises PeerError."""
    python = Path(sys.executable)
    if peer.environment is not None:
        python = TOOLS / "peers" / peer.environment / "bin" / "python"
        if not python.exists():
            raise PeerError("it is not installed; `make bench` does that")
    return _run(python, "tests.load.peers.assignments", peer.name, file)


def _beside(size: int, peers: Sequence[tuple[Peer, float | None]]) -> Stage:
    """Measure one size beside dense solvers, whose time includes the scoring of all pairs."""
    figures, notes = [], []
    with tempfile.TemporaryDirectory(prefix="upward-bench-") as folder:
        scores = Path(folder) / "scores.npy"
        best = ours(size, size, dense=scores)
        figures += [
            Figure.alone("time", "s", [best["seconds"]]),
            Figure.alone("peak memory", "MB", [best["peak_mb"]]),
            Figure.alone("certified gap", "%", [100 * best["gap"]]),
        ]
        for peer, faster in peers:
            try:
                other = theirs(peer, scores)
            except (PeerError, subprocess.TimeoutExpired) as error:
                notes.append(f"{peer.name}: {error}")
                continue
            total = other["seconds"] + best["scoring_seconds"]
            budget = None if faster is None else Budget(direction="at least", ratio=faster)
            figures += [
                Figure.beside(
                    "speed", "1/s", [(1 / best["seconds"], 1 / total)], peer.name, budget
                ),
                Figure.beside(
                    "objective", "points", [(best["objective"], other["objective"])], peer.name,
                    Budget(direction="at least", ratio=0.9999),
                ),
                Figure.beside("pairs", "", [(best["pairs"], other["pairs"])], peer.name),
                Figure.beside(
                    "peak memory", "MB", [(best["peak_mb"], other["peak_mb"])], peer.name
                ),
            ]  # fmt: skip
    asks = f"{size:,} mentors by {size:,} mentees beside other solvers, scoring included"
    return Stage(name=f"{size}", asks=asks, figures=tuple(figures), notes=tuple(notes))


def _alone(size: int, gap_percent: float, most_mb: float) -> Stage:
    told = ours(size, size)
    gap = Figure.beside(
        "certified gap", "%", [(100 * told["gap"], gap_percent)], "budget",
        Budget(direction="at most", ratio=1),
    )  # fmt: skip
    memory = Figure.beside(
        "peak memory", "MB", [(told["peak_mb"], most_mb)], "budget",
        Budget(direction="at most", ratio=1),
    )  # fmt: skip
    time = Figure.alone("time", "s", [told["seconds"]])
    return Stage(
        name=f"{size}",
        asks=f"{size:,} mentors by {size:,} mentees",
        figures=(time, gap, memory),
        notes=(f"{told['pairs']:,} pairs, {told['objective']:,} points",),
    )


def _sparse(mentors: int, mentees: int) -> Stage:
    """Circles: the auction and min-cost flow on the same graph of each mentee's best."""
    with tempfile.TemporaryDirectory(prefix="upward-bench-") as folder:
        graph = Path(folder) / "graph.npz"
        told = ours(mentors, mentees, "circles", graph=graph)
        figures = [Figure.alone("certified gap, all pairs", "%", [100 * told["gap"]])]
        notes = []
        try:
            other = theirs(ORTOOLS, graph)
        except (PeerError, subprocess.TimeoutExpired) as error:
            notes.append(f"ortools: {error}")
        else:
            figures += [
                Figure.beside(
                    "speed on the same graph", "1/s",
                    [(1 / told["auction_seconds"], 1 / other["seconds"])], "ortools",
                    Budget(direction="at least", ratio=2),
                ),
                Figure.beside(
                    "objective on the same graph", "points",
                    [(told["auction_objective"], other["objective"])], "ortools",
                    Budget(direction="at least", ratio=0.9999),
                ),
                Figure.beside(
                    "pairs", "", [(told["auction_pairs"], other["pairs"])], "ortools"
                ),
            ]  # fmt: skip
    asks = f"circles: {mentees:,} mentees, {mentors:,} mentors of one to three places"
    return Stage(name="circles", asks=asks, figures=tuple(figures), notes=tuple(notes))


def _hard() -> Stage:
    sizes: list[tuple[Shape, int, int]] = [(shape, 20_000, 20_000) for shape in SHAPES]
    sizes += [("usual", 25_000, 15_000), ("usual", 15_000, 25_000), ("usual", 20_000, 2_000)]
    figures, notes = [], []
    for shape, mentors, mentees in sizes:
        told = ours(mentors, mentees, shape)
        name = f"{shape} {mentors:,} x {mentees:,}"
        figures.append(
            Figure.beside(
                f"gap, {name}", "%", [(100 * told["gap"], 0.1)], "budget",
                Budget(direction="at most", ratio=1),
            )
        )  # fmt: skip
        notes.append(f"{name}: {told['pairs']:,} pairs in {told['seconds']:.1f} s")
    return Stage(
        name="hard", asks="instances that are hard", figures=tuple(figures), notes=tuple(notes)
    )


def _inside() -> Stage:
    """Measure a round beside other requests, and kill the platform in the middle of another."""
    found = asyncio.run(measure(20_000))
    idle, busy = Percentiles.of(found.idle), Percentiles.of(found.busy)
    return Stage(
        name="inside",
        asks="20,000 mentors by 20,000 mentees inside `upward up`: what do other requests feel?",
        figures=(
            Figure.beside(
                "p99 of an answer while a round runs", "ms", [(busy.p99, idle.p99)],
                "p99 when nothing runs", Budget(direction="at most", ratio=2),
            ),
            Figure.alone("from request to the last proposal", "s", [found.seconds]),
            Figure.beside(
                "proposals of a round that kill -9 cut in two", "pairs",
                [(found.proposed_after_kill, found.proposed)], "undisturbed",
                Budget(direction="at least", ratio=1),
            ),
        ),
        latencies={"idle": idle, "while a round runs": busy},
        notes=(f"after the kill: {found.lost} proposals lost, {found.doubled} told twice",),
    )  # fmt: skip


STAGES: dict[str, Callable[[], Stage]] = {
    "2000": lambda: _beside(2_000, [(MENTOR_MATCH, 200)]),
    "5000": lambda: _beside(5_000, [(LAPX, None), (SCIPY, None), (STABLE, None)]),
    "20000": lambda: _beside(20_000, [(LAPX, 10), (SCIPY, 30)]),
    "100000": lambda: _alone(100_000, 0.1, 2048),
    "circles": lambda: _sparse(26_000, 50_000),
    "hard": _hard,
    "inside": _inside,
    # Ten minutes and many gigabytes: only when it is asked for by name.
    "500000": lambda: _alone(500_000, 0.5, 8192),
}
DEFAULT = tuple(name for name in STAGES if name != "500000")


def bench_matching(
    stages: Sequence[str], said: Callable[[str], None] = lambda _: None
) -> MatchingBench:
    """Measure the stages; `said` is told which. Blocks, for half an hour with all of them."""
    begun, load = monotonic(), os.getloadavg()[0]
    found = []
    for name in stages:
        said(f"Measuring {name}")
        found.append(STAGES[name]())
    return MatchingBench(
        cores=os.cpu_count() or 1,
        load_before=load,
        seconds=monotonic() - begun,
        stages=tuple(found),
    )
