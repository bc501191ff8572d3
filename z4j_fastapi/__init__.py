"""The z4j agent for FastAPI applications and their task workers.

    from fastapi import FastAPI
    from z4j_fastapi import z4j_lifespan

    app = FastAPI(lifespan=z4j_lifespan())

Names load on first use: importing the package loads none of FastAPI, pydantic,
dependency-injector, websockets or any engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from z4j_fastapi._version import __version__ as __version__

if TYPE_CHECKING:
    from z4j_fastapi.containers import AgentContainer as AgentContainer
    from z4j_fastapi.current import RuntimeDep as RuntimeDep
    from z4j_fastapi.current import get_runtime as get_runtime
    from z4j_fastapi.current import post_fork as post_fork
    from z4j_fastapi.errors import CommandError as CommandError
    from z4j_fastapi.errors import ConfigError as ConfigError
    from z4j_fastapi.errors import EngineNotInstalledError as EngineNotInstalledError
    from z4j_fastapi.errors import LocalProtocolError as LocalProtocolError
    from z4j_fastapi.errors import OutboxError as OutboxError
    from z4j_fastapi.errors import ProtocolError as ProtocolError
    from z4j_fastapi.errors import RedactionConfigError as RedactionConfigError
    from z4j_fastapi.errors import RemoteProtocolError as RemoteProtocolError
    from z4j_fastapi.errors import TransportError as TransportError
    from z4j_fastapi.errors import Z4JError as Z4JError
    from z4j_fastapi.events import Event as Event
    from z4j_fastapi.events import EventKind as EventKind
    from z4j_fastapi.framework import FastAPIFrameworkAdapter as FastAPIFrameworkAdapter
    from z4j_fastapi.install import install_z4j as install_z4j
    from z4j_fastapi.lifespan import combine_lifespans as combine_lifespans
    from z4j_fastapi.lifespan import z4j_lifespan as z4j_lifespan
    from z4j_fastapi.reconcile import areconcile_schedules as areconcile_schedules
    from z4j_fastapi.reconcile import reconcile_schedules as reconcile_schedules
    from z4j_fastapi.runtime.agent import AgentRuntime as AgentRuntime
    from z4j_fastapi.runtime.status import RuntimeStatus as RuntimeStatus
    from z4j_fastapi.settings import AgentSettings as AgentSettings
    from z4j_fastapi.task_meta import z4j_meta as z4j_meta

_HOME_OF = {
    "AgentContainer": "z4j_fastapi.containers",
    "AgentRuntime": "z4j_fastapi.runtime.agent",
    "AgentSettings": "z4j_fastapi.settings",
    "CommandError": "z4j_fastapi.errors",
    "ConfigError": "z4j_fastapi.errors",
    "EngineNotInstalledError": "z4j_fastapi.errors",
    "Event": "z4j_fastapi.events",
    "EventKind": "z4j_fastapi.events",
    "FastAPIFrameworkAdapter": "z4j_fastapi.framework",
    "LocalProtocolError": "z4j_fastapi.errors",
    "OutboxError": "z4j_fastapi.errors",
    "ProtocolError": "z4j_fastapi.errors",
    "RedactionConfigError": "z4j_fastapi.errors",
    "RemoteProtocolError": "z4j_fastapi.errors",
    "RuntimeDep": "z4j_fastapi.current",
    "RuntimeStatus": "z4j_fastapi.runtime.status",
    "TransportError": "z4j_fastapi.errors",
    "Z4JError": "z4j_fastapi.errors",
    "areconcile_schedules": "z4j_fastapi.reconcile",
    "combine_lifespans": "z4j_fastapi.lifespan",
    "get_runtime": "z4j_fastapi.current",
    "install_z4j": "z4j_fastapi.install",
    "post_fork": "z4j_fastapi.current",
    "reconcile_schedules": "z4j_fastapi.reconcile",
    "z4j_lifespan": "z4j_fastapi.lifespan",
    "z4j_meta": "z4j_fastapi.task_meta",
}

__all__ = [
    "AgentContainer",
    "AgentRuntime",
    "AgentSettings",
    "CommandError",
    "ConfigError",
    "EngineNotInstalledError",
    "Event",
    "EventKind",
    "FastAPIFrameworkAdapter",
    "LocalProtocolError",
    "OutboxError",
    "ProtocolError",
    "RedactionConfigError",
    "RemoteProtocolError",
    "RuntimeDep",
    "RuntimeStatus",
    "TransportError",
    "Z4JError",
    "__version__",
    "areconcile_schedules",
    "combine_lifespans",
    "get_runtime",
    "install_z4j",
    "post_fork",
    "reconcile_schedules",
    "z4j_lifespan",
    "z4j_meta",
]


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
