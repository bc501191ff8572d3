"""Declarative schedules. Not in this version: both functions say so."""

from __future__ import annotations

from typing import Any, NoReturn

from z4j_fastapi.errors import ConfigError

_MESSAGE = (
    "reconcile_schedules: schedule reconciliation is not in this version of z4j-fastapi; "
    "create the schedules in the brain's dashboard until then"
)


def reconcile_schedules(**options: Any) -> NoReturn:
    """Bring the brain's schedules in line with declared ones.

    Args:
        **options: As documented for the official agent (config-and-cli.md section 7).
    Raises:
        ConfigError: Always, in this version.
    """
    del options
    raise ConfigError(_MESSAGE)


async def areconcile_schedules(**options: Any) -> NoReturn:
    """`reconcile_schedules` for callers on an event loop.

    Raises:
        ConfigError: Always, in this version.
    """
    reconcile_schedules(**options)
