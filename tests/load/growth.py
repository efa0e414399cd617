"""What a hundred times as many events cost: the memory of a process, the time of a KPI query.

Run as a process of its own: `python -m tests.load.growth FOLDER EVENTS…`. It feeds as many events
as the first number says to one embedded platform, and as many as each further one to another,
bigger one. It writes its findings as the last line of standard output.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import uvloop
from pydantic import BaseModel

from deploy.process import tune_interpreter
from shared.clock import monotonic
from shared.messaging.local_producer import LocalProducer
from tests.load.asgi import Request, ask
from tests.load.bench_platform import until
from tests.load.events import PROGRAM
from tests.support.platform import RunningPlatform, running_platform

_CHUNK = 500
_LAG = 5_000
_SETTLE_SECONDS = 600.0
_QUERIES = 60
_BREAKDOWNS = ("none", "role", "region", "department", "month")


class Grown(BaseModel):
    """What was found; times in seconds, of queries at one platform and the other in turns."""

    small_events: int
    resident_mib: dict[int, float]
    queries: list[tuple[float, float]]
    seconds: float


def resident_mib() -> float:
    """Return how much memory this process has in use now. Raises OSError where /proc is not."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


async def _told(events: int) -> AsyncIterator[bytes]:
    # The teller is a process of its own, so that what it needs is not counted as ours.
    teller = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.load.events", str(events)), stdout=asyncio.subprocess.PIPE
    )
    assert teller.stdout is not None
    async for line in teller.stdout:
        yield line
    await teller.wait()


class _Feeder:
    """Puts a history on a platform's log, no faster than reporting takes it."""

    def __init__(self, running: RunningPlatform, events: int) -> None:
        self._running = running
        self._lines = _told(events)
        self.fed = 0

    async def feed(self, total: int) -> None:
        producer = LocalProducer(self._running.platform.log)
        await producer.start()
        consumer = self._running.platform.services[0].consumer

        async def low() -> bool:
            return await consumer.lag() <= _LAG

        while self.fed < total:
            sent = []
            for _ in range(min(_CHUNK, total - self.fed)):
                topic, key, value, headers = orjson.loads(await anext(self._lines))
                sent.append(
                    await producer.send(
                        topic,
                        value.encode(),
                        key=key.encode(),
                        headers=[(name, text.encode()) for name, text in headers],
                    )
                )
            await asyncio.gather(*sent)
            self.fed += len(sent)
            await until(low, 0.01)
        await producer.stop()
        await self._running.settle(_SETTLE_SECONDS)


async def _query(running: RunningPlatform) -> float:
    token = running.token("an-analyst", ("analyst",), (PROGRAM,))
    requests = [
        Request.of("GET", "/reporting/v1/kpis", token, query=f"program={PROGRAM}&by={by}")
        for by in _BREAKDOWNS
    ]
    begun = monotonic()
    for request in requests:
        await ask(running.platform.app, request)
    return monotonic() - begun


async def grow(folder: Path, small_events: int, marks: list[int]) -> Grown:
    """Feed both platforms, and measure memory at each mark and queries at the end."""
    begun = monotonic()
    async with AsyncExitStack() as steps:
        small = await steps.enter_async_context(running_platform(folder / "small", ["reporting"]))
        big = await steps.enter_async_context(running_platform(folder / "big", ["reporting"]))
        await _Feeder(small, small_events).feed(small_events)
        feeder = _Feeder(big, marks[-1])
        memory = {}
        for mark in marks:
            await feeder.feed(mark)
            memory[mark] = resident_mib()
        pairs = [(await _query(big), await _query(small)) for _ in range(_QUERIES)]
    return Grown(
        small_events=small_events,
        resident_mib=memory,
        queries=pairs[_QUERIES // 10 :],
        seconds=monotonic() - begun,
    )


async def grow_apart(folder: Path, small_events: int, marks: list[int]) -> Grown:
    """Do the same in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.load.growth", str(folder)),
        *map(str, (small_events, *marks)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        msg = f"the growing process ended with {process.returncode}"
        raise RuntimeError(msg)
    return Grown.model_validate_json(said.rstrip().rpartition(b"\n")[2])


def main() -> None:
    """Run on the command line."""
    folder, small, *marks = sys.argv[1:]
    tune_interpreter()
    grown = uvloop.run(grow(Path(folder), int(small), list(map(int, marks))))
    sys.stdout.write(f"\n{grown.model_dump_json()}\n")


if __name__ == "__main__":
    main()
