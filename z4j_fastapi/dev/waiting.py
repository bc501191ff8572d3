"""Wait for a condition instead of for a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

_INTERVAL_SECONDS = 0.1


def wait_until(
    probe: Callable[[], _T | None],
    *,
    timeout_seconds: float,
    what: str,
    interval_seconds: float = _INTERVAL_SECONDS,
) -> _T:
    """Call `probe` until it returns something true and hand that on.

    Args:
        probe: Asked at once and then every `interval_seconds`; what it raises ends the wait.
        timeout_seconds: When to give up. The probe is asked at least once, also with 0.
        what: What is waited for, for the error's text.
        interval_seconds: Pause between two questions.

    Returns:
        The first true value.

    Raises:
        TimeoutError: The deadline passed; the text names `what` and the last answer.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: not within {timeout_seconds:g} s; last answer {answer!r}")
        time.sleep(interval_seconds)
