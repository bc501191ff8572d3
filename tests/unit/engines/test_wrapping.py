"""`wrapping`: once, recognisable, and put back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from z4j_fastapi.engines.wrapping import find, original_of, wrap


def counting(calls: list[str], name: str = "ours") -> Callable[[Any], Callable[..., Any]]:
    def make(original: Any) -> Callable[..., Any]:
        def replacement(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return original(*args, **kwargs)

        return replacement

    return make


def library() -> Any:
    class Base:
        def inherited(self) -> str:
            return "base"

    class Thing(Base):
        def __init__(self, first: int, *, second: str = "") -> None:
            self.first = first

        def method(self, value: int) -> int:
            """The doc."""
            return value + self.first

        method.mark = "kept"  # type: ignore[attr-defined]

    return Thing


def test_wrap_when_a_method_is_wrapped_then_it_looks_and_works_like_the_original() -> None:
    thing, calls = library(), list[str]()
    original = thing.method
    made = wrap(thing, "method", counting(calls))
    assert thing(1).method(2) == 3
    assert calls == ["ours"]
    assert inspect.signature(thing.method) == inspect.signature(original)
    assert thing.method.__doc__ == "The doc."
    assert thing.method.mark == "kept"
    assert made.original is original
    assert made.is_on_top


def test_wrap_when_init_is_wrapped_then_the_class_keeps_its_signature() -> None:
    thing = library()
    before = inspect.signature(thing)
    wrap(thing, "__init__", counting([]))
    assert inspect.signature(thing) == before


def test_wrap_when_done_twice_then_the_first_wrapping_stays() -> None:
    thing, calls = library(), list[str]()
    first = wrap(thing, "method", counting(calls))
    assert wrap(thing, "method", counting(calls, "second")) is first
    thing(1).method(1)
    assert calls == ["ours"]


def test_unwrap_when_ours_is_on_top_then_the_very_original_is_back() -> None:
    thing = library()
    before = vars(thing)["method"]
    made = wrap(thing, "method", counting([]))
    assert made.unwrap()
    assert vars(thing)["method"] is before
    assert not made.unwrap()
    assert not made.is_on_top


def test_unwrap_when_the_method_was_inherited_then_the_class_has_none_of_its_own() -> None:
    thing = library()
    made = wrap(thing, "inherited", counting([]))
    assert "inherited" in vars(thing)
    made.unwrap()
    assert "inherited" not in vars(thing)
    assert thing(1).inherited() == "base"


def test_unwrap_when_somebody_wrapped_ours_then_their_wrapper_stays() -> None:
    thing, calls = library(), list[str]()
    made = wrap(thing, "method", counting(calls))
    ours = thing.method

    @functools.wraps(ours)
    def theirs(self: Any, value: int) -> Any:
        calls.append("theirs")
        return ours(self, value)

    thing.method = theirs
    assert not made.unwrap()
    assert thing.method is theirs
    # And the next attach finds ours below it instead of wrapping a second time.
    assert wrap(thing, "method", counting(calls, "again")) is made
    thing(1).method(1)
    assert calls == ["theirs", "ours"]


def test_wrap_when_an_objects_attribute_is_none_then_none_is_put_back() -> None:
    class Pool:
        def __init__(self) -> None:
            self.serializer: Any = None

    pool = Pool()
    made = wrap(pool, "serializer", lambda original: lambda: original)
    assert pool.serializer() is None
    assert made.unwrap()
    assert pool.serializer is None


def test_wrap_when_the_original_is_a_callable_object_then_its_state_is_not_copied() -> None:
    class Serializer:
        def __init__(self) -> None:
            self.secret = "x"

        def __call__(self) -> str:
            return self.secret

    class Pool:
        def __init__(self) -> None:
            self.serializer: Any = Serializer()

    pool = Pool()
    before = pool.serializer
    wrap(pool, "serializer", counting([]))
    assert pool.serializer() == "x"
    assert not hasattr(pool.serializer, "secret")
    assert original_of(pool.serializer) is before
    assert original_of(before) is before


def test_find_when_a_value_answers_to_any_name_then_it_is_not_taken_for_ours() -> None:
    class Anything:
        def __getattr__(self, name: str) -> Any:
            return self

    assert find(Anything()) is None
    assert find(None) is None


def test_wrap_when_the_owner_dies_then_the_wrapping_does_not_keep_it_alive() -> None:
    class Pool:
        serializer = None

    pool = Pool()
    made = wrap(pool, "serializer", lambda original: lambda: original)
    assert made.is_on_top
    del pool
    assert not made.is_on_top
    assert not made.unwrap()
