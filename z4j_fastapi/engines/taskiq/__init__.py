"""taskiq: `TaskiqEngineAdapter`, `Z4JTaskiqMiddleware` and, for workers, `attach_to_broker`.

Loaded on first use: importing this package imports neither taskiq nor an agent.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from z4j_fastapi.engines.taskiq.adapter import TaskiqEngineAdapter as TaskiqEngineAdapter
    from z4j_fastapi.engines.taskiq.middleware import Z4JTaskiqMiddleware as Z4JTaskiqMiddleware
    from z4j_fastapi.workers.taskiq import attach_to_broker as attach_to_broker

__all__ = ["TaskiqEngineAdapter", "Z4JTaskiqMiddleware", "attach_to_broker"]

# By name, since the attach function is an entry point above this layer (style.md part 5).
_MODULES = {
    "TaskiqEngineAdapter": "z4j_fastapi.engines.taskiq.adapter",
    "Z4JTaskiqMiddleware": "z4j_fastapi.engines.taskiq.middleware",
    "attach_to_broker": "z4j_fastapi.workers.taskiq",
}


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
