"""arq: `ArqEngineAdapter` and, for worker processes, `attach_to_worker_settings`.

Loaded on first use: importing this package imports neither arq nor an agent.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from z4j_fastapi.engines.arq.adapter import ArqEngineAdapter as ArqEngineAdapter
    from z4j_fastapi.workers.arq import attach_to_worker as attach_to_worker
    from z4j_fastapi.workers.arq import attach_to_worker_settings as attach_to_worker_settings

__all__ = ["ArqEngineAdapter", "attach_to_worker", "attach_to_worker_settings"]

# By name, since the attach functions are entry points above this layer (style.md part 5).
_MODULES = {
    "ArqEngineAdapter": "z4j_fastapi.engines.arq.adapter",
    "attach_to_worker": "z4j_fastapi.workers.arq",
    "attach_to_worker_settings": "z4j_fastapi.workers.arq",
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
