"""One member of reporting's consumer group, as a process: `python -m tests.load.member …`.

Takes a folder, Kafka's servers and settings of aiokafka's consumer as JSON; ends at SIGTERM, as a
service does.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path

import uvloop

from deploy.process import tune_interpreter
from services.reporting.app import build
from tests.load.bench_platform import BenchPlatform, ConsumerSettings

STARTED = b"member started"


async def take_part(folder: Path, kafka: str, settings: ConsumerSettings) -> None:
    """Consume until the process is asked to end. Each member has a store of its own."""
    service = build(BenchPlatform(folder, kafka, None, settings))
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    await service.start()
    try:
        sys.stdout.write(f"{STARTED.decode()}\n")
        sys.stdout.flush()
        await asked.wait()
    finally:
        await service.stop()


def main() -> None:
    """Run on the command line."""
    folder, kafka, settings = sys.argv[1:]
    tune_interpreter()
    uvloop.run(take_part(Path(folder), kafka, json.loads(settings)))


if __name__ == "__main__":
    main()
