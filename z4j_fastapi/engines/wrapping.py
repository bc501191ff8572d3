"""The only place that wraps other people's methods and puts them back.

An engine's own hooks come first; where none reaches a moment, its adapter wraps a method of a class
or an attribute of one object here. A wrapping is made once, keeps the original, looks like it
(`functools.update_wrapper`: libraries read signatures), and is undone by `unwrap` where it is still
on top. Where somebody wrapped ours in turn it stays in their chain, so a replacement must be cheap
and do nothing while no agent is attached; the next `wrap` finds it there and makes no second one.
"""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

_MARK = "__z4j_wrapping__"

#: Nobody stacks more wrappers than this; bounds the walk over objects that answer to any name.
_LONGEST_CHAIN = 32

_lock = threading.RLock()


class Wrapping:
    """One replaced attribute. Made by `wrap`.

    Args:
        owner: The class or object whose attribute was replaced; held weakly where it can be.
        name: The attribute.
        original: What was there before; None if that was None.
        replacement: What is there now.
        was_own: The owner itself had the attribute, it was not inherited.
    """

    __slots__ = ("__weakref__", "_owner", "_was_own", "name", "original", "replacement")

    def __init__(
        self, owner: Any, name: str, original: Any, replacement: Any, *, was_own: bool
    ) -> None:
        self._owner = _reference(owner)
        self._was_own = was_own
        self.name = name
        self.original = original
        self.replacement = replacement

    @property
    def is_on_top(self) -> bool:
        """Whether the owner's attribute is still our replacement."""
        owner = self._owner()
        return owner is not None and getattr(owner, self.name, None) is self.replacement

    def unwrap(self) -> bool:
        """Put the original back if our replacement is still on top. Idempotent.

        Returns:
            True when the attribute is the original again.
        """
        with _lock:
            owner = self._owner()
            if owner is None or not self.is_on_top:
                return False
            if self._was_own:
                setattr(owner, self.name, self.original)
            else:
                delattr(owner, self.name)
            return True


def wrap(owner: Any, name: str, make: Callable[[Any], Callable[..., Any]]) -> Wrapping:
    """Replace `owner.name` by what `make(original)` returns. Idempotent.

    For plain methods of a class and for attributes of one object that hold a callable or None; not
    for static methods, class methods and properties.

    Args:
        owner: A class, or one object.
        name: The attribute to replace.
        make: Given the original, returns a plain function that calls it. Not called when our
            replacement is in place already, on top or under somebody else's.
    Returns:
        The new wrapping, or the one that is there.
    """
    with _lock:
        original = getattr(owner, name)
        existing = find(original)
        if existing is not None:
            return existing
        replacement = make(original)
        if callable(original):
            functools.update_wrapper(
                replacement,
                original,
                # An object's state is not a function's attributes: leave it alone.
                updated=functools.WRAPPER_UPDATES
                if isinstance(original, types.FunctionType)
                else (),
            )
        wrapping = Wrapping(
            owner, name, original, replacement, was_own=name in getattr(owner, "__dict__", {})
        )
        setattr(replacement, _MARK, wrapping)
        setattr(owner, name, replacement)
        return wrapping


def find(value: Any) -> Wrapping | None:
    """Our wrapping in `value` or in what it wraps (`__wrapped__`), if there is one."""
    for _ in range(_LONGEST_CHAIN):
        if value is None:
            return None
        wrapping = getattr(value, _MARK, None)
        # update_wrapper copies attributes, so the mark alone proves nothing.
        if isinstance(wrapping, Wrapping) and wrapping.replacement is value:
            return wrapping
        value = getattr(value, "__wrapped__", None)
    return None


def original_of(value: Any) -> Any:
    """`value`, or what was there before where `value` is a replacement of ours."""
    wrapping = find(value)
    return wrapping.original if wrapping is not None and wrapping.replacement is value else value


def _reference(owner: Any) -> Callable[[], Any]:
    """A weak reference, or a strong one where the object admits none."""
    try:
        return weakref.ref(owner)
    except TypeError:
        return lambda: owner
