"""The `upward` command."""

import errno
import json
import os
import sys
import tempfile
import tomllib
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine
from contextlib import AsyncExitStack, aclosing
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from deploy.client import Client, Json
from deploy.demo.run import (
    ROSTER,
    Demo,
    Options,
    free_port,
    headline,
    page_url,
    platform_process,
)
from deploy.doctor import examine
from deploy.local.event_log import export_events, follow_events
from deploy.local.folder import DataFolder
from deploy.terminal import err, fail, out, print_table, run, show, whole
from shared.clock import monotonic
from shared.events.topics import SERVICES, TOPICS
from shared.http.auth import ROLES, LocalIssuer, Role
from shared.ids import keyed_id
from shared.logging import configure_logging, take_over_libraries

if TYPE_CHECKING:
    from deploy.cluster.settings import KafkaSettings
    from deploy.server import Servable

T = TypeVar("T")
P = ParamSpec("P")

app = typer.Typer(
    help="Upward: reverse mentoring for whole companies.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
roster_app = typer.Typer(help="The roster from HR.", no_args_is_help=True)
program_app = typer.Typer(help="Programs.", no_args_is_help=True)
contracts_app = typer.Typer(help="The published event contract.", no_args_is_help=True)
events_app = typer.Typer(help="The event log.", no_args_is_help=True)
topics_app = typer.Typer(help="The topics on Kafka.", no_args_is_help=True)


class _FilesFirst(TyperGroup):
    """A group whose first word may be a file instead of a command: then it is `files`."""

    # Typer brings its own copy of click, whose types have no public name.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["files", *args]
        return super().resolve_command(ctx, args)


match_app = typer.Typer(
    cls=_FilesFirst, help="The matching engine on files, without a service.", no_args_is_help=True
)
dlq_app = typer.Typer(help="Dead letters: what could not be processed.", no_args_is_help=True)
for name, group in {
    "roster": roster_app,
    "program": program_app,
    "contracts": contracts_app,
    "events": events_app,
    "topics": topics_app,
    "dlq": dlq_app,
    "match": match_app,
}.items():
    app.add_typer(group, name=name)

Data = Annotated[
    Path,
    typer.Option(
        "--data", envvar="UPWARD_DATA", file_okay=False, help="Folder of the embedded platform."
    ),
]
MaybeData = Annotated[
    Path | None,
    typer.Option(
        "--data",
        envvar="UPWARD_DATA",
        file_okay=False,
        help="Folder of the embedded platform; else the cluster, where one is set.",
    ),
]
UntilStdinCloses = Annotated[
    bool, typer.Option("--until-stdin-closes", help="End when standard input does.")
]
File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)]
Url = Annotated[str, typer.Option("--url", envvar="UPWARD_URL", help="Where the platform answers.")]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="UPWARD_TOKEN",
        help="Bearer token; else the folder of the embedded platform issues one.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]
Port = Annotated[
    int, typer.Option("--port", envvar="UPWARD_PORT", min=0, max=65535, help="Port on the host.")
]
Host = Annotated[str, typer.Option("--host", envvar="UPWARD_HOST", help="Address to listen on.")]

DATA = Path("data")
URL = "http://127.0.0.1:8080"
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _issuing_folder(data: Path | None) -> DataFolder:
    """Return the folder whose key issues tokens. Fails on a cluster, and where there is no key."""
    if _on_cluster(data):
        fail(
            "UPWARD_TOKEN must be set: a cluster's tokens come from its identity provider.",
            "Or give --token; for the embedded platform, --data.",
        )
    folder = DataFolder(data or DATA)
    if not folder.issuer_key.exists():
        fail(
            f"There is no platform in {folder.path}.",
            "Start one with `upward up`, or give --token or UPWARD_TOKEN.",
        )
    return folder


def local_token(
    data: Path | None, subject: str, *roles: Role, programs: tuple[str, ...] = ()
) -> str:
    """Return a token of the embedded issuer. Fails where there is none."""
    return LocalIssuer(_issuing_folder(data).issuer_key).issue(subject, roles, programs)


def set_log_level() -> None:
    """Log from the level of UPWARD_LOG_LEVEL up. Fails for a level that does not exist."""
    level = os.environ.get("UPWARD_LOG_LEVEL", "WARNING").upper()
    if level not in LOG_LEVELS:
        fail(f"UPWARD_LOG_LEVEL is {level!r}.", f"Choose one of {', '.join(LOG_LEVELS)}.")
    configure_logging(level)
    take_over_libraries(level)


@app.command()
def up(
    data: Data = DATA,
    port: Port = 8080,
    host: Host = "127.0.0.1",
    until_stdin_closes: UntilStdinCloses = False,
) -> None:
    """Run all five services on one port, with an embedded store and event log."""
    _serve(data, host, port, None, until_stdin_closes=until_stdin_closes)


@app.command()
def serve(
    service: str,
    data: MaybeData = None,
    port: Port = 8080,
    host: Host = "127.0.0.1",
    until_stdin_closes: UntilStdinCloses = False,
) -> None:
    """Run one service: on Kafka and MongoDB where their variables are set, else on a folder."""
    if service not in SERVICES:
        fail(f"There is no service {service!r}.", f"Choose one of {', '.join(SERVICES)}.")
    if not _on_cluster(data):
        if data is None:
            # What lost its environment must not begin an empty platform of its own.
            fail(
                "No variable of a cluster is set, and no folder is named.",
                "`upward settings` tells the variables; the embedded platform's folder is --data.",
            )
        _serve(data, host, port, [service], until_stdin_closes=until_stdin_closes)
        return
    from deploy.cluster.platform import ClusterPlatform

    hello = f"Upward {service} on http://{host}:{port}  (Ctrl-C ends)"
    _run_server(
        lambda: ClusterPlatform(service), hello, host, port, until_stdin_closes=until_stdin_closes
    )


def _on_cluster(data: Path | None) -> bool:
    """Return whether the environment names a cluster and no folder was asked for.

    One variable of a cluster is enough, so that the others are missed and not a folder begun.
    Fails where the environment names both.
    """
    from deploy.cluster.settings import is_named

    named, folder = is_named(os.environ), os.environ.get("UPWARD_DATA")
    if named and folder and data in {None, Path(folder)}:
        fail(
            "UPWARD_DATA is set, and so are variables of a cluster.", "Unset the one or the others."
        )
    return data is None and named


def _serve(
    data: Path, host: str, port: int, services: list[str] | None, *, until_stdin_closes: bool
) -> None:
    # Imported here: the services take a second to import, which no other command needs.
    from deploy.local.platform import EmbeddedPlatform

    service = "".join(f" {name}" for name in services or ())
    _run_server(
        lambda: EmbeddedPlatform(DataFolder(data), services=services),
        f"Upward{service} on http://{host}:{port}  data in {data}  (Ctrl-C ends)",
        host,
        port,
        until_stdin_closes=until_stdin_closes,
    )


def _run_server(
    build: Callable[[], "Servable"], hello: str, host: str, port: int, *, until_stdin_closes: bool
) -> None:
    from deploy.server import serve as serve_platform

    set_log_level()

    async def work() -> None:
        try:
            await serve_platform(
                build(),
                host=host,
                port=port,
                until_stdin_closes=until_stdin_closes,
                started=lambda: out.print(hello, highlight=False),
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            fail(f"Port {port} of {host} is in use.", "Choose another with --port.")

    run(work())


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option("--data", file_okay=False, help="Keep everything here.")
    ] = None,
    roster: Annotated[
        Path, typer.Option("--roster", exists=True, dir_okay=False, help="CSV roster to use.")
    ] = ROSTER,
    seed: Annotated[int, typer.Option("--seed", help="Other people, other answers.")] = 1,
    months: Annotated[int, typer.Option("--months", min=2, max=36)] = 12,
    mentors: Annotated[int, typer.Option("--mentors", min=1, help="Juniors.")] = 600,
    mentees: Annotated[int, typer.Option("--mentees", min=1, help="Seniors.")] = 150,
    port: Port = 8080,
    summary: Annotated[
        Path | None, typer.Option("--summary", help="Write KPIs and counts as JSON.")
    ] = None,
    leave: Annotated[bool, typer.Option("--exit", help="End instead of serving.")] = False,
) -> None:
    """Live a year of reverse mentoring on a real organization, through the public APIs alone."""
    set_log_level()
    if summary is not None and not summary.parent.is_dir():
        fail(f"There is no folder {summary.parent} for the summary.", "Make it, or name another.")

    async def work() -> None:
        async with AsyncExitStack() as stack:
            folder = data
            if folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="upward-")))
            chosen = free_port(port)
            options = Options(folder, roster, seed, months, mentors, mentees, chosen)
            client = await stack.enter_async_context(Client(f"http://127.0.0.1:{chosen}"))
            started = monotonic()
            prepared = Demo.prepare(options, client)
            process = await stack.enter_async_context(platform_process(folder, chosen))
            await prepared.live(process, err)
            result = await prepared.summarize(started)
            if summary is not None:
                summary.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
            _print_summary(result)
            if any(result["violations"].values()):
                fail("An invariant does not hold; see violations above.")
            if leave:
                return
            out.print("\nKPI page (Ctrl-C ends):", highlight=False)
            out.print(page_url(chosen, prepared.story), soft_wrap=True, highlight=False)
            await process.wait()

    try:
        run(work())
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _print_summary(summary: Json) -> None:
    table = Table(title=f"{summary['program']} · {summary['roster']} · seed {summary['seed']}")
    table.add_column("KPI")
    table.add_column("Value", justify="right")
    table.add_column("n", justify="right")
    table.add_column("95 % interval", justify="right")
    for row in headline(summary):
        table.add_row(*row)
    out.print(table)
    counts = summary["events"]
    told = ("enrolled", "paired", "session-held", "feedback-submitted", "pair-rotated")
    out.print(
        f"{sum(counts.values()):,} events: "
        + ", ".join(f"{counts.get(item, 0):,} {item}" for item in told),
        highlight=False,
    )
    out.print(
        f"{sum(summary['refused'].values())} attempts by others refused; "
        f"{sum(summary['violations'].values())} invariants violated "
        f"(of {len(summary['violations'])} looked at); {summary['seconds']} s",
        highlight=False,
    )
    out.print("Contains public sector information licensed under the Open Government", style="dim")
    out.print(
        "Licence v3.0. Names are invented; nothing here is a fact about a person.", style="dim"
    )


@app.command()
def token(
    role: Annotated[list[str], typer.Option("--as", help=f"Role: {', '.join(ROLES)}.")],
    subject: Annotated[str, typer.Option("--subject", help="Who; a person_id for people.")] = "cli",
    employee: Annotated[
        str | None, typer.Option("--employee", help="A person by their employee id.")
    ] = None,
    program: Annotated[
        list[str] | None, typer.Option("--program", help="Programs of a coordinator or analyst.")
    ] = None,
    hours: Annotated[int, typer.Option("--hours", min=1, max=720)] = 12,
    data: MaybeData = None,
) -> None:
    """Issue a bearer token from the embedded platform's own key."""
    unknown = [item for item in role if item not in ROLES]
    if unknown:
        fail(f"There is no role {unknown[0]!r}.", f"Choose from {', '.join(ROLES)}.")
    folder = _issuing_folder(data)
    if "participant" in role and employee is None and subject == "cli":
        fail("A participant is a person.", "Say who: --employee ID, or --subject PERSON_ID.")
    if {"coordinator", "analyst"} & set(role) and not program:
        err.print("note: without --program this token opens no program.", highlight=False)
    if employee is not None:
        subject = keyed_id(folder.secret("enrollment", "pseudonyms"), "p", employee)
    roles = tuple(item for item in ROLES if item in role)
    issuer = LocalIssuer(folder.issuer_key)
    sys.stdout.write(
        issuer.issue(subject, roles, tuple(program or ()), timedelta(hours=hours)) + "\n"
    )


@roster_app.command("import")
def import_roster(
    file: File, url: Url = URL, token: Token = None, data: MaybeData = None, as_json: AsJson = False
) -> None:
    """Import a CSV roster; with --json the report tells row by row what could not be used."""
    content = file.read_bytes()
    bearer = token or local_token(data, "cli", "hr")

    async def work() -> Json:
        async with Client(url) as client:
            return await client.upload(bearer, "/enrollment/v1/roster/imports", content, "text/csv")

    with err.status(f"Importing {file.name} ({len(content):,} bytes) …"):
        report = run(work())
    if as_json:
        show(report)
        return
    out.print(
        f"{report['rows']:,} rows: {report['added']:,} added, {report['updated']:,} changed, "
        f"{report['unchanged']:,} unchanged, {report['refused']:,} refused; "
        f"{report['moved_participants']:,} participants moved",
        highlight=False,
    )
    rows = []
    for rule, count in report["counts"].items():
        first = next(n for n in report["notes"] if f"{n['field']}: {n['rule']}" == rule)
        rows.append((rule, f"{count:,}", str(first["row"]), first["message"]))
    if rows:
        print_table(("Noticed", "Rows", "First row", "Meaning"), rows)


@program_app.command("publish")
def publish_program(
    file: File, url: Url = URL, token: Token = None, data: MaybeData = None, as_json: AsJson = False
) -> None:
    """Publish a program from a TOML file, or its next version."""
    try:
        spec = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fail(f"{file} is not TOML: {error}", "An example: deploy/demo/program.toml")
    program_id = spec.pop("program_id", None)
    if not isinstance(program_id, str):
        fail(f"{file} names no program_id.", 'Add a line such as program_id = "reverse-mentoring"')
    bearer = token or local_token(data, "cli", "coordinator", programs=(program_id,))
    body = json.loads(json.dumps(spec, default=str))

    async def work() -> Json:
        async with Client(url) as client:
            return await client.send("PUT", bearer, f"/enrollment/v1/programs/{program_id}", body)

    program = run(work())
    if as_json:
        show(program)
    else:
        out.print(f"{program_id} is published in version {program['version']}.", highlight=False)


@contracts_app.command("export")
def contracts_export() -> None:
    """Write AsyncAPI and the JSON Schemas from the code."""
    from deploy.contracts import ContractBreakError, export_contracts
    from deploy.matching import export_file_schemas

    try:
        changed = export_contracts() + export_file_schemas()
    except ContractBreakError as error:
        for problem in error.problems:
            err.print(problem, highlight=False)
        fail("Nothing was written.", "A breaking change needs a new type beside the old: v2.")
    out.print(f"{len(changed)} files changed.", highlight=False)


@contracts_app.command("check")
def contracts_check() -> None:
    """Compare code and committed contract; fail on drift or a breaking change."""
    from deploy.contracts import check_contracts
    from deploy.matching import check_file_schemas

    problems = check_contracts() + check_file_schemas()
    for problem in problems:
        err.print(problem, highlight=False)
    if problems:
        fail(
            f"{len(problems)} problems.", "Additive? upward contracts export. Breaking? A v2 type."
        )
    out.print("The contract is in step with the code and compatible with all it ever was.")


def _must_have_folder(file: Path) -> None:
    if not file.parent.is_dir():
        fail(f"There is no folder {file.parent}.", "Make it, or name another.")


def _log(data: Path) -> Path:
    log = DataFolder(data).log
    if not log.exists():
        fail(f"There is no event log in {data}.", "Give the platform's folder with --data.")
    return log


@events_app.command("export")
def events_export(file: Path, data: MaybeData = None) -> None:
    """Write every event as CloudEvents JSON, one a line, in log order."""
    _must_have_folder(file)
    with err.status("Exporting …"):
        if _on_cluster(data):
            from deploy.cluster.event_log import export_events as export_from_cluster

            count = run(_of_cluster(export_from_cluster, file))
        else:
            count = export_events(_log(data or DATA), file)
    err.print(f"{count:,} events in {file}", highlight=False)


@events_app.command("tail")
def events_tail(data: MaybeData = None, as_json: AsJson = False) -> None:
    """Show events as they come; Ctrl-C ends. On the cluster, those from now on."""
    try:
        if _on_cluster(data):
            run(_of_cluster(_tail_cluster, as_json))
        else:
            run(_tail(follow_events(_log(data or DATA)), as_json))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


async def _tail_cluster(settings: "KafkaSettings", as_json: bool) -> None:
    from deploy.cluster.event_log import follow_events

    await _tail(follow_events(settings), as_json)


async def _tail(events: AsyncGenerator[Json, None], as_json: bool) -> None:
    async with aclosing(events):
        async for event in events:
            _show_event(event, as_json)


def _show_event(event: Json, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(event) + "\n")
    else:
        sys.stdout.write(
            f"{event['time'][:19]}  {event['type']:<32} {event['subject']:<30}"
            f" v{event['aggregateversion']}\n"
        )
    sys.stdout.flush()


def _known(service: str | None) -> str | None:
    if service is not None and service not in SERVICES:
        msg = f"There is no service {service!r}. Choose one of {', '.join(SERVICES)}."
        raise typer.BadParameter(msg)
    return service


def _known_all(services: list[str] | None) -> list[str] | None:
    for service in services or ():
        _known(service)
    return services


Service = Annotated[str, typer.Argument(help=f"One of {', '.join(SERVICES)}.", callback=_known)]


def _operate(
    url: str, token: str | None, data: Path | None, method: str, path: str, body: Json
) -> Json:
    bearer = token or local_token(data, "cli", "operator")

    async def work() -> Json:
        async with Client(url) as client:
            if method == "GET":
                return await client.get(bearer, path, **body)
            return await client.send(method, bearer, path, body)

    return run(work())


@app.command()
def replay(
    service: Service,
    topic: Annotated[str | None, typer.Option("--topic", help="Only this topic.")] = None,
    since: Annotated[
        datetime | None, typer.Option("--since", help="Only events emitted since (UTC).")
    ] = None,
    url: Url = URL,
    token: Token = None,
    data: MaybeData = None,
) -> None:
    """Publish a service's sent events again; consumers that applied them skip them."""
    own = [name for name, declared in TOPICS.items() if declared.owner == service]
    if topic is not None and topic not in own:
        fail(f"{service} publishes no topic {topic!r}.", f"Choose from {', '.join(own) or 'none'}.")
    body = {"topic": topic, "since": None if since is None else f"{since.isoformat()}Z"}
    report = _operate(url, token, data, "POST", f"/{service}/v1/operations/replay", body)
    out.print(f"{report['events']:,} events will be published again.", highlight=False)


@topics_app.command("apply")
def topics_apply(
    replication: Annotated[
        int | None,
        typer.Option(
            "--replication", min=1, max=9, help="Replicas of new topics' partitions; else three."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
) -> None:
    """Create the contract's topics on Kafka, or bring them to their declaration."""
    from deploy.cluster.topics import Change, TopicsAdmin

    async def work(settings: "KafkaSettings") -> list[Change]:
        async with TopicsAdmin(settings) as admin:
            changes = await admin.plan(list(TOPICS.values()), replication)
            if not dry_run:
                await admin.apply(changes)
            return changes

    changes = run(_of_cluster(work))
    for change in changes:
        wrap = not out.is_terminal
        out.print(f"{change.topic}: {change.said}", highlight=False, soft_wrap=wrap)
    if not changes:
        out.print("All topics are as they are declared.", highlight=False)
    elif dry_run:
        out.print(f"{len(changes)} changes; nothing was done.", highlight=False)
    else:
        ours = sum(not change.by_hand for change in changes)
        out.print(f"Done: {ours}; for you to do: {len(changes) - ours}.", highlight=False)


@topics_app.command("rights")
def topics_rights(
    user: Annotated[
        str, typer.Option("--user", help="Names of the services' users; `{service}` stands for it.")
    ] = "upward-{service}",
) -> None:
    """Print the rights that the services' users need, as options of Kafka's kafka-acls.sh."""
    from deploy.cluster.rights import rights

    for right in rights():
        name = user.replace("{service}", right.service)
        out.print(right.options(name), highlight=False, soft_wrap=True)


@app.command()
def migrate(
    services: Annotated[
        list[str] | None, typer.Argument(help="Which services; else all.", callback=_known_all)
    ] = None,
) -> None:
    """Create each service's collections and indexes in MongoDB; at deploy, before the services."""
    from deploy.cluster.migration import migrate as migrate_service

    done = [line for name in services or SERVICES for line in run(migrate_service(name))]
    for line in done:
        out.print(line, highlight=False, soft_wrap=True)
    if not done:
        out.print("Every collection and index is there.", highlight=False)


@app.command()
def settings() -> None:
    """Print every environment variable of cluster mode, as README has them."""
    from deploy.cluster.settings import table

    sys.stdout.write(table() + "\n")


async def _of_cluster(
    work: Callable[Concatenate["KafkaSettings", P], Coroutine[Any, Any, T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    from deploy.cluster.settings import KafkaSettings, load

    return await work(load(KafkaSettings), *args, **kwargs)


@app.command()
def rebuild(data: MaybeData = None) -> None:
    """Have reporting read the whole event log again; it must not run meanwhile."""
    if _on_cluster(data):
        _rebuild_cluster()
        return
    from deploy.local.rebuild import rebuild_reporting

    folder = data or DATA
    _log(folder)
    count = run(rebuild_reporting(DataFolder(folder)))
    out.print(
        f"Reporting reads {count} partitions from their beginning at the next `upward up`.",
        highlight=False,
    )


def _rebuild_cluster() -> None:
    from deploy.cluster.rebuild import rebuild_reporting

    beginnings = run(rebuild_reporting())
    out.print(
        f"Reporting reads {len(beginnings)} partitions from their beginning when it starts.",
        highlight=False,
    )
    for topic in sorted({place.topic for place, offset in beginnings.items() if offset}):
        err.print(
            f"note: the first records of {topic} are no longer on Kafka. Figures of that time come"
            f" back only by `upward replay {TOPICS[topic].owner} --topic {topic}`, now that this is"
            " done.",
            highlight=False,
            soft_wrap=True,
        )


@match_app.command("files")
def match_files(
    pool: File,
    policy: Annotated[Path, typer.Option("--policy", exists=True, dir_okay=False, help="TOML.")],
    pairs: Annotated[Path, typer.Option("--out", dir_okay=False, help="The pairs, NDJSON.")],
    report: Annotated[Path, typer.Option("--report", dir_okay=False, help="The rest, JSON.")],
    seed: Annotated[int, typer.Option("--seed", help="What chooses among equals.")] = 1,
    limit: Annotated[
        float | None, typer.Option("--limit", min=0, help="Seconds; then the best so far.")
    ] = None,
    threshold: Annotated[
        int, typer.Option("--threshold", min=3, help="Smaller groups are hidden in the report.")
    ] = 5,
    what_if: Annotated[
        bool, typer.Option("--what-if", help="Also with each rule relaxed by a step.")
    ] = False,
) -> None:
    """Match a pool of candidates (NDJSON) under a policy, as a round would; POOL may come first."""
    from deploy.matching import FileError, match
    from services.matching.engine.watch import Progress, Watch

    _must_have_folder(pairs)
    _must_have_folder(report)
    try:
        with err.status("Reading …") as status:

            def hear(progress: Progress) -> None:
                gap = "" if progress.gap is None else f", gap {progress.gap:.3%}"
                status.update(f"{progress.done:.0%}, {progress.stage}{gap} …")

            watch = Watch(hear, limit)
            told = match(
                pool, policy, seed, pairs, report, watch=watch, threshold=threshold, relax=what_if
            )
    except FileError as error:
        fail(str(error), "services/matching/README.md has the format.")
    err.print(
        f"{told.matched.mentees:,} of {told.pool.mentees:,} mentees matched,"
        f" {told.objective:,} points, gap {told.gap:.3%}; pairs in {pairs}",
        highlight=False,
    )
    for other in told.what_if:
        change = ", ".join(
            f"{name} = {str(value).lower()}" for name, value in other.changes.items()
        )
        more = other.matched.mentees - told.matched.mentees
        err.print(f"With {change}: {more:+,} mentees, {other.objective:,} points", highlight=False)


@match_app.command("pool")
def match_pool(
    roster: File,
    pool: Annotated[Path, typer.Option("--out", dir_okay=False, help="The pool, NDJSON.")],
    mentors: Annotated[int, typer.Option("--mentors", min=0, help="How many, at most.")] = 600,
    mentees: Annotated[int, typer.Option("--mentees", min=0, help="How many, at most.")] = 150,
    seed: Annotated[int, typer.Option("--seed", help="What draws people and skills.")] = 1,
) -> None:
    """Make a pool of a roster's people: their lines and places are real, their skills drawn."""
    from deploy.matching import FileError, make_pool

    _must_have_folder(pool)
    try:
        count = make_pool(roster, pool, mentors=mentors, mentees=mentees, seed=seed)
    except FileError as error:
        fail(str(error), None)
    err.print(f"{count:,} candidates in {pool}", highlight=False)


@match_app.command("round")
def match_round(
    log: File,
    round_id: Annotated[str, typer.Option("--round", help="The round's id.")],
    pool: Annotated[Path, typer.Option("--out", dir_okay=False, help="Its pool, NDJSON.")],
    policy: Annotated[Path, typer.Option("--policy", dir_okay=False, help="Its policy, TOML.")],
) -> None:
    """Rebuild what a round was run on out of an export of the event log, to run it again."""
    from deploy.matching import FileError
    from deploy.past_round import past_round, policy_toml

    _must_have_folder(pool)
    _must_have_folder(policy)
    try:
        past = past_round(log, round_id)
    except FileError as error:
        fail(str(error), "`upward events export` writes the log.")
    pool.write_text("".join(one.model_dump_json() + "\n" for one in past.pool))
    policy.write_text(policy_toml(past.policy))
    err.print(
        f"{len(past.pool):,} candidates in {pool}; the round's seed was {past.completed.seed}",
        highlight=False,
    )
    if not past.proven:
        fail(
            "This is not quite the pool that the round saw: its digest differs.",
            f"The log does not tell who declined a proposal; {past.declined} were before it.",
        )
    err.print("The digest is the round's: it saw exactly these people and this policy.")


@dlq_app.command("list")
def dlq_list(
    service: Annotated[str | None, typer.Argument(callback=_known)] = None,
    url: Url = URL,
    token: Token = None,
    data: MaybeData = None,
    as_json: AsJson = False,
) -> None:
    """List open dead letters, of one service or all."""
    letters = []
    for name in [service] if service else SERVICES:
        path = f"/{name}/v1/operations/dead-letters"
        found = _operate(url, token, data, "GET", path, {"limit": 200})
        letters += [{"service": name, **letter} for letter in found["items"]]
    if as_json:
        show(letters)
        return
    if not letters:
        out.print("No open dead letters.")
        return
    rows = [
        (
            letter["service"],
            letter["id"],
            f"{letter['topic']}/{letter['partition']}/{letter['offset']}",
            letter["reason"],
            letter["first_at"][:19].replace("T", " "),
        )
        for letter in letters
    ]
    headers = ("Service", "Id", "Where", "Reason", "Since")
    print_table(headers, rows, copied=("Service", "Id"))


@dlq_app.command("show")
def dlq_show(
    service: Service, letter_id: str, url: Url = URL, token: Token = None, data: MaybeData = None
) -> None:
    """Show a dead letter as it was received; bytes in base64."""
    show(_operate(url, token, data, "GET", _letter(service, letter_id), {}))


@dlq_app.command("retry")
def dlq_retry(
    service: Service, letter_id: str, url: Url = URL, token: Token = None, data: MaybeData = None
) -> None:
    """Apply a dead letter now."""
    _operate(url, token, data, "POST", f"{_letter(service, letter_id)}/retry", {})
    out.print(f"{letter_id} is applied.", highlight=False)


@dlq_app.command("drop")
def dlq_drop(
    service: Service, letter_id: str, url: Url = URL, token: Token = None, data: MaybeData = None
) -> None:
    """Give a dead letter up for good."""
    _operate(url, token, data, "POST", f"{_letter(service, letter_id)}/drop", {})
    out.print(f"{letter_id} is dropped.", highlight=False)


def _letter(service: str, letter_id: str) -> str:
    return f"/{service}/v1/operations/dead-letters/{letter_id}"


@app.command()
def bench(
    name: str,
    events: Annotated[
        int, typer.Option("--events", min=10_000, help="Of `pipeline`: how long the backlog is.")
    ] = 60_000,
    stage: Annotated[
        list[str] | None,
        typer.Option("--stage", help="Of `pipeline` and `matching`: only this; may be repeated."),
    ] = None,
    soak: Annotated[
        bool, typer.Option("--soak", help="Of `pipeline`: grow to a million events.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure: `bus` is the embedded bus beside bare SQLite inserts of the same bytes.

    `pipeline` is the load harness, on a real Kafka broker, `matching` the engine beside other
    solvers; half an hour and more each.
    """
    if name == "pipeline":
        _bench_pipeline(events, stage, soak, as_json)
        return
    if name == "matching":
        _bench_matching(stage, as_json)
        return
    from deploy.bench.bus import bench_bus

    if name != "bus":
        fail(f"There is no benchmark {name!r}.", "Choose bus, pipeline or matching.")
    with err.status("Measuring …"):
        result = run(bench_bus())
    if as_json:
        show(result.model_dump(mode="json"))
        return
    table = Table("Figure", "Value")
    for field, value in result.model_dump().items():
        table.add_row(field, f"{value:,.4g}" if isinstance(value, float) else str(value))
    out.print(table)


def _must_be_known(stages: list[str] | None, known: Collection[str]) -> None:
    if unknown := sorted(set(stages or ()) - set(known)):
        fail(f"There is no stage {unknown[0]!r}.", f"Choose from {', '.join(known)}.")


def _bench_matching(stages: list[str] | None, as_json: bool) -> None:
    try:
        from tests.load.matching.bench import DEFAULT, STAGES, bench_matching
        from tests.load.report import print_stages
    except ModuleNotFoundError:
        fail("This benchmark is not part of the package.", "Run it in a checkout: make bench")
    _must_be_known(stages, STAGES)
    with err.status("Measuring …") as status:
        measured = bench_matching(stages or DEFAULT, status.update)
    if as_json:
        show(measured.model_dump(mode="json"))
    else:
        print_stages(measured.stages, out)


def _bench_pipeline(events: int, stages: list[str] | None, soak: bool, as_json: bool) -> None:
    try:
        from tests.load.pipeline import STAGES, Options, bench_pipeline
        from tests.load.report import print_bench
        from tests.support.servers import ServerError
    except ModuleNotFoundError:
        fail("This benchmark is not part of the package.", "Run it in a checkout: make bench")
    wanted = [each for each in STAGES if stages is None or each in stages]
    _must_be_known(stages, STAGES)
    options = Options(events=events, stages=tuple(wanted), soak=soak)
    with err.status("Measuring …") as status:
        try:
            result = run(bench_pipeline(options, lambda said: status.update(f"{said} …")))
        except ServerError as error:
            fail(str(error), "make bench")
    if as_json:
        show(result.model_dump(mode="json"))
    else:
        print_bench(result, out)


@app.command()
def doctor(
    data: MaybeData = None, url: Url = URL, token: Token = None, as_json: AsJson = False
) -> None:
    """Look for what is wrong, and say what to do about it."""
    if _on_cluster(data):
        from deploy.cluster.doctor import examine as examine_cluster

        findings = run(examine_cluster(url, token))
    else:
        findings = run(examine(data or DATA, url, token))
    if as_json:
        show([finding.model_dump() for finding in findings])
    else:
        style = {"ok": "green", "note": "yellow", "wrong": "red"}
        rows = [
            (Text(each.state, style=style[each.state]), each.what, each.found, each.advice)
            for each in findings
        ]
        print_table(("", "What", "Found", "What to do"), rows, copied=("",))
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    sys.stdout, sys.stderr = whole(sys.stdout), whole(sys.stderr)
    app()


if __name__ == "__main__":
    main()
