"""HTTP routes of reporting: parse, authorize, compute, answer."""

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel

from services.reporting import access
from services.reporting.domain import ProgramFact, seconds
from services.reporting.kpis.bucket import Kind
from services.reporting.kpis.rows import KPIS, KpiName, Row, Unit, rows
from services.reporting.repository import buckets
from shared.clock import Instant
from shared.errors import InvalidInputError, raise_not_found
from shared.http.call import Call, allow
from shared.http.pagination import Cursor, Limit, Page, page, read_cursor, write_cursor
from shared.ids import derived_id
from shared.store.port import In

# A breakdown is read as a whole: its rows are of one moment, and nobody overlooks the rest of it.
_MOST_ROWS = 5000

By = Literal["none", "role", "region", "department", "month"]
Month = Annotated[str | None, Query(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$", examples=["2026-03"])]

Rows = Annotated[int, Query(ge=1, le=_MOST_ROWS, description=f"Rows a page, 1 to {_MOST_ROWS}")]

Analyzing = Annotated[Call, allow("analyst", "coordinator")]


class ProgramView(BaseModel):
    """A program whose figures the caller may see."""

    program_id: str
    title: str
    version: int

    @classmethod
    def of(cls, program: ProgramFact) -> "ProgramView":
        """Return the program."""
        return cls(program_id=program.id, title=program.title, version=program.newest_version)


class KpiRow(BaseModel):
    """A figure, or why it is hidden: then `value`, `n`, `low` and `high` are null."""

    kpi: KpiName
    program: str
    breakdown: dict[str, str]
    period: str
    value: float | None
    unit: Unit
    n: int | None
    low: float | None
    high: float | None
    shown: bool
    why_hidden: str | None

    @classmethod
    def of(cls, program_id: str, row: Row) -> "KpiRow":
        """Return the row of a program."""
        figure = row.figure
        return cls(
            kpi=row.kpi.name,
            program=program_id,
            breakdown={} if row.kind in ("all", "month") else {row.kind: row.value},
            period=row.value if row.kind == "month" else "all",
            value=None if figure is None else figure.value,
            unit=row.kpi.unit,
            n=None if figure is None else figure.n,
            low=None if figure is None else figure.low,
            high=None if figure is None else figure.high,
            shown=figure is not None,
            why_hidden=row.why_hidden,
        )


class Kpis(BaseModel):
    """The figures of a program; `threshold` is the smallest group that is shown."""

    program: str
    as_of: Instant
    threshold: int
    rows: list[KpiRow]
    next_cursor: str | None = None


def routes() -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["reporting"])

    @router.get("/programs")
    async def list_programs(
        call: Analyzing, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[ProgramView]:
        """List the programs whose figures you may see."""
        found = await call.store.find(
            ProgramFact,
            {"id": In(tuple(sorted(call.caller.programs))), "first_version": 1},
            after=read_cursor(cursor),
            limit=limit + 1,
        )
        return page(found, limit, ProgramView.of)

    @router.get("/kpis")
    async def get_kpis(
        call: Analyzing,
        program: Annotated[str, Query(max_length=200)],
        by: Annotated[By, Query(description="One breakdown; none gives the totals")] = "none",
        first: Annotated[Month, Query(alias="from")] = None,
        last: Annotated[Month, Query(alias="to")] = None,
        limit: Rows = _MOST_ROWS,
        cursor: Cursor = None,
    ) -> Kpis:
        """Compute the KPIs of a program; `from` and `to` choose among the rows of `by=month`."""
        access.must_analyze(call.caller, program)
        _check_months(by, first, last)
        fact = await call.store.get(ProgramFact, program)
        if fact is None or fact.first_version != 1:
            raise_not_found("program", program)
        now = call.now
        kind: Kind = "all" if by == "none" else by
        found = rows(
            kind,
            await buckets(call.store, program, kind),
            as_of=seconds(now),
            cadence_days=fact.cadence_days,
            threshold=fact.threshold,
        )
        # Chosen after the protection: whatever months are asked for, the same figures are hidden.
        found = [row for row in found if (first or row.value) <= row.value <= (last or row.value)]
        start = _start(found, cursor)
        return Kpis(
            program=program,
            as_of=now,
            threshold=fact.threshold,
            rows=[KpiRow.of(program, row) for row in found[start : start + limit]],
            next_cursor=(
                _cursor_of(found[start + limit - 1]) if start + limit < len(found) else None
            ),
        )

    return router


def _check_months(by: By, first: str | None, last: str | None) -> None:
    for name, month in (("from", first), ("to", last)):
        if month is not None and by != "month":
            raise InvalidInputError(
                "Months choose among the rows of by=month. Other figures are of the whole program:"
                " a choice of months would let two answers be subtracted from each other.",
                code="months_need_by_month",
                field=name,
            )
    if first is not None and last is not None and first > last:
        raise InvalidInputError("`from` is after `to`.", code="months_order", field="from")


def _cursor_of(row: Row) -> str:
    # A digest stands for the value: names of departments may be long.
    return write_cursor(KPIS.index(row.kpi), derived_id("v", row.value))


def _start(found: Sequence[Row], cursor: str | None) -> int:
    if cursor is None:
        return 0
    read_cursor(cursor)
    for position, row in enumerate(found):
        if _cursor_of(row) == cursor:
            return position + 1
    raise InvalidInputError(
        "The row at which the page before ended is gone; read from the first page.",
        code="bad_cursor",
        field="cursor",
    )
