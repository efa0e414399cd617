"""Queries on SQLite documents: the port's conditions, orders and cursors."""

import re
import sqlite3
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, TypeVar

from shared.clock import format_instant
from shared.errors import StoreUnavailableError, raise_not_found
from shared.store.port import (
    NO_CONDITIONS,
    AtMost,
    Contains,
    Document,
    In,
    MoreThan,
    Scalar,
    Where,
)
from shared.store.sqlite_writer import STATEMENT_ERRORS

D = TypeVar("D", bound=Document)

_FIELD = re.compile(r"^[a-z][a-z0-9_.]*$")


def parameter(value: Scalar | date) -> str | int | float | None:
    """Return the value as it stands in a document's JSON, so that comparisons mean the same."""
    if isinstance(value, datetime):
        return format_instant(value)
    if isinstance(value, date):
        return value.isoformat()
    return value


def column_of(name: str) -> str:
    """Return the SQL expression of a document's field. Raises ValueError for what is no field."""
    if not _FIELD.match(name):
        msg = f"{name!r} is not a document field"
        raise ValueError(msg)
    return name if name in {"id", "version"} else f"json_extract(body, '$.{name}')"


def table(kind: type[Document]) -> str:
    """Return the table of a kind of document."""
    return f'"d_{kind.collection}"'


def items_table(kind: type[Document], name: str) -> str:
    """Return the table that indexes the items of a list field."""
    return f'"m_{kind.collection}_{name}"'


def many_fields(kind: type[Document]) -> list[str]:
    """Return the list fields whose items are indexed."""
    return [index.fields[0] for index in kind.indexes if index.many]


def conditions(
    kind: type[Document], where: Where
) -> tuple[list[str], list[str | int | float | None]]:
    """Return the SQL clauses of all conditions, and their parameters."""
    clauses: list[str] = []
    parameters: list[str | int | float | None] = []
    for name, condition in where.items():
        column = column_of(name)
        match condition:
            case In(values):
                known = [parameter(value) for value in values if value is not None]
                clause = f"{column} IN ({', '.join('?' * len(known))})"
                if None in values:
                    clause = f"({clause} OR {column} IS NULL)"
                clauses.append(clause)
                parameters += known
            case AtMost(value):
                clauses.append(f"{column} <= ?")
                parameters.append(parameter(value))
            case MoreThan(value):
                clauses.append(f"{column} > ?")
                parameters.append(parameter(value))
            case Contains(value):
                if name not in many_fields(kind):
                    msg = f"{kind.__name__} declares no index of the items of {name!r}"
                    raise ValueError(msg)
                table = items_table(kind, name)
                clauses.append(f"id IN (SELECT id FROM {table} WHERE item = ?)")  # noqa: S608
                parameters.append(value)
            case None:
                clauses.append(f"{column} IS NULL")
            case _:
                clauses.append(f"{column} = ?")
                parameters.append(parameter(condition))
    return clauses, parameters


def _field_of(body: dict[str, Any], name: str) -> Any:
    value: Any = body
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def meets(body: dict[str, Any], where: Where) -> bool:
    """Return whether a document, as JSON, meets all conditions: what SQL says of stored ones."""
    for name, condition in where.items():
        value = _field_of(body, name)
        match condition:
            case In(values):
                met = value in [parameter(item) for item in values]
            case AtMost(bound):
                met = value is not None and value <= parameter(bound)
            case MoreThan(bound):
                met = value is not None and value > parameter(bound)
            case Contains(item):
                met = value is not None and item in value
            case _:
                met = value == parameter(condition)
        if not met:
            return False
    return True


def sort_key(document: Document, order_by: str) -> tuple[bool, Any, str]:
    """Return what orders documents as SQL does: null first, then the value, then the id."""
    value = _field_of(document.model_dump(mode="json"), order_by)
    return (value is not None, value if value is not None else 0, document.id)


class Reads:
    """Queries on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def _query(self, sql: str, parameters: Sequence[str | int | float | None]) -> list[Any]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except STATEMENT_ERRORS:
            raise
        except sqlite3.Error as error:
            raise StoreUnavailableError(f"The store did not answer: {error}") from error

    async def get(self, kind: type[D], document_id: str) -> D | None:
        rows = self._query(
            f"SELECT body FROM {table(kind)} WHERE id = ?",  # noqa: S608
            (document_id,),
        )
        return kind.model_validate_json(rows[0][0]) if rows else None

    async def require(self, kind: type[D], document_id: str) -> D:
        document = await self.get(kind, document_id)
        if document is None:
            raise_not_found(kind.__name__.lower(), document_id)
        return document

    async def find(
        self,
        kind: type[D],
        where: Where = NO_CONDITIONS,
        *,
        order_by: str = "id",
        descending: bool = False,
        after: tuple[Scalar, str] | None = None,
        limit: int = 1000,
    ) -> list[D]:
        clauses, parameters = conditions(kind, where)
        column = column_of(order_by)
        if after is not None:
            clause, more = _after(column, after, descending=descending)
            clauses.append(clause)
            parameters += more
        direction = "DESC" if descending else "ASC"
        sql = f"SELECT body FROM {table(kind)}"  # noqa: S608
        if clauses:
            sql += " WHERE " + " AND ".join(clauses)
        order = f"id {direction}" if column == "id" else f"{column} {direction}, id {direction}"
        sql += f" ORDER BY {order} LIMIT {int(limit)}"
        return [kind.model_validate_json(body) for (body,) in self._query(sql, parameters)]

    async def count(self, kind: type[D], where: Where = NO_CONDITIONS) -> int:
        clauses, parameters = conditions(kind, where)
        sql = f"SELECT count(*) FROM {table(kind)}"  # noqa: S608
        if clauses:
            sql += " WHERE " + " AND ".join(clauses)
        return int(self._query(sql, parameters)[0][0])


def _after(
    column: str, after: tuple[Scalar, str], *, descending: bool
) -> tuple[str, list[str | int | float | None]]:
    value, document_id = parameter(after[0]), after[1]
    beyond = "<" if descending else ">"
    if column == "id":
        return f"id {beyond} ?", [document_id]
    if value is None and descending:
        return f"({column} IS NULL AND id < ?)", [document_id]
    if value is None:
        return f"({column} IS NOT NULL OR id > ?)", [document_id]
    rest = f" OR {column} IS NULL" if descending else ""
    return (
        f"({column} {beyond} ? OR ({column} = ? AND id {beyond} ?){rest})",
        [value, value, document_id],
    )
