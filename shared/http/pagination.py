"""Cursor pagination: a page, and an opaque cursor to the next one."""

import base64
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

import orjson
from fastapi import Query
from pydantic import BaseModel

from shared.errors import InvalidInputError
from shared.store.port import Document, Scalar

_INTEGER_BITS = 63

D = TypeVar("D", bound=Document)
V = TypeVar("V", bound=BaseModel)

Limit = Annotated[int, Query(ge=1, le=200, description="Items a page, 1 to 200")]
Cursor = Annotated[
    str | None, Query(max_length=400, description="`next_cursor` of the page before")
]


class Page(BaseModel, Generic[V]):
    """One page; `next_cursor` is null on the last."""

    items: list[V]
    next_cursor: str | None = None


def read_cursor(cursor: str | None) -> tuple[Scalar, str] | None:
    """Return the (value, id) behind a cursor. Raises InvalidInputError for one we never gave."""
    if cursor is None:
        return None
    try:
        # orjson, unlike json, refuses what a store can't compare: NaN, lone surrogates, endless
        # numbers.
        read = orjson.loads(base64.urlsafe_b64decode(cursor.encode()))
    except ValueError as error:
        raise _bad_cursor() from error
    match read:
        case [str() | int() | float() | None as value, str() as document_id]:
            if isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
                raise _bad_cursor()
            return value, document_id
        case _:
            raise _bad_cursor()


def write_cursor(value: Scalar, document_id: str) -> str:
    """Return the cursor that `read_cursor` reads."""
    return base64.urlsafe_b64encode(orjson.dumps([value, document_id])).decode()


def _bad_cursor() -> InvalidInputError:
    return InvalidInputError("The cursor is not one of ours.", code="bad_cursor", field="cursor")


def page(
    found: Sequence[D],
    limit: int,
    present: Callable[[D], V],
    order_by: str = "id",
) -> Page[V]:
    """Make a page of `limit` items from a query that asked for one more."""
    items = [present(document) for document in found[:limit]]
    if len(found) <= limit:
        return Page(items=items)
    last = found[limit - 1]
    value = last.model_dump(mode="json", include={order_by})[order_by]
    return Page(items=items, next_cursor=write_cursor(value, last.id))
