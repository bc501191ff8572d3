"""What becomes of values that are no JSON: redaction.md section 6, row by row."""

from __future__ import annotations

import array
import asyncio
import collections
import dataclasses
import decimal
import enum
import io
import json
import pathlib
import socket
import sys
import types
import typing
import uuid
from datetime import date, datetime, time, timedelta, timezone

import attrs
import pydantic
import pytest

from z4j_fastapi.redaction import REDACTED, Redactor

REDACTOR = Redactor()
redact = REDACTOR.redact


def boom(*_args, **_kwargs):
    raise AssertionError("the host's code was called")


@dataclasses.dataclass
class Account:
    user: str
    password: str
    hidden: str = dataclasses.field(default="h", repr=False)


@dataclasses.dataclass
class SlottedAccount:
    __slots__ = ("password", "user")
    user: str
    password: str


@attrs.define
class AttrsAccount:
    user: str
    password: str
    hidden: str = attrs.field(default="h", repr=False)


class Model(pydantic.BaseModel):
    if pydantic.VERSION.startswith("1."):

        class Config:
            extra = "allow"

    else:
        model_config = pydantic.ConfigDict(extra="allow")
    user: str
    password: str
    key: pydantic.SecretStr = pydantic.SecretStr("s")
    hidden: str = pydantic.Field(default="h", repr=False)


class Pair(typing.NamedTuple):
    user: str
    password: str


class WithAsdict:
    def __init__(self):
        self.user = "bob"
        self.password = "hunter2"

    _asdict = boom


class Row:
    """As SQLAlchemy's: fields by `_fields`, values by `__getattr__`."""

    @property
    def _fields(self):
        return ("user", "password")

    def __getattr__(self, name):
        return {"user": "bob", "password": "hunter2"}[name]

    _asdict = boom


class UserMapping(collections.abc.Mapping):
    def __getitem__(self, key):
        return {"user": "bob", "password": "hunter2"}[key]

    def __iter__(self):
        return iter(["user", "password"])

    def __len__(self):
        return 2


class LyingDict(dict):
    items = keys = values = __iter__ = __getitem__ = __len__ = boom


BOB = {"user": "bob", "password": REDACTED}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Account("bob", "hunter2"), {**BOB, "hidden": REDACTED}),
        (SlottedAccount("bob", "hunter2"), BOB),
        (AttrsAccount("bob", "hunter2"), {**BOB, "hidden": REDACTED}),
        (
            Model(user="bob", password="hunter2", token="t", more=1),
            {**BOB, "key": REDACTED, "hidden": REDACTED, "token": REDACTED, "more": 1},
        ),
        (Pair("bob", "hunter2"), BOB),
        (WithAsdict(), BOB),
        (Row(), BOB),
        (collections.UserDict(BOB), BOB),
        (types.MappingProxyType({"user": "bob", "password": "hunter2"}), BOB),
        (UserMapping(), BOB),
        (LyingDict(user="bob", password="hunter2"), BOB),
        (collections.OrderedDict(user="bob", password="hunter2"), BOB),
        ({"user": "bob", "password": "hunter2"}.items(), BOB),
    ],
    ids=lambda value: type(value).__name__,
)
def test_object_with_fields_when_redacted_then_it_is_judged_by_its_names(value, shown):
    assert redact(value) == shown
    assert redact([{"inner": value}]) == [{"inner": shown}]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        ({"b", 10, 9, None}, ["b", 10, 9, None]),
        (collections.deque([2, 1]), [2, 1]),
        (collections.UserList([2, "a@b.cc"]), [2, REDACTED]),
        (range(3), [0, 1, 2]),
        (array.array("i", [1, 2]), [1, 2]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        ((1, (2,)), [1, [2]]),
        (type("L", (list,), {"__iter__": boom, "__len__": boom})([1]), [1]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_collection_when_redacted_then_it_is_a_list(value, shown):
    assert redact(value) == shown


def test_set_when_redacted_then_it_is_sorted_by_rendered_text():
    assert redact({"a@b.cc", "x", 5}) == ["[REDACTED]", "x", 5]


async def _coroutine():
    boom()


def test_live_object_when_redacted_then_it_is_named_and_not_used():
    coroutine = _coroutine()
    numbers = iter([1, 2])
    with socket.socket() as sock, io.StringIO("secret text") as file:
        shown = redact([(n for n in [1]), coroutine, numbers, map(boom, [1]), file, sock])
        assert file.read() == "secret text"
    coroutine.close()
    assert list(numbers) == [1, 2]
    assert shown == [
        "<generator>",
        "<coroutine>",
        "<list_iterator>",
        "<map>",
        "<StringIO>",
        "<socket>",
    ]


def test_awaitable_when_redacted_then_it_is_named():
    loop = asyncio.new_event_loop()
    try:
        assert redact(loop.create_future()) == "<Future>"
    finally:
        loop.close()


def test_bytes_when_redacted_then_they_are_text_with_the_total_length():
    assert redact(b"abc") == "b'abc'"
    assert redact(bytearray(b"abc")) == "b'abc'"
    assert redact(memoryview(b"abc")) == "b'abc'"
    for value in (b"a" * 20_000, b"\0" * 20_000, memoryview(b"b " * 10_000)):
        shown = redact(value)
        assert len(shown) <= 8_192
        assert shown.startswith("b'")
        assert shown.endswith("more bytes truncated of 20000]")


def test_bytes_when_a_secret_follows_an_escape_then_they_are_redacted():
    assert redact(b"\nSK" + b"0" * 32) == REDACTED
    assert redact(b"id\n123-45-6789") == REDACTED
    assert redact(b"mail a@b.cc") == REDACTED


class Color(enum.Enum):
    RED = "red"
    DEEP = (1, 2)
    MAIL = "a@b.cc"


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()
    __str__ = __repr__ = __hash__ = __eq__ = boom


class Whole(int):
    __int__ = __str__ = __repr__ = __index__ = boom


class Fraction(float):
    __float__ = __str__ = __repr__ = boom


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc), "2026-01-02T03:04:05+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4), "03:04:00"),
        (timedelta(days=1), "1 day, 0:00:00"),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (pathlib.PurePosixPath("/etc/x"), "/etc/x"),
        (1 + 2j, "(1+2j)"),
        (Color.RED, "red"),
        (Color.DEEP, "Color.DEEP"),
        (Color.MAIL, REDACTED),
        (Number.ONE, 1),
        (Text("text"), "text"),
        (Text("a@b.cc"), REDACTED),
        (Whole(7), 7),
        (Fraction(1.5), 1.5),
        (ValueError("bad"), "ValueError: bad"),
        (KeyError(), "KeyError"),
        (ValueError("mail a@b.cc"), REDACTED),
        (pydantic.SecretStr("hunter2"), REDACTED),
        (pydantic.SecretBytes(b"hunter2"), REDACTED),
        (collections.UserString("text"), "text"),
        (object(), "<object>"),
        (boom, "<function boom>"),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (10**4_299, 10**4_299),
        (10**4_400, "<int of 14617 bits>"),
        (-(10**4_400), "<int of 14617 bits>"),
        ("a\ud800b\0c", "a\ufffdb\ufffdc"),
        (..., "Ellipsis"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_scalar_when_redacted_then_it_is_plain_json(value, shown):
    result = redact(value)
    assert result == shown
    assert type(result) is type(shown)
    json.dumps(result)


def test_secret_wrapper_when_redacted_then_nothing_of_it_is_called():
    class Secret:
        __str__ = __repr__ = __getattribute__ = boom

    class Wrapped:
        get_secret_value = __str__ = __repr__ = boom

    assert redact([Secret(), Wrapped()]) == [REDACTED, REDACTED]


def test_numpy_scalar_when_redacted_then_it_is_a_plain_number(monkeypatch):
    numpy = types.ModuleType("numpy")
    numpy.generic = type("generic", (), {"__init__": lambda self, v: setattr(self, "v", v)})
    numpy.generic.item = lambda self: self.v
    monkeypatch.setitem(sys.modules, "numpy", numpy)
    assert redact(numpy.generic(3)) == 3
    assert redact(numpy.generic(1.5)) == 1.5
    assert redact(numpy.generic("a@b.cc")) == REDACTED


class Hostile:
    """Nothing of it may be called but `__repr__`, which raises."""

    def __repr__(self):
        raise RuntimeError("no")

    __str__ = __iter__ = __len__ = __getattr__ = __getattribute__ = __eq__ = boom
    __hash__ = __bool__ = __class__ = property(boom)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, BaseException, RecursionError])
def test_unprintable_object_when_redacted_then_a_placeholder_stands_for_it(error):
    class Unprintable:
        def __repr__(self):
            raise error

        __str__ = boom

    class Broken(Exception):
        def __str__(self):
            raise error

    assert redact(Unprintable()) == "<Unprintable: unprintable>"
    assert redact(Broken()) == "<Broken: unprintable>"


def test_hostile_object_when_redacted_then_only_its_repr_was_called():
    assert redact([Hostile()]) == ["<Hostile: unprintable>"]
    assert redact({"password": Hostile()}) == {"password": REDACTED}
    assert REDACTOR.render({"args": [Hostile()]}).payload == b'{"args":["<Hostile: unprintable>"]}'


def test_endless_mapping_and_sequence_when_redacted_then_they_are_bounded():
    class Endless(UserMapping):
        def __iter__(self):
            at = 0
            while True:
                at += 1
                yield f"k{at}"

        def __getitem__(self, key):
            return key

    class EndlessList(collections.abc.Sequence):
        def __getitem__(self, at):
            return at

        def __len__(self):
            return 10**9

    assert len(redact(Endless())) == 1_000
    shown = redact(EndlessList())
    assert len(shown) == 1_001
    assert shown[-1] == "[...999999000 more items]"


def test_unknown_object_when_it_says_much_then_it_is_kept_short_without_addresses():
    class Client:
        def __repr__(self):
            return f"<Client at 0x7f00deadbeef password='hunter2' {'x' * 100_000}>"

    shown = redact(Client())
    assert shown.startswith("<Client password='[REDACTED]' xxx")
    assert len(shown) <= 1_024


def test_unknown_object_when_a_secret_lies_behind_the_kept_part_then_it_is_redacted():
    class Client:
        def __repr__(self):
            return "word " * 250 + "a@b.cc"

    assert redact(Client()) == REDACTED


def test_dataclass_when_it_holds_itself_then_the_circle_is_cut():
    account = Account("bob", "p")
    account.user = account
    assert redact(account) == {"user": REDACTED, "password": REDACTED, "hidden": REDACTED}


def test_keys_of_any_type_when_redacted_then_they_are_text():
    key = (1, "a@b.cc")
    shown = redact({1: "a", None: "b", 1.5: "c", b"k": "d", key: "e", Color.RED: "f", False: "g"})
    assert shown == {"1": "a", "None": "b", "1.5": "c", "b'k'": "d", REDACTED: "e",
                     "red": "f", "False": "g"}  # fmt: skip


def test_key_with_fields_when_redacted_then_its_secrets_go():
    @dataclasses.dataclass(frozen=True)
    class Key:
        user: str
        password: str

    assert redact({Key("bob", "hunter2"): 1, (1, "x"): 2}) == {
        '{"password":"[REDACTED]","user":"bob"}': 1,
        '[1,"x"]': 2,
    }


def test_key_of_str_subclass_when_secret_then_its_value_is_redacted():
    class Name(str):
        __slots__ = ()

    (key,) = shown = redact({Name("password"): "x"})
    assert shown == {"password": REDACTED}
    assert type(key) is str


@pytest.mark.parametrize("value", [object, Color, Account, Model, int])
def test_class_when_redacted_then_it_is_named(value):
    assert value.__name__ in redact(value)
