"""Running the demo as a user does, in processes of its own, and checking what it left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from deploy.demo.run import free_port

ROOT = Path(__file__).parents[2]


@dataclass
class DemoRun:
    """A demo on a data folder; small by default, so that it takes seconds."""

    folder: Path
    seed: int = 1
    months: int = 2
    mentors: int = 24
    mentees: int = 10
    roster: Path | None = None
    port: int = field(default_factory=lambda: free_port(0))
    seconds: float = 0.0  # how long the whole of it took, where somebody measured it

    @property
    def data(self) -> Path:
        """The demo's data folder."""
        return self.folder / "data"

    @property
    def summary_file(self) -> Path:
        """Where the summary is written."""
        return self.folder / "summary.json"

    def start(self, **env: str) -> "subprocess.Popen[bytes]":
        """Start the demo in a process group of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments = [
            *("demo", "--exit", "--data", str(self.data), "--summary", str(self.summary_file)),
            *("--seed", str(self.seed), "--months", str(self.months)),
            *(
                "--mentors",
                str(self.mentors),
                "--mentees",
                str(self.mentees),
                "--port",
                str(self.port),
            ),
        ]
        if self.roster is not None:
            arguments += ["--roster", str(self.roster)]
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", *arguments],
            cwd=ROOT,
            env={**os.environ, **env, "COLUMNS": "100"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_until_serving(self, process: "subprocess.Popen[bytes]", seconds: float = 60) -> None:
        """Return when the demo's platform takes requests; fail if the demo ends before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert process.poll() is None, "the demo ended before it was at work"
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError("the demo's platform did not get ready")

    def finish(self, seconds: float = 240) -> dict[str, Any]:
        """Run the demo to its end, which must be a good one, and return the summary."""
        process = self.start()
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            kill_group(process)
            said, _ = process.communicate()
            raise AssertionError(f"the demo did not end:\n{said.decode()[-3000:]}") from None
        assert process.returncode == 0, said.decode()[-3000:]
        summary: dict[str, Any] = json.loads(self.summary_file.read_bytes())
        return summary

    def events(self) -> Path:
        """Export the events as `upward events export` does."""
        target = self.folder / "events.ndjson"
        subprocess.run(
            [
                *(sys.executable, "-m", "deploy.cli", "events", "export"),
                *(str(target), "--data", str(self.data)),
            ],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        return target

    def check(self, *, redelivery: bool = False) -> None:
        """Let the independent checker compare events and summary."""
        command = [sys.executable, "-m", "tests.checker", str(self.events())]
        command.append(str(self.summary_file))
        if redelivery:
            command.append("--allow-redelivery")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process and all it started, at once and without a word, as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)


def figures(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the KPI rows, in a fixed order."""
    rows: list[dict[str, Any]] = summary["kpis"]
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))
