"""Queries on MongoDB documents: the port's conditions, orders and cursors."""

from collections.abc import Collection
from typing import Any, TypeVar

from pydantic_core import from_json, to_json

from shared.errors import raise_not_found
from shared.store.conditions import check_field, check_many, parameter
from shared.store.mongo_driver import Database, Filter, Row, Session
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

D = TypeVar("D", bound=Document)

# A document's collection has no dot in its name.
INBOX = "store.inbox"
OUTBOX = "store.outbox"
STREAMS = "store.streams"
LEASES = "store.leases"


def to_row(document_id: str, body: str) -> Row:
    """Return the row of a document's JSON: what is compared is the same text as everywhere."""
    row: Row = from_json(body)
    del row["id"]
    return {"_id": document_id, **row}


def to_document(kind: type[D], row: Row) -> D:
    """Return the document of a row."""
    return kind.model_validate_json(to_json({"id": row.pop("_id"), **row}))


def inbox_id(group: str, event_id: str) -> str:
    """Return under what the inbox keeps an event of a group, whose name has no slash."""
    return f"{group}/{event_id}"


def inbox_of(group: str) -> Filter:
    """Return the filter of all that a group has applied: a range of ids, which have an index."""
    return {"_id": {"$gte": f"{group}/", "$lt": f"{group}{chr(ord('/') + 1)}"}}


def path_of(name: str) -> str:
    """Return where a document's field is stored. Raises ValueError for what is no field."""
    check_field(name)
    return "_id" if name == "id" else name


def _condition(kind: type[Document], name: str, condition: Any) -> Filter:
    path = path_of(name)
    match condition:
        case In(values):
            return {path: {"$in": [parameter(value) for value in values]}}
        case AtMost(value):
            return {path: {"$lte": parameter(value)}}
        case MoreThan(value):
            return {path: {"$gt": parameter(value)}}
        case Contains(value):
            check_many(kind, name)
            return {path: {"$eq": value}}
        case _:
            return {path: {"$eq": parameter(condition)}}


def _after(path: str, after: tuple[Scalar, str], *, descending: bool) -> Filter:
    value, document_id = parameter(after[0]), after[1]
    beyond = "$lt" if descending else "$gt"
    same: Filter = {path: {"$eq": value}, "_id": {beyond: document_id}}
    if path == "_id":
        return {"_id": {beyond: document_id}}
    if value is None:
        return same if descending else {"$or": [{path: {"$ne": None}}, same]}
    # A comparison is between values of one type: null, which sorts first, is asked for by itself.
    rest: list[Filter] = [{path: {"$eq": None}}] if descending else []
    return {"$or": [{path: {beyond: value}}, same, *rest]}


def filter_of(
    kind: type[Document],
    where: Where,
    *,
    order_by: str = "id",
    descending: bool = False,
    after: tuple[Scalar, str] | None = None,
) -> Filter:
    """Return the filter of all conditions, beyond the cursor where there is one."""
    clauses = [_condition(kind, name, condition) for name, condition in where.items()]
    if after is not None:
        clauses.append(_after(path_of(order_by), after, descending=descending))
    # Flat where it can be: simple planners look for an index at the top level alone.
    flat: dict[str, Any] = {}
    for clause in clauses:
        if flat.keys() & clause.keys():
            return {"$and": clauses}
        flat |= clause
    return flat


class MongoReads:
    """Queries on one database, or on the snapshot of one session."""

    def __init__(self, database: Database, session: Session | None = None) -> None:
        self._database = database
        self._session = session

    async def get(self, kind: type[D], document_id: str) -> D | None:
        rows = await self._database.find(
            kind.collection, {"_id": document_id}, limit=1, session=self._session
        )
        return to_document(kind, rows[0]) if rows else None

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
        direction = -1 if descending else 1
        path = path_of(order_by)
        filter_ = filter_of(kind, where, order_by=order_by, descending=descending, after=after)
        if limit == 0:
            return []  # to the driver it means all
        rows = await self._database.find(
            kind.collection,
            filter_,
            sort=[(path, direction)] + [("_id", direction)] * (path != "_id"),
            limit=limit,
            session=self._session,
        )
        return [to_document(kind, row) for row in rows]

    async def count(self, kind: type[D], where: Where = NO_CONDITIONS) -> int:
        return await self._database.count(
            kind.collection, filter_of(kind, where), session=self._session
        )

    async def get_many(self, kind: type[D], document_ids: Collection[str]) -> list[D]:
        """Return those of the documents that there are."""
        return await self.find(kind, {"id": In(tuple(document_ids))}, limit=len(document_ids))

    async def seen(self, group: str, event_ids: Collection[str]) -> set[str]:
        """Return which of these events the group has applied."""
        ids = {inbox_id(group, event_id): event_id for event_id in event_ids}
        rows = await self._database.find(
            INBOX, {"_id": {"$in": list(ids)}}, limit=len(ids), session=self._session
        )
        return {ids[row["_id"]] for row in rows}
