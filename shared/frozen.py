"""Making frozen models of values that were checked before."""

from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)


@cache
def _names(kind: type[BaseModel]) -> set[str]:
    return set(kind.model_fields)


def of_checked(kind: type[M], fields: dict[str, Any]) -> M:
    """Return a model with all of these fields, in the order of their declaration.

    Nothing is validated: the values are of an instance, or were checked as one's. `model_construct`
    and `model_copy` do the same several times as slowly, for each event and each write.
    """
    model = kind.__new__(kind)
    put = object.__setattr__
    put(model, "__dict__", fields)
    put(model, "__pydantic_fields_set__", _names(kind))
    put(model, "__pydantic_extra__", None)
    put(model, "__pydantic_private__", None)
    return model
