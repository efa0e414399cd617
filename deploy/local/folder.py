"""The embedded platform's folder: which file is what, its keys, and the lock on it."""

import fcntl
import os
import secrets
from pathlib import Path
from typing import IO

from shared.durable import keep_file
from shared.errors import UpwardError


class DataFolderInUseError(UpwardError):
    """Another process runs on the same data folder."""

    code = "data_folder_in_use"


class DataFolder:
    """Where the embedded platform keeps everything: events, documents, keys, its clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "events.db"
        self.clock = path / "clock"
        self.issuer_key = path / "keys" / "issuer.pem"

    def store(self, service: str) -> Path:
        """Return the file of a service's store."""
        return self.path / f"{service}.db"

    def secret(self, service: str, name: str) -> bytes:
        """Return a secret of 32 bytes, made on first use."""
        return self.keep_secret(service, name, secrets.token_bytes(32))

    def keep_secret(self, service: str, name: str, value: bytes) -> bytes:
        """Keep a secret unless there is one, which never changes; return the one that is kept."""
        return keep_file(self.path / "keys" / f"{service}-{name}.key", value)

    def lock(self) -> IO[str]:
        """Hold the folder for this process until the file is closed or the process ends.

        Raises DataFolderInUseError.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = (self.path / "lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            detail = f"{self.path} is in use by process {holder}; stop it or choose another folder."
            raise DataFolderInUseError(detail) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        return file
