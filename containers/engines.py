"""From engine handles to adapters; a library is imported only when its handle is given."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from z4j_fastapi.errors import ConfigError, EngineNotInstalledError

if TYPE_CHECKING:
    from z4j_fastapi.engines.base import EngineAdapter
    from z4j_fastapi.settings import AgentSettings

#: Handle keyword to engine, for engines that a later version brings.
_LATER = {
    "celery_app": "celery",
    "rq_app": "rq",
    "dramatiq_broker": "dramatiq",
    "huey": "huey",
}


def build_engines(
    *,
    settings: AgentSettings,
    overrides: Mapping[str, Any],
    adapters: Sequence[EngineAdapter],
    host_loop: AbstractEventLoop | None = None,
) -> Sequence[EngineAdapter]:
    """One adapter for every engine whose handle was given.

    Args:
        settings: A non-empty `engines` restricts what is attached.
        overrides: As given to `z4j_lifespan`; handles by keyword.
        adapters: Adapters made elsewhere; they win over a handle of the same engine.
        host_loop: Where the application's brokers live.
    Raises:
        EngineNotInstalledError: A handle whose library cannot be imported.
        ConfigError: A handle of an engine that this version cannot drive, or a name in the
            `engines` argument without a handle.
    """
    built: dict[str, EngineAdapter] = {adapter.name: adapter for adapter in adapters}
    for handle, engine in _LATER.items():
        if overrides.get(handle) is not None:
            _require_library(engine, handle)
            raise ConfigError(
                f"{handle}: engine {engine!r} is not in this version of z4j-fastapi yet; "
                "leave the handle out"
            )
    makers: Mapping[str, Callable[[Mapping[str, Any]], EngineAdapter | None]] = {
        "arq": _arq,
        "taskiq": partial(_taskiq, host_loop=host_loop),
    }
    for engine, make in makers.items():
        if engine not in built and (adapter := make(overrides)) is not None:
            built[engine] = adapter
    return _restricted(settings, built)


def _restricted(
    settings: AgentSettings, built: Mapping[str, EngineAdapter]
) -> Sequence[EngineAdapter]:
    if not settings.engines:
        return tuple(built.values())
    if settings.source_of("engines") == "keyword":
        missing = [name for name in settings.engines if name not in built]
        if missing:
            raise ConfigError(
                f"engines: no handle was given for {', '.join(sorted(missing))}; "
                "pass the handle, or take the name out"
            )
    return tuple(adapter for name, adapter in built.items() if name in settings.engines)


def _arq(overrides: Mapping[str, Any]) -> EngineAdapter | None:
    redis_settings = overrides.get("arq_redis_settings")
    if redis_settings is None:
        return None
    _require_library("arq", "arq_redis_settings")
    adapter: EngineAdapter = import_module("z4j_fastapi.engines.arq").ArqEngineAdapter(
        redis_settings=redis_settings,
        function_names=overrides.get("arq_function_names") or (),
        queue_name=overrides.get("arq_queue_name"),
    )
    return adapter


def _taskiq(
    overrides: Mapping[str, Any], *, host_loop: AbstractEventLoop | None
) -> EngineAdapter | None:
    brokers: list[object] = []
    one: object = overrides.get("taskiq_broker")
    many: object = overrides.get("taskiq_brokers")
    if many is not None and not isinstance(many, Iterable):
        raise ConfigError("taskiq_brokers: must be an iterable of brokers; for one, taskiq_broker")
    given: list[object] = [] if one is None else [one]
    given.extend(cast("Iterable[object]", many or ()))
    for broker in given:
        if not any(broker is known for known in brokers):
            brokers.append(broker)
    if not brokers:
        return None
    _require_library("taskiq", "taskiq_brokers" if many is not None else "taskiq_broker")
    adapter: EngineAdapter = import_module("z4j_fastapi.engines.taskiq").TaskiqEngineAdapter(
        brokers=tuple(brokers), broker_loop=host_loop
    )
    return adapter


def _require_library(engine: str, handle: str) -> None:
    try:
        found = find_spec(engine) is not None
    except ValueError:  # a module put into sys.modules without a spec
        found = True
    if not found:
        raise EngineNotInstalledError(engine, handle=handle)
