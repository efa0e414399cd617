"""Making frozen models of values that were checked before."""

from typing import Any, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

# What pydantic keeps of an instance, set where it lies: `object.__setattr__` looks up each by name.
_put_values = vars(BaseModel)["__dict__"].__set__
_put_names = vars(BaseModel)["__pydantic_fields_set__"].__set__
_put_extra = vars(BaseModel)["__pydantic_extra__"].__set__
_put_private = vars(BaseModel)["__pydantic_private__"].__set__


class _Names(dict[type[BaseModel], set[str]]):
    def __missing__(self, kind: type[BaseModel]) -> set[str]:
        names = self[kind] = set(kind.model_fields)
        return names


_names = _Names()


def of_checked(kind: type[M], fields: dict[str, Any]) -> M:
    """Return a model with all of these fields, in the order of their declaration.

    Nothing is validated: the values are of an instance, or were checked as one's. `model_construct`
    and `model_copy` do the same several times as slowly, for each event and each write.
    """
    model = object.__new__(kind)
    _put_values(model, fields)
    _put_names(model, _names[kind])
    _put_extra(model, None)
    _put_private(model, None)
    return model
