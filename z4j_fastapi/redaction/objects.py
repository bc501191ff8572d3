"""Any Python object as plain JSON types, one level deep, without running the host's code.

What kind an object is, is decided by its type's method resolution order and the class dictionaries
there: no `isinstance`, which asks the object for `__class__`, and no attribute of the object.
Fields are read past `__getattribute__` and `__getattr__`. Called are only: `__iter__`, `__len__`,
`__getitem__` of objects that are a Mapping, Set or Sequence by `collections.abc`, never beyond
`MAX_WIDTH` members; `__str__` of exceptions; `__repr__` of unknown objects that define one; what
`tzinfo` does for `isoformat`. Whatever these raise is contained.

Spec: redaction.md section 6.
"""

# Values of any type are this module's business, so their types are unknown here.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnnecessaryCast=false

from __future__ import annotations

import enum
import math
import re
import sys
import types
from collections import UserDict, UserList, UserString, deque
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Mapping,
    Sequence,
    ValuesView,
)
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, cast
from uuid import UUID

from z4j_fastapi.redaction.bounds import MAX_WIDTH, OMITTED, REDACTED, more_items

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]{4,}|\b0x[0-9A-Fa-f]{8,}")
_MAX_NAME_CHARS = 100
#: CPython refuses to write, and the brain to read, decimal integers of more than 4,300 digits.
_INT_END = 10**4_300
_MISSING = object()

_name_of_type = type.__dict__["__name__"].__get__
_mro_of_type = type.__dict__["__mro__"].__get__


class Unordered(list[Any]):
    """Members of a set: to be sorted by their rendered text."""


class Repr(str):
    """What an object that we know nothing about says of itself: to be kept short."""

    __slots__ = ()


def type_name(cls: type) -> str:
    """The class's own name, bounded, past whatever its metaclass says."""
    return str(_name_of_type(cls))[:_MAX_NAME_CHARS]


def plain(value: Any, *, limit_bytes: int) -> object:
    """`value` as a JSON type, one level deep.

    Args:
        value: Anything that is not an exact `dict`, `list`, `str`, `int`, `float`, `bool` or None.
        limit_bytes: Most bytes of a bytes-like value that are turned into text.

    Returns:
        An exact `str`, `int`, `float`, `bool`, None, `dict` (any keys), `list`, `Unordered` or
        `Repr`. The members of containers are as they came, at most `MAX_WIDTH` and a marker. Never
        raises an `Exception`.
    """
    cls = type(value)
    try:
        reduced = _reduced(value, cls, limit_bytes)
        if type(reduced) not in _PLAIN:  # UserDict.data and the like may be anything
            reduced = _reduced(reduced, type(reduced), limit_bytes)
        return reduced if type(reduced) in _PLAIN else f"<{type_name(cls)}>"
    except KeyboardInterrupt:  # the host's, not the object's
        raise
    except BaseException:  # noqa: BLE001 - whatever the host's code raised, SystemExit included
        return f"<{type_name(cls)}: unprintable>"


def number(value: float) -> object:
    """An int or float that orjson does not write as CPython does: itself, or text.

    Args:
        value: Exact `int` outside 64 bits, or exact `float` outside orjson's faithful range.
    """
    if type(value) is float:
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return value
    integer = cast("int", value)
    if -_INT_END < integer < _INT_END:
        try:
            _ = int.__repr__(integer)
            return integer
        except ValueError:  # the host lowered sys.set_int_max_str_digits
            pass
    return f"<int of {integer.bit_length()} bits>"


def _reduced(value: Any, cls: type, limit_bytes: int) -> object:
    known = _EXACT.get(cls)
    return known(value) if known is not None else _by_ancestry(value, cls, limit_bytes)


def _by_ancestry(value: Any, cls: type, limit_bytes: int) -> object:  # noqa: C901, PLR0911, PLR0912 - a table of kinds, in order
    mro = _mro_of_type(cls)
    if _is_secret_wrapper(mro):
        return REDACTED
    if enum.Enum in mro:
        return _enum_value(value, cls)
    for base in mro:
        if base in _BYTES:
            return _bytes_text(value, limit_bytes)
        if base is tuple and (names := _class_attribute(mro, "_fields")) is not None:
            return dict(zip(map(str, names), tuple.__iter__(value), strict=False))
        reduce = _INHERITED.get(base)
        if reduce is not None:
            return reduce(value)
    if cls in _OPAQUE or _is_live(mro):
        return f"<{type_name(cls)}>"
    fields = _fields(value, mro)
    if fields is not None:
        return fields
    path = sys.modules.get("pathlib")
    if path is not None and path.PurePath in mro:
        return path.PurePath.__str__(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and getattr(numpy, "generic", None) in mro:
        return _numpy_scalar(value, cls)
    if issubclass(cls, Mapping):
        return _mapping(value)
    if issubclass(cls, ItemsView):
        return dict(islice(iter(value), MAX_WIDTH))
    if issubclass(cls, (AbstractSet, Sequence, ValuesView)):
        items = _head(value, len(value))
        return Unordered(items) if issubclass(cls, AbstractSet) else items
    return _unknown(value, cls)


def _is_secret_wrapper(mro: tuple[type, ...]) -> bool:
    """Pydantic's `SecretStr`, Starlette's `Secret`, and what is built like them."""
    return any(
        "get_secret_value" in base.__dict__ or type_name(base).startswith("Secret")
        for base in mro[:-1]
    )


def _is_live(mro: tuple[type, ...]) -> bool:
    """Iterators, awaitables, files and sockets: reading them would use them up."""
    return any(not _LIVE_METHODS.isdisjoint(base.__dict__) for base in mro[:-1])


_LIVE_METHODS = frozenset({"__next__", "__anext__", "__await__", "fileno", "recv"})


def _class_attribute(mro: tuple[type, ...], name: str) -> Any:
    """A class attribute without the descriptor protocol; None if there is none."""
    for base in mro:
        if name in base.__dict__:
            return base.__dict__[name]
    return None


def _read(value: Any, name: str) -> Any:
    """An instance attribute past the class's `__getattribute__` and `__getattr__`."""
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return _MISSING


def _fields(value: Any, mro: tuple[type, ...]) -> dict[Any, Any] | None:
    """The fields of a dataclass, attrs, pydantic or `_asdict` object; None for other objects.

    What the class keeps out of its `repr` stays hidden: the official agent would not send it.
    """
    names = _declared(mro)
    if names is None:
        return _asdict_fields(value) if _class_attribute(mro, "_asdict") is not None else None
    found: dict[Any, Any] = {}
    for name, visible in islice(names.items(), MAX_WIDTH):
        member = _read(value, name)
        if member is not _MISSING:
            found[name] = member if visible else REDACTED
    extra = _read(value, "__pydantic_extra__")
    if extra is _MISSING and _class_attribute(mro, "__fields__") is not None:
        # pydantic 1 keeps members that were not declared beside the others.
        inner: Any = _read(value, "__dict__")
        if type(inner) is dict:
            extra = {name: inner[name] for name in inner if name not in names}
    if type(extra) is dict:
        found.update(islice(dict.items(extra), MAX_WIDTH))
    return found


def _declared(mro: tuple[type, ...]) -> dict[str, bool] | None:
    """Declared field names, and whether the class shows them in its `repr`."""
    declared: Any
    if (declared := _class_attribute(mro, "__dataclass_fields__")) is not None:
        return {name: bool(field.repr) for name, field in declared.items()}
    if (declared := _class_attribute(mro, "__attrs_attrs__")) is not None:
        return {field.name: field.repr is not False for field in declared}
    for attribute in ("__pydantic_fields__", "model_fields", "__fields__"):  # 2.10+, 2.0+, 1.10
        declared = _class_attribute(mro, attribute)
        if type(declared) is dict:
            fields = cast("dict[str, Any]", declared)
            return {
                name: bool(getattr(getattr(field, "field_info", field), "repr", True))
                for name, field in fields.items()
            }
    return None


def _asdict_fields(value: Any) -> dict[Any, Any] | None:
    """Of an object with `_asdict`, which is not called: what `_fields` names, or its attributes."""
    names = getattr(value, "_fields", None)
    if isinstance(names, (tuple, list)):
        wanted = map(str, cast("Iterable[Any]", names))
        return {name: getattr(value, name) for name in islice(wanted, MAX_WIDTH)}
    attributes = _read(value, "__dict__")
    if type(attributes) is not dict:
        return None
    return dict(islice(dict.items(attributes), MAX_WIDTH))


def _enum_value(value: Any, cls: type) -> object:
    scalar = _read(value, "_value_")
    kind = cast("type", type(scalar))
    if scalar is None or kind in (str, int, float, bool):
        return scalar
    return f"{type_name(cls)}.{_read(value, '_name_')}"


def _numpy_scalar(value: Any, cls: type) -> object:
    scalar = value.item()
    if type(scalar) in (str, int, float, bool, complex):
        return str(scalar) if type(scalar) is complex else scalar
    return _unknown(value, cls)


def _bytes_text(value: Any, limit_bytes: int) -> str:
    """What `str` says of the first bytes; the marker has the total length."""
    view = memoryview(value)
    total = view.nbytes
    head = view.tobytes() if total <= limit_bytes else view.cast("B")[:limit_bytes].tobytes()
    text = repr(head)
    if len(text) <= limit_bytes and len(head) == total:
        return text
    room = limit_bytes - len(f"[...{total} more bytes truncated of {total}]")
    while head and len(text) > room:  # escapes are of unequal length
        head = head[: min(len(head) - 1, len(head) * room // len(text))]
        text = repr(head)
    return f"{text}[...{total - len(head)} more bytes truncated of {total}]"


def _mapping(value: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key in islice(iter(value), MAX_WIDTH):
        found[key] = value[key]
    left = len(value) - MAX_WIDTH
    if left > 0:
        found[more_items(left)] = None
    return found


def _dict(value: Any) -> dict[Any, Any]:
    """A copy of a dict of any subclass, past its overridden methods, bounded."""
    size = dict.__len__(value)
    found = dict(islice(dict.items(value), MAX_WIDTH))
    if size > MAX_WIDTH:
        found[more_items(size - MAX_WIDTH)] = None
    return found


def _head(items: Iterable[Any], size: int) -> list[Any]:
    found = list(islice(items, MAX_WIDTH))
    if size > len(found):
        found.append(more_items(size - len(found)))
    return found


def _iterated(base: type[Any]) -> Callable[[Any], list[Any]]:
    """The members as the base class itself gives them, whatever a subclass says."""
    iterate, length = base.__iter__, base.__len__

    def members(value: Any) -> list[Any]:
        for _ in range(3):
            try:
                return _head(iterate(value), length(value))
            except RuntimeError:  # noqa: PERF203 - another thread changed its size: look again
                continue
        return [OMITTED]

    return members


def _set_of(base: type[Any]) -> Callable[[Any], Unordered]:
    members = _iterated(base)
    return lambda value: Unordered(members(value))


def _exception(value: BaseException) -> str:
    name = type_name(type(value))
    text = str.__str__(str(value))
    return f"{name}: {text}" if text else name


def _unknown(value: Any, cls: type) -> str:
    mro = _mro_of_type(cls)
    if _class_attribute(mro, "__repr__") is object.__repr__:
        return f"<{type_name(cls)}>"
    return Repr(_ADDRESS.sub("", str.__str__(repr(value))))


def _of(base: type[Any], method: str) -> Callable[[Any], Any]:
    """A method of the base class itself, whatever a subclass made of it."""
    return cast("Callable[[Any], Any]", base.__dict__[method])


def _data(value: Any) -> object:
    return _read(value, "data")


#: What an object becomes when one of its base classes is this one; in order of resolution.
_INHERITED: dict[type, Callable[[Any], object]] = {
    dict: _dict,
    list: _iterated(list),
    tuple: _iterated(tuple),
    set: _set_of(set),
    frozenset: _set_of(frozenset),
    deque: _iterated(deque),
    str: _of(str, "__str__"),
    int: _of(int, "__int__"),
    float: _of(float, "__float__"),
    complex: _of(complex, "__repr__"),
    datetime: _of(datetime, "isoformat"),
    date: _of(date, "isoformat"),
    time: _of(time, "isoformat"),
    timedelta: _of(timedelta, "__str__"),
    Decimal: _of(Decimal, "__str__"),
    UUID: _of(UUID, "__str__"),
    BaseException: _exception,
    UserDict: _data,
    UserList: _data,
    UserString: _data,
    range: _iterated(range),
}
_EXACT: dict[type, Callable[[Any], object]] = {
    **{
        kind: reduce
        for kind, reduce in _INHERITED.items()
        if kind not in (str, int, float, BaseException, UserDict, UserList, UserString)
    },
    types.MappingProxyType: _mapping,
}
_BYTES = frozenset({bytes, bytearray, memoryview})
_PLAIN = frozenset({str, int, float, bool, type(None), dict, list, Unordered, Repr})
_OPAQUE = frozenset({types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType})
