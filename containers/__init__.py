"""The composition root: the only place that names concrete classes.

Each application gets a container of its own; there is none at module level. Override providers on
the instance, before the lifespan is entered or with `with container.x.override(...)`.
"""

from __future__ import annotations

if __name__ != "z4j_fastapi.containers":
    # The repository's top level is on the path in a checkout: a second copy of every class would
    # come of it.
    raise ImportError("import z4j_fastapi.containers, not containers")

from z4j_fastapi.containers.agent import AgentContainer as AgentContainer
from z4j_fastapi.containers.building import is_disabled as is_disabled
from z4j_fastapi.containers.building import join_runtime as join_runtime
from z4j_fastapi.containers.building import override as override
from z4j_fastapi.containers.building import with_options as with_options
from z4j_fastapi.containers.building import worker_container as worker_container
