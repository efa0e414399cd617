"""Whether a schema may stand in for one published before it, for readers of either.

A published type is read in both directions: by subscribers that keep an older schema and get new
events, and by our own services, which replay every event ever written. So nothing that either
direction relies on may change:

- A field is neither removed nor renamed, its type, format and pattern stay, and it neither begins
  nor ceases to be null.
- A field is new only with a default, since old events lack it. A required one stays required,
  since old readers count on it; an optional one stays optional, since old events may lack it.
- A default stays: it is the meaning of the events that are older than its field.
- A limit (smallest, largest, longest …) is neither tightened, which refuses old events, nor
  loosened, which sends readers what they were promised never to see.
- An enumeration neither loses a value (old events have it) nor gains one: a reader whose types
  are generated from the older schema refuses the whole event. A vocabulary that is to grow is
  published as a `Code` from the start.
- A type stays on its topic and keeps the field that is its key.

Titles, descriptions and examples are free. Whatever needs another change is a new type, `…v2`,
published beside the old.
"""

import json
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

_ANNOTATIONS = frozenset({"$schema", "$id", "$defs", "title", "description", "examples"})
_UNIONS = ("anyOf", "oneOf")
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_NESTED = {"items": "[]", "additionalProperties": "{}", "propertyNames": "{key}"}
_COMPARED = frozenset({"nullable", "enum", "default", "properties", "required", *_LOWER, *_UPPER})


def structure(schema: Schema) -> Schema:
    """Return what readers depend on: no annotations, references resolved, lists in one order.

    Two schemas with the same structure are the same contract. `schema` must not refer to itself.
    """
    return _resolve(schema, schema.get("$defs", {}))


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """Return how `new` breaks the rules above against `old`, each as `field: rule`.

    A nested field is named `mentor.level`, one in a list `mentees[].level`, a map's values
    `scores{}` and its keys `scores{key}`; `event` is the whole.
    """
    return list(_compare(structure(old), structure(new), ""))


def _resolve(schema: Schema, definitions: Schema) -> Schema:
    if "$ref" in schema:
        target = definitions[schema["$ref"].removeprefix("#/$defs/")]
        schema = target | {key: value for key, value in schema.items() if key != "$ref"}
    resolved: Schema = {}
    for keyword, value in schema.items():
        if keyword in _ANNOTATIONS:
            continue
        if keyword == "properties":
            resolved[keyword] = {name: _resolve(part, definitions) for name, part in value.items()}
        elif keyword in _NESTED and isinstance(value, dict):
            resolved[keyword] = _resolve(value, definitions)
        elif keyword in _UNIONS:
            resolved |= _union(keyword, [_resolve(branch, definitions) for branch in value])
        elif keyword == "const":
            resolved["enum"] = [value]
        elif keyword in ("required", "enum"):
            resolved[keyword] = sorted(value, key=_text)
        else:
            resolved[keyword] = value
    return resolved


def _union(keyword: str, branches: list[Schema]) -> Schema:
    present = sorted((branch for branch in branches if branch != {"type": "null"}), key=_text)
    union = present[0] if len(present) == 1 else {keyword: present}
    return union | {"nullable": True} if len(present) < len(branches) else union


def _compare(old: Schema, new: Schema, path: str) -> Iterator[str]:
    where = path or "event"
    if old.get("type") != new.get("type"):
        yield f"{where}: type changed from {_kind(old)} to {_kind(new)}"
        return
    if "nullable" in new and "nullable" not in old:
        yield f"{where}: may now be null"
    if "nullable" in old and "nullable" not in new:
        yield f"{where}: may no longer be null, as it is in old events"
    if "default" in old and "default" in new and old["default"] != new["default"]:
        yield f"{where}: default changed from {_text(old['default'])} to {_text(new['default'])}"
    yield from _compare_values(old, new, where)
    yield from _compare_limits(old, new, where)
    yield from _compare_fields(old, new, path)
    for keyword in sorted((old.keys() | new.keys()) - _COMPARED):
        before, after = old.get(keyword), new.get(keyword)
        if keyword in _NESTED and isinstance(before, dict) and isinstance(after, dict):
            yield from _compare(before, after, where + _NESTED[keyword])
        elif before != after:
            yield f"{where}: {keyword} changed from {_text(before)} to {_text(after)}"


def _compare_values(old: Schema, new: Schema, where: str) -> Iterator[str]:
    if ("enum" in old) != ("enum" in new):
        yield f"{where}: enumeration {'dropped' if 'enum' in old else 'introduced'}"
        return
    before, after = old.get("enum", []), new.get("enum", [])
    for value in before:
        if value not in after:
            yield f"{where}: value {_text(value)} removed, which old events have"
    for value in after:
        if value not in before:
            yield f"{where}: value {_text(value)} added, which old readers refuse"


def _compare_limits(old: Schema, new: Schema, where: str) -> Iterator[str]:
    for keyword in (*_LOWER, *_UPPER):
        before, after = old.get(keyword), new.get(keyword)
        if before == after:
            continue
        if before is None or after is None:
            tightened = before is None
        else:
            tightened = (after > before) == (keyword in _LOWER)
        verb = "tightened" if tightened else "loosened"
        yield f"{where}: {keyword} {verb} from {_text(before)} to {_text(after)}"


def _compare_fields(old: Schema, new: Schema, path: str) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    required_before, required_after = old.get("required", []), new.get("required", [])
    for name in sorted(before.keys() | after.keys()):
        field = f"{path}.{name}" if path else name
        if name not in after:
            yield f"{field}: field removed or renamed"
        elif name not in before:
            if name in required_after:
                yield f"{field}: new field without a default, which old events lack"
        else:
            if name in required_before and name not in required_after:
                yield f"{field}: required field became optional, and old readers count on it"
            if name in required_after and name not in required_before:
                yield f"{field}: optional field became required, and old events may lack it"
            yield from _compare(before[name], after[name], field)


def _kind(schema: Schema) -> str:
    return str(schema.get("type", "a union"))


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
