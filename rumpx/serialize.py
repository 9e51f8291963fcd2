"""Convert frozen dataclasses to JSON's plain data and back, for files.

    to_plain(Scope(match=(b"user:*",)))  ->  {"databases": [], ..., "match": ["dXNlcjoq"], ...}
    from_plain(Scope, {...})             ->  the same Scope

A field's type decides how it is read: dataclasses become objects, tuples and frozensets arrays,
dicts arrays of pairs, bytes base64. If several dataclasses are possible, an object names its
own by "is". Integers above 2**53 are exact, since Python's JSON keeps them.

Fields missing from the data get their default, so that a later version may add some; fields missing
from the class are an error, since they would be dropped silently.
"""

from __future__ import annotations

import base64
import dataclasses
import types
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def to_plain(value: Any) -> Any:
    """Convert a value to data for `json.dumps`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return [[to_plain(key), to_plain(item)] for key, item in value.items()]
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(to_plain(item) for item in value)
    return value


def untagged(data: Any) -> Any:
    """Return data from `to_plain` without the names of types, as programs of users get it."""
    if isinstance(data, dict):
        return {name: untagged(item) for name, item in data.items() if name != "is"}
    return [untagged(item) for item in data] if isinstance(data, list) else data


def from_plain(kind: Any, data: Any) -> Any:
    """Convert data from `to_plain` back to a value of a type.

    Raises:
        ValueError: the data does not fit the type.
    """
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(kind), data)
    if origin is Literal:
        if data in get_args(kind):
            return data
        raise ValueError(f"{data!r} is not one of {get_args(kind)}")
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, data)
    if origin in (tuple, list, frozenset):
        return _sequence(origin, get_args(kind), _checked(list, data))
    if origin is dict:
        key, item = get_args(kind)
        return {from_plain(key, k): from_plain(item, v) for k, v in _checked(list, data)}
    if kind is bytes:
        return base64.b64decode(_checked(str, data), validate=True)
    if kind is float and type(data) is int:
        return float(data)
    return _checked(type(None) if kind is None else kind, data)


def _checked(kind: Any, data: Any) -> Any:
    if type(data) is not kind:
        raise ValueError(f"{data!r} is not a {kind.__name__}")
    return data


def _one_of(kinds: tuple[Any, ...], data: Any) -> Any:
    if data is None and type(None) in kinds:
        return None
    several = [kind for kind in kinds if kind is not type(None)]
    if isinstance(data, dict) and len(several) > 1:
        several = [kind for kind in several if getattr(kind, "__name__", "") == data.get("is")]
    if len(several) != 1:
        raise ValueError(f"{data!r} is not one of {kinds}")
    return from_plain(several[0], data)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _dataclass(kind: Any, data: Any) -> Any:
    fields = dict(_checked(dict, data))
    if fields.pop("is", None) != kind.__name__:
        raise ValueError(f"{data!r} is not a {kind.__name__}")
    hints = _hints(kind)
    if unknown := fields.keys() - hints.keys():
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    try:
        return kind(**{name: from_plain(hints[name], value) for name, value in fields.items()})
    except TypeError as error:
        raise ValueError(str(error)) from None


def _sequence(origin: Any, kinds: tuple[Any, ...], data: list[Any]) -> Any:
    if origin is not tuple or kinds[1:] == (...,):
        return origin(from_plain(kinds[0], item) for item in data)
    if len(kinds) != len(data):
        raise ValueError(f"{data!r} does not have {len(kinds)} members")
    return tuple(from_plain(kind, item) for kind, item in zip(kinds, data, strict=True))
