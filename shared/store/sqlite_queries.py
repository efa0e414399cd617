"""Queries on SQLite documents: the port's conditions, orders and cursors."""

import sqlite3
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import orjson

from shared.errors import StoreUnavailableError, raise_not_found
from shared.store.conditions import check_field, check_many, parameter
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
from shared.turns import in_turns

D = TypeVar("D", bound=Document)

_NUL = r"\u0000"


@lru_cache(maxsize=1000)
def column_of(name: str) -> str:
    """Return the SQL expression of a document's field. Raises ValueError for what is no field."""
    check_field(name)
    return name if name in {"id", "version"} else f"json_extract(body, '$.{name}')"


def table(kind: type[Document]) -> str:
    """Return the table of a kind of document."""
    return f'"d_{kind.collection}"'


def items_table(kind: type[Document], name: str) -> str:
    """Return the table that indexes the items of a list field."""
    return f'"m_{kind.collection}_{name}"'


def as_list(values: Collection[str]) -> str:
    """Return values as one parameter, of which `json_each` makes a table again.

    For hundreds of them SQLite takes less than half of what it takes for as many parameters.
    """
    return orjson.dumps([*values]).decode()


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
                check_many(kind, name)
                table = items_table(kind, name)
                clauses.append(f"id IN (SELECT id FROM {table} WHERE item = ?)")  # noqa: S608
                parameters.append(value)
            case None:
                clauses.append(f"{column} IS NULL")
            case _:
                clauses.append(f"{column} = ?")
                parameters.append(parameter(condition))
    return clauses, parameters


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
        return await self._documents(kind, sql, parameters)

    async def get_many(self, kind: type[D], document_ids: Collection[str]) -> list[D]:
        """Return those of the documents that there are, in no order."""
        wanted = as_list(document_ids)
        if _NUL in wanted:
            # For SQLite it ends a text in JSON.
            return await self.find(kind, {"id": In(tuple(document_ids))}, limit=len(document_ids))
        # Joined, for `IN` would first sort them into a table of its own.
        sql = (
            f"SELECT body FROM json_each(?) AS wanted CROSS JOIN {table(kind)} AS kept"  # noqa: S608
            " ON kept.id = wanted.value"
        )
        return await self._documents(kind, sql, (wanted,))

    async def _documents(
        self, kind: type[D], sql: str, parameters: Sequence[str | int | float | None]
    ) -> list[D]:
        # As `model_validate_json` does, without its own part of each call.
        read = kind.__pydantic_validator__.validate_json
        found: list[D] = []
        async for part in in_turns(self._query(sql, parameters)):
            found += [read(body) for (body,) in part]
        return found

    async def count(self, kind: type[D], where: Where = NO_CONDITIONS) -> int:
        clauses, parameters = conditions(kind, where)
        sql = f"SELECT count(*) FROM {table(kind)}"  # noqa: S608
        if clauses:
            sql += " WHERE " + " AND ".join(clauses)
        return int(self._query(sql, parameters)[0][0])

    async def seen(self, group: str, event_ids: Collection[str]) -> set[str]:
        """Return which of these events the group has applied."""
        sql = (
            "SELECT event_id FROM json_each(?) AS told CROSS JOIN inbox"
            " ON consumer_group = ? AND event_id = told.value"
        )
        rows = self._query(sql, (as_list(event_ids), group))
        return {event_id for (event_id,) in rows}


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
