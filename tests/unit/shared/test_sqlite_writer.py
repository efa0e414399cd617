"""The thread that writes a SQLite store."""

import sqlite3
from functools import partial
from pathlib import Path

from shared.store.sqlite_writer import Writer, connect


def _insert(connection: sqlite3.Connection, rows: int) -> None:
    connection.executemany("INSERT INTO notes VALUES (?)", [("x" * 100,)] * rows)


async def test_what_was_committed_is_copied_to_the_file_once_it_is_much(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    connection = connect(path)
    connection.execute("CREATE TABLE notes (text TEXT)")
    writer = Writer(connection, "notes")
    try:
        sizes = []
        for rows in (999, 1):
            await writer.submit(partial(_insert, rows=rows))
            await writer.submit(lambda _: None)  # by then it is done with what comes after a commit
            sizes.append(path.stat().st_size)
    finally:
        await writer.close()
    small, large = sizes
    assert small < 100_000 < large
