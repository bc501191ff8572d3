"""The z4j agent for FastAPI applications and their task workers."""

from __future__ import annotations

from z4j_fastapi._version import __version__ as __version__
