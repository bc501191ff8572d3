"""taskiq: `TaskiqEngineAdapter`, `attach_to_broker` and the middleware, loaded on first use."""

from __future__ import annotations

import importlib

__all__ = ["TaskiqEngineAdapter", "Z4JTaskiqMiddleware", "attach_to_broker"]

#: `attach_to_broker` is an entry point and lives above the engines; it is offered here by name only
#: (no import statement), because users expect it under the engine's name.
_HOMES = {
    "TaskiqEngineAdapter": "z4j_fastapi.engines.taskiq.adapter",
    "Z4JTaskiqMiddleware": "z4j_fastapi.engines.taskiq.middleware",
    "attach_to_broker": "z4j_fastapi.workers.taskiq",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
