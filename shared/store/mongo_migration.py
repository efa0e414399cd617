"""The collections and indexes of a service in MongoDB, made at deploy and never by a request."""

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Union, get_args, get_origin

from shared.store.mongo_driver import Database, Filter, Order
from shared.store.mongo_queries import INBOX, LEASES, OUTBOX, STREAMS, path_of
from shared.store.port import Document, Index

_OURS = ("ix_", "ux_", "mx_")


@dataclass(frozen=True)
class IndexPlan:
    """An index as it is to be made."""

    name: str
    keys: Order
    unique: bool = False
    partial: Filter | None = None


@dataclass(frozen=True)
class Step:
    """A difference between what is declared and what there is; the words say what is done."""

    words: str
    collection: str
    index: IndexPlan | None = None
    obsolete: bool = False


_UNSENT = {"sent": False}
_OWN: dict[str, tuple[IndexPlan, ...]] = {
    OUTBOX: (
        IndexPlan("pending", [("sent", 1), ("_id", 1)], partial=_UNSENT),
        IndexPlan("pending_keys", [("key", 1), ("topic", 1), ("_id", 1)], partial=_UNSENT),
    ),
    STREAMS: (),
    INBOX: (),
    LEASES: (),
}


def _is_text(annotation: object) -> bool:
    if get_origin(annotation) in {Union, types.UnionType}:
        return all(_is_text(arm) for arm in get_args(annotation) if arm is not types.NoneType)
    if get_origin(annotation) is Annotated:
        return _is_text(get_args(annotation)[0])
    return isinstance(annotation, type) and issubclass(annotation, str)


def plan_of(kind: type[Document], index: Index) -> IndexPlan:
    """Return how an index is made. Raises TypeError for a unique one of a field that is no text."""
    paths = [path_of(name) for name in index.fields]
    suffix = "_".join(index.fields).replace(".", "_")
    if index.unique:
        for name in index.fields:
            if not _is_text(kind.model_fields[name].annotation):
                msg = f"a unique index is of text, and {kind.__name__}.{name} is not"
                raise TypeError(msg)
        # Known values only: any number of documents may have null.
        known = {path: {"$gte": ""} for path in paths}
        return IndexPlan(f"ux_{suffix}", [(path, 1) for path in paths], True, known)
    if paths[-1] != "_id":
        paths.append("_id")
    return IndexPlan(f"{'mx' if index.many else 'ix'}_{suffix}", [(path, 1) for path in paths])


async def differences(database: Database, kinds: Sequence[type[Document]]) -> list[Step]:
    """Return what is missing, and which indexes nobody declares any more.

    Raises StoreUnavailableError, and TypeError as `plan_of` does.
    """
    wanted = _OWN | {
        kind.collection: tuple(plan_of(kind, index) for index in kind.indexes) for kind in kinds
    }
    existing = await database.indexes()
    steps: list[Step] = []
    for collection, indexes in wanted.items():
        if collection not in existing:
            steps.append(Step(f"create the collection {collection}", collection))
        names = existing.get(collection, set())
        steps += [
            Step(f"create the index {index.name} of {collection}", collection, index)
            for index in indexes
            if index.name not in names
        ]
        gone = {name for name in names if name.startswith(_OURS)} - {i.name for i in indexes}
        steps += [
            Step(
                f"the index {name} of {collection} is no longer declared;"
                " drop it when nothing that declares it runs any more",
                collection,
                obsolete=True,
            )
            for name in sorted(gone)
        ]
    return steps


async def apply_step(database: Database, step: Step) -> None:
    """Make what is missing; nothing happens to what is obsolete.

    Raises StoreUnavailableError, and UniqueViolationError where stored documents share a value.
    """
    if step.obsolete:
        return
    if step.index is None:
        await database.create_collection(step.collection)
        return
    await database.create_index(
        step.collection,
        step.index.name,
        step.index.keys,
        unique=step.index.unique,
        partial=step.index.partial,
    )
