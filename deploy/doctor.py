"""What `upward doctor` looks at: the machine, the data folder, and a running platform."""

import shutil
import sqlite3
import sys
from pathlib import Path

from deploy.client import Client, UnreachableError
from deploy.findings import Finding, flows
from deploy.local.folder import DataFolder, DataFolderInUseError
from shared.events.topics import SERVICES
from shared.http.auth import LocalIssuer

_LOW_DISK_BYTES = 1024**3


async def examine(data: Path, url: str, token: str | None) -> list[Finding]:
    """Return the findings; never raises for what it finds. Without a token, the folder's own."""
    findings = [_python(), _sqlite(), _disk(data)]
    folder = DataFolder(data)
    if not data.exists():
        findings.append(
            Finding(
                state="note",
                what="data folder",
                found=f"{data} does not exist",
                advice="`upward up` makes it; or name another with --data.",
            )
        )
        return findings
    findings.append(_lock(folder))
    findings += [_file(folder.log), *(_file(folder.store(name)) for name in SERVICES)]
    findings += await _platform(folder, url, token)
    return findings


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    return Finding(
        state="ok" if good else "wrong",
        what="Python",
        found=version,
        advice="" if good else "Upward needs Python 3.11 or newer.",
    )


def _sqlite() -> Finding:
    good = sqlite3.sqlite_version_info >= (3, 35)
    return Finding(
        state="ok" if good else "wrong",
        what="SQLite",
        found=sqlite3.sqlite_version,
        advice="" if good else "The embedded store needs SQLite 3.35 or newer.",
    )


def _disk(data: Path) -> Finding:
    place = next(path for path in (data, *data.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    good = free > _LOW_DISK_BYTES
    return Finding(
        state="ok" if good else "wrong",
        what="disk",
        found=f"{free / 1024**3:.1f} GiB free",
        advice="" if good else "Make room: without it commits are refused.",
    )


def _lock(folder: DataFolder) -> Finding:
    try:
        folder.lock().close()
    except DataFolderInUseError as error:
        return Finding(state="ok", what="data folder", found=error.detail)
    return Finding(
        state="note",
        what="data folder",
        found=f"{folder.path} is not in use",
        advice="`upward up` runs the platform on it.",
    )


def _file(path: Path) -> Finding:
    if not path.exists():
        return Finding(state="note", what=path.name, found="not there yet")
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        verdict = str(error)
    good = verdict == "ok"
    return Finding(
        state="ok" if good else "wrong",
        what=path.name,
        found=f"{path.stat().st_size / 1024**2:.1f} MiB, {verdict}",
        advice="" if good else "Stop the platform and restore this file from a backup.",
    )


async def _platform(folder: DataFolder, url: str, token: str | None) -> list[Finding]:
    async with Client(url) as client:
        try:
            status, text = await client.text("/readyz")
        except UnreachableError:
            return [
                Finding(
                    state="note",
                    what="platform",
                    found=f"nothing answers at {url}",
                    advice="`upward up` starts it.",
                )
            ]
        findings = [
            Finding(
                state="ok" if status == 200 else "wrong",
                what="readiness",
                found=text.strip(),
                advice="" if status == 200 else "Read the services' log for the reason.",
            )
        ]
        if token is None and folder.issuer_key.exists():
            token = LocalIssuer(folder.issuer_key).issue("doctor", ("operator",))
        return findings if token is None else findings + await flows(client, token)
