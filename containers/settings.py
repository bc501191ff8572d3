"""From keyword arguments to settings."""

from __future__ import annotations

from collections.abc import Mapping

from z4j_fastapi.errors import ConfigError
from z4j_fastapi.settings import LIFESPAN_HANDLES, AgentSettings, load_settings

#: Keyword arguments about schedules, which a later version brings.
_SCHEDULE_OPTIONS = frozenset(
    {
        "z4j_schedules",
        "celery_beat_schedules",
        "reconcile_autorun",
    }
)


def settings_from(overrides: Mapping[str, object]) -> AgentSettings:
    """Load the settings from the non-handle options over the environment.

    Args:
        overrides: As given to `z4j_lifespan`, engine handles included.
    Raises:
        ConfigError: Every problem at once.
    """
    for name in sorted(_SCHEDULE_OPTIONS):
        if overrides.get(name):
            raise ConfigError(
                f"{name}: schedules are not in this version of z4j-fastapi yet; leave it out"
            )
    return load_settings(
        {name: value for name, value in overrides.items() if name not in LIFESPAN_HANDLES}
    )
