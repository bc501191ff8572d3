"""Which keyword arguments the entry points take, and the error for others."""

from __future__ import annotations

from collections.abc import Iterable

from z4j_fastapi.settings.fields import SETTINGS

#: Settings that `z4j_lifespan` and `install_z4j` take.
SETTING_KEYWORDS: frozenset[str] = frozenset(
    name for name, setting in SETTINGS.items() if setting.keyword
)

#: Keyword arguments of the entry points that are objects of the host's, or about schedules.
#: Spec: config-and-cli.md section 3.
LIFESPAN_HANDLES: frozenset[str] = frozenset(
    {
        "celery_app",
        "rq_app",
        "arq_redis_settings",
        "arq_function_names",
        "arq_queue_name",
        "dramatiq_broker",
        "huey",
        "taskiq_broker",
        "taskiq_brokers",
        "z4j_schedules",
        "celery_beat_schedules",
        "reconcile_autorun",
        "reconcile_default_engine",
        "reconcile_owner",
        "reconcile_source_tag",
    }
)


def check_keyword_names(
    names: Iterable[str], allowed: Iterable[str], *, caller: str = "z4j_lifespan"
) -> None:
    """Refuse keyword arguments that do not exist, as Python itself would, with a suggestion.

    Args:
        names: What was passed.
        allowed: What `caller` takes.
        caller: Name of the function for the message.

    Raises:
        TypeError: For the first unknown name in alphabetical order.
    """
    known = frozenset(allowed)
    for name in sorted(set(names) - known):
        from difflib import get_close_matches  # noqa: PLC0415 - only for the error

        close = get_close_matches(name, sorted(known), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"{caller}() got an unexpected keyword argument {name!r}{hint}")
