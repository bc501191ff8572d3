"""The official agent's module of the same name, for imports that users have."""

from __future__ import annotations

from z4j_fastapi.current import get_runtime
from z4j_fastapi.install import install_z4j
from z4j_fastapi.lifespan import z4j_lifespan

__all__ = ["get_runtime", "install_z4j", "z4j_lifespan"]
