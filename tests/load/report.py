"""Printing a run of the benchmark."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.load.measure import Figure, Stage
from tests.load.pipeline import PipelineBench

_COSTS = 15


def print_bench(bench: PipelineBench, out: Console) -> None:
    """Print every figure beside its reference, with its budget and whether it is met."""
    machine = bench.machine
    out.print(
        f"{machine.cores} cores (load {machine.load_before:.1f} at the start), "
        f"Python {machine.python}, {machine.system}\n{machine.kafka}; {machine.mongodb}\n"
        f"aiokafka {machine.aiokafka}, pydantic {machine.pydantic}; {bench.seconds:,.0f} s; "
        f"medians of {bench.options.repetitions} runs in turns",
        highlight=False,
    )
    print_stages(bench.stages, out)


def print_stages(stages: Iterable[Stage], out: Console) -> None:
    """Print each stage's figures."""
    for stage in stages:
        _print_stage(stage, out)


def _print_stage(stage: Stage, out: Console) -> None:
    out.print(Text.assemble("\n", (stage.name, "bold"), f": {stage.asks}"), highlight=False)
    if stage.figures:
        table = Table("What", "Measured", "Reference", "", "Ratio", "Budget", "")
        for figure in stage.figures:
            table.add_row(*_row(figure))
        out.print(table)
    if stage.latencies:
        table = Table("Latency, ms", "p50", "p99", "p99.9", "of")
        for name, taken in stage.latencies.items():
            row = (f"{value:,.2f}" for value in (taken.p50, taken.p99, taken.p999))
            table.add_row(name, *row, f"{taken.count:,}")
        out.print(table)
    for profile in stage.profiles:
        table = Table(profile.run, "Own share", "With callees", "Calls")
        for cost in profile.costs[:_COSTS]:
            shares = (f"{share:.1%}" for share in (cost.own_share, cost.share))
            table.add_row(cost.function, *shares, f"{cost.calls:,}")
        out.print(table)
    for note in stage.notes:
        out.print(f"  {note}", style="dim", highlight=False)


def _row(figure: Figure) -> tuple[str | Text, ...]:
    met = {True: Text("met", "green"), False: Text("missed", "red"), None: Text()}[figure.met]
    return (
        figure.name,
        f"{figure.value:,.4g} {figure.unit}",
        "" if figure.reference is None else f"{figure.reference:,.4g}",
        figure.reference_name or "",
        "" if figure.ratio is None else f"{figure.ratio:.3g}",
        "" if figure.budget is None else str(figure.budget),
        met,
    )
