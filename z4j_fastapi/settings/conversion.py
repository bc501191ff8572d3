"""From what a user gave to a setting's type: lax, but never with loss.

Pure functions, the same under both versions of pydantic. Messages say what is wanted and never show
what was given: any value may be a misplaced secret.
"""

from __future__ import annotations

import json
import math
import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import SupportsIndex, cast
from uuid import UUID

from pydantic import SecretStr

from z4j_fastapi.settings.description import Kind, Setting
from z4j_fastapi.settings.tags import Tags
from z4j_fastapi.settings.urls import UrlError, normalise_brain_url, normalise_proxy_url

_TRUE = frozenset({"1", "true", "yes", "on", "t", "y"})
_FALSE = frozenset({"0", "false", "no", "off", "f", "n"})
#: What follows the bracket tells an array from a list of patterns that begins with a character
#: class, `[a-z]+_pin,x`, which users of the official agent may have.
_JSON_ARRAY = re.compile(r'\s*\[\s*["\]]')


class EnvironmentText(str):
    """Text from the environment, where lists are written with commas."""

    __slots__ = ()


class ConversionError(ValueError):
    """What is wrong with a value, and the fix; holds no part of the value."""


def convert(setting: Setting, value: object) -> object:
    """`value` as the type of `setting`.

    Args:
        setting: What is wanted.
        value: What was given: a keyword argument, or an `EnvironmentText`.

    Raises:
        ConversionError: It cannot be converted without loss.

    Spec: config-and-cli.md section 1.
    """
    try:
        converted = _CONVERTERS[setting.kind](setting, value)
    except UrlError as error:
        problem = str(error)
    except ConversionError as error:
        problem = str(error)
    except Exception:  # noqa: BLE001 - a foreign object's own conversion may raise anything
        problem = _wanted(setting)
    else:
        return (not converted) if setting.inverted and _is_text(value) else converted
    # Outside the handlers, so that no foreign error with the value in its text is chained.
    raise ConversionError(problem)


def _is_text(value: object) -> bool:
    return isinstance(value, EnvironmentText)


def _wanted(setting: Setting) -> str:
    fix = setting.fix or "correct it"
    return f"must be {setting.type_text}; {fix}"


def _plain(value: object) -> object:
    """Text without wrapper: a plain `str` for `SecretStr` and for subclasses of `str`."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    # `str(member)` of a `class E(str, Enum)` would be "E.MEMBER".
    return str.__str__(value) if isinstance(value, str) else value


def _text(setting: Setting, value: object) -> str:
    plain = _plain(value)
    if isinstance(plain, UUID) or (isinstance(plain, int) and not isinstance(plain, bool)):
        plain = str(plain)
    if not isinstance(plain, str):
        raise ConversionError(_wanted(setting))
    return _encodable(plain.strip())


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        text = ""
        encodable = False
    else:
        encodable = True
    if not encodable:
        raise ConversionError("holds bytes that are not UTF-8; correct it")
    return text


def _secret(setting: Setting, value: object) -> SecretStr:
    plain = _plain(value)
    if not isinstance(plain, str):
        raise ConversionError(_wanted(setting))
    return SecretStr(_encodable(plain.strip()))


def _url_text(setting: Setting, value: object) -> str:
    plain = _plain(value)
    geturl = getattr(plain, "geturl", None)  # urllib.parse.SplitResult
    if callable(geturl):
        plain = geturl()
    elif not isinstance(plain, str) and hasattr(plain, "scheme") and hasattr(plain, "host"):
        plain = str(plain)  # URL objects of pydantic, httpx, yarl, Starlette
    if not isinstance(plain, str):
        raise ConversionError(_wanted(setting))
    return _encodable(plain.strip())


def _brain_url(setting: Setting, value: object) -> str:
    return normalise_brain_url(_url_text(setting, value))


def _proxy_url(setting: Setting, value: object) -> SecretStr:
    return SecretStr(normalise_proxy_url(_url_text(setting, value)))


def _choice(setting: Setting, value: object) -> str:
    text = _text(setting, value).lower()
    for choice in setting.choices:
        if choice.lower() == text:
            return choice
    raise ConversionError(_wanted(setting))


def _boolean(setting: Setting, value: object) -> bool:
    plain = _plain(value)
    if isinstance(plain, bool):
        return plain
    if isinstance(plain, int) and plain in (0, 1):
        return plain == 1
    if isinstance(plain, str):
        word = plain.strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
    raise ConversionError(_wanted(setting))


def _integer(setting: Setting, value: object) -> int:
    plain = _plain(value)
    if isinstance(plain, str):
        return int(plain.strip())
    if isinstance(plain, bool):
        raise ConversionError(_wanted(setting))
    if isinstance(plain, float):
        if not plain.is_integer():
            raise ConversionError(_wanted(setting))
        return int(plain)
    # `int()` of a plain value: subclasses, such as numpy's, are foreign objects.
    return int(operator.index(cast("SupportsIndex", plain)))


def _seconds(setting: Setting, value: object) -> float:
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, (str, int, float)):
        raise ConversionError(_wanted(setting))
    seconds = float(plain)
    if not math.isfinite(seconds):
        raise ConversionError(_wanted(setting))
    return seconds


def _path(setting: Setting, value: object) -> Path:
    plain = _plain(value)
    if isinstance(plain, os.PathLike):
        plain = os.fspath(cast("os.PathLike[str]", plain))
    if not isinstance(plain, str) or not plain.strip() or "\0" in plain:
        raise ConversionError(_wanted(setting))
    os.fsencode(plain)  # raises for what no file system call takes
    return Path(plain.strip())


def _entries(setting: Setting, value: object) -> list[str]:
    plain = _plain(value)
    if isinstance(plain, (Sequence, AbstractSet)) and not isinstance(
        plain, (str, bytes, bytearray)
    ):
        given: list[object] = list(cast("Sequence[object]", plain))
        if isinstance(plain, AbstractSet):
            given.sort(key=repr)  # the same order in every process
    else:
        raise ConversionError(_wanted(setting))
    entries: list[str] = []
    for number, entry in enumerate(given, start=1):
        text = _plain(entry)
        if not isinstance(text, str):
            raise ConversionError(f"entry {number} is not text; correct it")
        entries.append(_encodable(text))
    return entries


def _names(setting: Setting, value: object) -> tuple[str, ...]:
    plain = _plain(value)
    given = plain.split(",") if isinstance(plain, str) else _entries(setting, value)
    names = (_encodable(name.strip()) for name in given)
    return tuple(dict.fromkeys(name for name in names if name))


def _patterns(setting: Setting, value: object) -> tuple[str, ...]:
    plain = _plain(value)
    if not isinstance(plain, str):
        # Not stripped: white space in a pattern means something.
        return tuple(_entries(setting, value))
    if not _is_text(value):
        raise ConversionError("is one text; pass a list of patterns")
    if _JSON_ARRAY.match(plain):
        parsed = _json_list(plain)
        if parsed is None:
            raise ConversionError(
                "begins as a JSON array but is none; check the quotes and double each backslash"
            )
        return tuple(_entries(setting, parsed))
    return tuple(_encodable(part.strip()) for part in plain.split(",") if part.strip())


def _json_list(text: str) -> list[object] | None:
    try:
        parsed: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("list[object]", parsed) if isinstance(parsed, list) else None


def _tags(setting: Setting, value: object) -> Tags:
    plain = _plain(value)
    if isinstance(plain, str):
        pairs = (part.partition("=") for part in plain.split(","))
        split = {key.strip(): tail.strip() for key, equals, tail in pairs if equals}
        return Tags({_encodable(key): _encodable(tail) for key, tail in split.items() if key})
    if not isinstance(plain, Mapping):
        raise ConversionError(_wanted(setting))
    tags: dict[str, str] = {}
    for number, (key, tail) in enumerate(cast("Mapping[object, object]", plain).items(), start=1):
        name = _plain(key)
        if not isinstance(name, str):
            raise ConversionError(f"the name of entry {number} is not text; correct it")
        if name.strip():
            tags[_encodable(name.strip())] = _tag_value(number, tail)
    return Tags(tags)


def _tag_value(number: int, value: object) -> str:
    plain = _plain(value)
    if isinstance(plain, bool):
        plain = "true" if plain else "false"
    if isinstance(plain, (int, float, UUID)):
        plain = str(plain)
    if not isinstance(plain, str):
        raise ConversionError(f"the value of entry {number} is not text; correct it")
    return _encodable(plain.strip())


_CONVERTERS: Mapping[Kind, Callable[[Setting, object], object]] = {
    Kind.TEXT: _text,
    Kind.SECRET: _secret,
    Kind.BRAIN_URL: _brain_url,
    Kind.PROXY_URL: _proxy_url,
    Kind.CHOICE: _choice,
    Kind.BOOLEAN: _boolean,
    Kind.INTEGER: _integer,
    Kind.SECONDS: _seconds,
    Kind.NAMES: _names,
    Kind.PATTERNS: _patterns,
    Kind.TAGS: _tags,
    Kind.PATH: _path,
}
