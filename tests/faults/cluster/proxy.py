"""A TCP proxy in a process of its own, which cuts connections as a broken network would.

`python -m tests.faults.cluster.proxy PORT:TARGET…` takes lines `PORT MODE` on standard input.
"""

import asyncio
import contextlib
import subprocess
import sys
from typing import Literal, cast, get_args

Mode = Literal["open", "cut", "deaf", "mute", "refuse"]
"""What a link does. deaf: clients hear nothing; mute: servers hear nothing; cut: both.

What was sent meanwhile is delivered afterwards, as TCP does. refuse: connections are closed.
"""

_CHUNK = 64 * 1024


class Link:
    """One listening port and the server behind it."""

    def __init__(self, port: int, target: int) -> None:
        self._port = port
        self._target = target
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._refuses = False
        self._writers: set[asyncio.StreamWriter] = set()
        self.become("open")

    def become(self, mode: Mode) -> None:
        """Change the mode at once, for open connections, too."""
        for gate, shut in ((self._up, ("cut", "mute")), (self._down, ("cut", "deaf"))):
            if mode in shut:
                gate.clear()
            else:
                gate.set()
        self._refuses = mode == "refuse"
        if self._refuses:
            for writer in self._writers:
                writer.transport.abort()

    async def listen(self) -> asyncio.Server:
        """Start to listen on loopback."""
        return await asyncio.start_server(self._serve, "127.0.0.1", self._port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        pumps = [
            asyncio.create_task(_pump(reader, far_writer, self._up)),
            asyncio.create_task(_pump(far_reader, writer, self._down)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        self._writers -= both
        for end in both:
            end.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            await gate.wait()
            writer.write(data)
            await writer.drain()


async def _run(pairs: list[str]) -> None:
    links = {port: Link(int(port), int(target)) for port, target in (p.split(":") for p in pairs)}
    for link in links.values():
        await link.listen()
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin
    )
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    while line := (await stdin.readline()).decode():
        port, mode = line.split()
        assert mode in get_args(Mode), mode
        links[port].become(cast("Mode", mode))
        sys.stdout.write("done\n")
        sys.stdout.flush()


class Proxy:
    """The proxy's process; it ends with its owner."""

    def __init__(self, targets: dict[int, int]) -> None:
        """Listen on each key for the server on the value's port; return when it does."""
        self._ports = tuple(targets)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.faults.cluster.proxy"),
                *(f"{port}:{target}" for port, target in targets.items()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._hear()

    def become(self, port: int, mode: Mode) -> None:
        """Change a port's mode; it is so when this returns."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{port} {mode}\n")
        self._process.stdin.flush()
        self._hear()

    def heal(self) -> None:
        """Open all ports."""
        for port in self._ports:
            self.become(port, "open")

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "the proxy ended"


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1:]))
