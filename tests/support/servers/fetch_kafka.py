"""Fetches the Kafka distribution that a lock names; runs in the servers' own environment."""

import hashlib
import os
import shutil
import sys
from pathlib import Path

import jgo  # type: ignore[import-not-found]  # installed beside the servers, not in the project
from jgo.maven import MavenContext  # type: ignore[import-not-found]  # the same

WANTED = ("org.apache.kafka:kafka_2.13:4.3.1", "org.slf4j:slf4j-simple:1.7.36")
"""What the lock is made from; the second one writes the broker's log to its standard error."""


def write_lock(lock: Path, cache: Path) -> None:
    """Resolve WANTED anew and write every artifact with its checksum to `lock`."""
    os.environ["M2_REPO"] = str(cache)
    artifacts = {artifact for coordinate in WANTED for artifact in jgo.resolve(coordinate)}
    lines = [
        f"{artifact.groupId}:{artifact.artifactId}:{artifact.version} {_sha256(artifact.resolve())}"
        for artifact in artifacts
    ]
    lock.write_text("\n".join(sorted(lines)) + "\n")


def fetch(lock: Path, cache: Path, folder: Path) -> None:
    """Bring exactly the locked jars into `folder`; do nothing where they are there.

    Raises SystemExit with a sentence when a jar is not the locked one or cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    maven = MavenContext(repo_cache=cache, timeout=60)
    locked = set()
    for line in lock.read_text().splitlines():
        coordinate, sha256 = line.split()
        group, artifact, version = coordinate.split(":")
        jar = folder / f"{artifact}-{version}.jar"
        locked.add(jar)
        if jar.exists() and _sha256(jar) == sha256:
            continue
        try:
            fetched = maven.project(group, artifact).at_version(version).artifact().resolve()
        except Exception as error:
            sys.exit(f"{coordinate} could not be fetched: {error}")
        if (actual := _sha256(fetched)) != sha256:
            fetched.unlink()
            sys.exit(f"{coordinate} is not what {lock.name} says: its sha256 is {actual}.")
        shutil.move(fetched, jar)
    # The broker takes every jar that lies there: those of another version would mix with these.
    for jar in set(folder.glob("*.jar")) - locked:
        jar.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """`fetch_kafka.py LOCK ROOT` fetches into ROOT/kafka; with `--write` it writes LOCK."""
    lock, root = Path(sys.argv[1]), Path(sys.argv[2])
    if "--write" in sys.argv[3:]:
        write_lock(lock, root / "maven")
    fetch(lock, root / "maven", root / "kafka")
    shutil.rmtree(root / "maven", ignore_errors=True)


if __name__ == "__main__":
    main()
