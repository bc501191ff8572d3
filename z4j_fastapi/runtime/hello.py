"""What this runtime says first."""

from __future__ import annotations

import platform
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from z4j_fastapi._version import Z4J_LINE, __version__
from z4j_fastapi.protocol.handshake import Hello

if TYPE_CHECKING:
    from z4j_fastapi.engines.base import EngineAdapter
    from z4j_fastapi.runtime.identity import WorkerIdentity
    from z4j_fastapi.settings import AgentSettings


def build_hello(
    *,
    settings: AgentSettings,
    identity: WorkerIdentity,
    engines: Mapping[str, EngineAdapter],
    framework: str,
) -> Hello:
    """The `hello` of a session that begins now.

    Args:
        settings: For label, environment and tags.
        identity: Who we are.
        engines: What is attached now, by name.
        framework: `fastapi`.
    Spec: wire-protocol.md section 3.
    """
    host: dict[str, object] = {
        "hostname": socket.gethostname(),
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.release()}-{platform.machine()}",
        "package": f"z4j-fastapi {__version__}",
        "environment": settings.environment,
    }
    if settings.agent_name:
        host["name"] = settings.agent_name
    if settings.tags:
        host["tags"] = dict(settings.tags)
    return Hello(
        agent_version=Z4J_LINE,
        framework=framework,
        engines=tuple(sorted(engines)),
        schedulers=(),
        capabilities={
            name: tuple(sorted(adapter.capabilities())) for name, adapter in engines.items()
        },
        host=host,
        worker_id=identity.worker_id,
        worker_role=identity.role,
        worker_pid=identity.pid,
        worker_started_at=identity.started_at,
        runtime_features=("retry_by_reference",),
    )
