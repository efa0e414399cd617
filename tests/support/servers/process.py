"""A server in a process of its own: started, killed, paused and ended by tests."""

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

TOOLS = Path(__file__).parents[3] / ".cluster"
"""What `make .cluster/.installed` puts into the checkout."""

_START_SECONDS = 90
_TERMINATE_SECONDS = 30
_TAIL_BYTES = 4000


class ServerError(Exception):
    """A server is not there, did not start or cannot do what was asked."""


class ServerProcess:
    """One server; it never outlives the process that started it by more than a moment.

    The methods block. `answers` is asked until it is true after every start; its exceptions are
    the test's own faults and pass through.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        answers: Callable[[], bool],
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.exit_code: int | None = None
        """What the process that was last asked to end has ended with; None if it did not end."""
        self._command = command
        self._answers = answers
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The server's process id. Raises ServerError when it does not run."""
        if self._process is None:
            msg = f"{self.name} does not run"
            raise ServerError(msg)
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there, paused or not."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process without waiting for its answer. Raises ServerError if it runs."""
        if self.running:
            msg = f"{self.name} runs already"
            raise ServerError(msg)
        self._forget()
        with self.log.open("ab") as log:
            # In a group of its own: a Ctrl-C for the tests must not end it before they say so.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )
        # The guard's input ends when this process does, however it ends. The kernel's own signal
        # for that (PR_SET_PDEATHSIG) comes already when the starting thread ends.
        self._guard = subprocess.Popen(
            ["sh", "-c", f"cat >/dev/null; kill -9 -{self._process.pid}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_until_it_answers(self) -> None:
        """Return when the server takes requests. Raises ServerError with the log's tail."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if not self.running:
                msg = f"{self.name} ended at its start"
                break
            if self._answers():
                return
            time.sleep(0.05)
        else:
            msg = f"{self.name} did not answer within {_START_SECONDS} seconds"
            self.kill()
        raise ServerError(f"{msg}; the end of {self.log}:\n{self.log_tail()}")

    def start(self) -> None:
        """Start the process, on the data of its last run, and wait until it answers."""
        self.launch()
        self.wait_until_it_answers()

    def kill(self) -> None:
        """End the process as a power cut would; it may be paused, or gone already."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self._forget()

    def pause(self) -> None:
        """Stop the process where it is: its connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        self._signal(signal.SIGCONT)

    def terminate(self) -> float:
        """Ask the process to end and return the seconds that it took; see `exit_code`.

        One that does not end within half a minute is killed.
        """
        started = time.monotonic()
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_TERMINATE_SECONDS)
            self.exit_code = self._process.poll()
        self.kill()
        return time.monotonic() - started

    def log_tail(self) -> str:
        """Return the end of what the server has said."""
        return self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _forget(self) -> None:
        self._process = None
        guard, self._guard = self._guard, None
        if guard is not None:
            # Ended before its input does, so that it kills nobody who got the same id since.
            os.killpg(guard.pid, signal.SIGKILL)
            guard.communicate()


def free_ports(count: int) -> list[int]:
    """Return different ports that are free on loopback now.

    None of those that the kernel gives clients: a server that is started again finds its port.
    """
    with contextlib.ExitStack() as probes:
        ports: list[int] = []
        while len(ports) < count:
            probe = probes.enter_context(socket.socket())
            port = next(_PORTS)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(port)
        return ports


def _ports() -> Iterator[int]:
    """Yield ports again and again, each process its own first."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    mine = list(_PORT_RANGE[worker % _WORKERS :: _WORKERS])
    start = random.randrange(len(mine))
    return itertools.cycle(mine[start:] + mine[:start])


_PORT_RANGE = range(20_000, 32_000)
_WORKERS = 4
_PORTS = _ports()
