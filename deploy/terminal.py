"""What every command shares: what it writes to the terminal, and how it fails."""

import asyncio
import io
import json
import os
import sys
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, NoReturn, TextIO, TypeVar

import typer
import uvloop
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
)
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.client import ApiError, UnreachableError
from deploy.demo.story import DemoError
from deploy.process import tune_interpreter
from shared.errors import UpwardError

T = TypeVar("T")

# Without markup: what is shown holds brackets of its own, from files, patterns and people.
out = Console(soft_wrap=False, markup=False)
err = Console(stderr=True, markup=False)

# Of a column whose cells go on in the next line.
_NARROWEST = 12
_LACKS_RIGHT = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
)


def whole(stream: TextIO) -> TextIO:
    """Return a stream that writes all it is given to the same place.

    Where Python does not buffer (PYTHONUNBUFFERED, as in many images), its text layer takes a short
    write for a whole one and drops the rest without an error. Into a full pipe the system may well
    write less than it is given.
    """
    raw = getattr(stream, "buffer", None)
    if not isinstance(raw, io.RawIOBase):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True
    )


def fail(message: str, hint: str | None = None, *, details: Sequence[str] = ()) -> NoReturn:
    """Say what is wrong, where exactly, and what to do; end with exit code 1."""
    # In a log, a line is a line.
    wrap = not err.is_terminal
    err.print(Text.assemble(("error ", "bold red"), message), highlight=False, soft_wrap=wrap)
    for line in (*details, *([hint] if hint else ())):
        err.print(f"      {line}", highlight=False, soft_wrap=wrap)
    raise typer.Exit(1)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the work; turn expected errors into a sentence and a hint."""
    tune_interpreter()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except ApiError as error:
        _refused(error)
    except UnreachableError as error:
        fail(str(error), "Start the platform: upward up; or say where it is: --url, UPWARD_URL.")
    except _LACKS_RIGHT as error:
        user = os.environ.get("UPWARD_KAFKA_SASL_USERNAME", "of this process")
        fail(
            f"The Kafka user {user} lacks a right: {error}",
            "`upward topics rights` prints the services' rights; README has those of the commands.",
        )
    except KafkaConnectionError as error:
        fail(
            f"Kafka can't be reached, or refuses the login: {error}",
            "The log lines above have each server's reason; UPWARD_KAFKA_… say where and who.",
        )
    except (DemoError, UpwardError, KafkaError) as error:
        fail(str(error), "upward doctor tells more.")
    except OSError as error:
        fail(str(error))


def _refused(error: ApiError) -> NoReturn:
    hint = {
        401: "Get a token: upward token --as ROLE, on a cluster from your identity provider.",
        403: "The token needs another role, or this program among its programs.",
    }
    said = str(error)
    # Of a single fault the problem's own detail tells the message already.
    details = [
        each["field"] if each["message"] in said else f"{each['field']}: {each['message']}"
        for each in error.problem.get("errors", [])[:20]
        if f"{each['field']}: {each['message']}" not in said
    ]
    fail(said, hint.get(error.status), details=details)


def show(value: object) -> None:
    """Write JSON to standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    copied: Collection[str] = (),
    to: Console = out,
) -> None:
    """Print a table that cuts nothing off: what is too long goes on in the next line.

    Cells of the columns `copied` stay on one line each, on a terminal too narrow for that as well.
    """
    table = Table()
    least = 1
    for number, header in enumerate(headers):
        width = max(len(header), *(len(row[number]) for row in rows))
        if header in copied:
            table.add_column(header, width=width, no_wrap=True)
            least += width + 3
        else:
            table.add_column(header, overflow="fold")
            least += min(width, _NARROWEST) + 3
    for row in rows:
        table.add_row(*row)
    # A console cuts at its own width, so one that is too narrow is lent another.
    wide = Console(file=to.file, width=least, force_terminal=to.is_terminal, markup=False)
    (wide if to.width < least else to).print(table)
