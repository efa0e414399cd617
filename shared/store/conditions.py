"""What conditions and orders mean, in plain Python: every adapter's queries say the same."""

import re
from datetime import date, datetime
from typing import Any

from shared.clock import format_instant
from shared.store.port import AtMost, Contains, Document, In, MoreThan, Scalar, Where

_FIELD = re.compile(r"^[a-z][a-z0-9_.]*$")


def parameter(value: Scalar | date) -> str | int | float | None:
    """Return the value as it stands in a document's JSON, so that comparisons mean the same."""
    if isinstance(value, datetime):
        return format_instant(value)
    if isinstance(value, date):
        return value.isoformat()
    return value


def check_field(name: str) -> None:
    """Raise ValueError for what is no document field."""
    if not _FIELD.match(name):
        msg = f"{name!r} is not a document field"
        raise ValueError(msg)


def many_fields(kind: type[Document]) -> list[str]:
    """Return the list fields whose items are indexed."""
    return [index.fields[0] for index in kind.indexes if index.many]


def check_many(kind: type[Document], name: str) -> None:
    """Raise ValueError for a field whose items are not indexed."""
    if name not in many_fields(kind):
        msg = f"{kind.__name__} declares no index of the items of {name!r}"
        raise ValueError(msg)


def _field_of(body: dict[str, Any], name: str) -> Any:
    value: Any = body
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def meets(body: dict[str, Any], where: Where) -> bool:
    """Return whether a document, as JSON, meets all conditions, as a query of stored ones does."""
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
    """Return what orders documents as a query does: null first, then the value, then the id."""
    value = _field_of(document.model_dump(mode="json"), order_by)
    return (value is not None, value if value is not None else 0, document.id)
