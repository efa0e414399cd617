"""Files that are made once and must never change: keys and secrets."""

import contextlib
import os
import secrets
from pathlib import Path


def keep_file(path: Path, content: bytes) -> bytes:
    """Return the file's content; make the file, readable by its owner alone, if there is none.

    Of several processes that make it at once one wins, and all return its content. A power cut
    leaves the whole file or none.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        # A link fails where somebody was faster; a rename would put our content over theirs.
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
        partial.unlink()
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    return path.read_bytes()
