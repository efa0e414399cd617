"""Apache Kafka for tests: one combined KRaft node, or three for leader faults."""

import contextlib
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.support.servers.guard import Guard
from tests.support.servers.process import TOOLS, ServerError, ServerProcess, free_ports

_JARS = TOOLS / "kafka"
# A broker says so when it is registered, caught up and no longer fenced: its port opens earlier.
_STARTED = b"Kafka Server started"
_JAVA = [
    "java",
    # Small, and quick to start: tests share two cores with what they test.
    *("-Xmx400m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"),
    *("-cp", str(_JARS / "*")),
]


class KafkaNode(ServerProcess):
    """One combined node, broker and controller, with its data in a folder of its own."""

    def __init__(self, folder: Path, number: int, settings: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.number = number
        self.settings_file = folder / "server.properties"
        self.settings_file.write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
        self._said_before = 0
        command = [*_JAVA, "kafka.Kafka", str(self.settings_file)]
        super().__init__(f"Kafka node {number}", command, folder / "kafka.log", self._has_started)

    def launch(self) -> None:
        """Start the process without waiting for it; see `wait_until_it_answers`."""
        self._said_before = self.log.stat().st_size if self.log.exists() else 0
        super().launch()

    def _has_started(self) -> bool:
        return _STARTED in self.log.read_bytes()[self._said_before :]


class KafkaCluster:
    """A cluster on loopback; with three nodes all is replicated to three and two must be in sync.

    Its methods block. `settings` are the nodes' own, over the ones here; `{node}` in a value
    becomes the node's number, so that `log.dirs` may lie elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 1,
        settings: Mapping[str, str] | None = None,
        guard: Guard | None = None,
    ) -> None:
        """With a guard, clients need TLS, a password and rights; of one node only.

        Raises ServerError when the broker's files or Java are not there.
        """
        if not _JARS.is_dir() or shutil.which("java") is None:
            msg = "there is no Kafka broker: it takes Java 17, and `make test-cluster` fetches it"
            raise ServerError(msg)
        ports = free_ports(3 * nodes)
        self._ports, controllers, internal = ports[:nodes], ports[nodes : 2 * nodes], ports[-1]
        self._guard = guard
        numbers = range(1, nodes + 1)
        voters = ",".join(
            f"{number}@127.0.0.1:{port}" for number, port in zip(numbers, controllers, strict=True)
        )
        self.nodes = [
            KafkaNode(
                folder / f"kafka-{number}",
                number,
                {
                    **_settings(nodes),
                    **_addresses(number, port, controller, voters),
                    "log.dirs": str(folder / f"kafka-{number}" / "data"),
                    **(guard.settings(port, controller, internal) if guard is not None else {}),
                    **{k: v.replace("{node}", str(number)) for k, v in (settings or {}).items()},
                },
            )
            for number, port, controller in zip(numbers, self._ports, controllers, strict=True)
        ]
        self._formatted = False

    @property
    def replication(self) -> int:
        """How many copies of every partition there should be."""
        return len(self.nodes)

    @property
    def bootstrap(self) -> str:
        """The addresses of all nodes, as clients want them."""
        return ",".join(f"127.0.0.1:{port}" for port in self._ports)

    def start(self) -> None:
        """Start all nodes, on the data of their last run, and wait until they answer.

        Raises ServerError with the log's end of a node that did not start.
        """
        if not self._formatted:
            self._format()
            self._formatted = True
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_until_it_answers()

    def kill(self) -> None:
        """End all nodes at once, as a power cut would."""
        for node in self.nodes:
            node.kill()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self.kill)
            self.start()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _format(self) -> None:
        cluster_id = uuid.uuid4().hex[:22]
        users = [] if self._guard is None else self._guard.format_options()
        for node in self.nodes:
            done = subprocess.run(
                [
                    *(*_JAVA, "kafka.tools.StorageTool", "format"),
                    *("--cluster-id", cluster_id, "--config", str(node.settings_file)),
                    *users,
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                msg = f"the data folder of {node.name} could not be prepared:\n{done.stderr}"
                raise ServerError(msg)


def _addresses(number: int, port: int, controller: int, voters: str) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": str(number),
        "controller.quorum.voters": voters,
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    }


def _settings(nodes: int) -> dict[str, str]:
    copies, in_sync = str(nodes), str(max(1, nodes - 1))
    return {
        "auto.create.topics.enable": "false",
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": "5",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        # Tests wait neither for members that might still come nor long for a broker that died.
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "300",
    }
