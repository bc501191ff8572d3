"""The official agent's module of the same name, for imports that users have."""

from __future__ import annotations

from z4j_fastapi.reconcile import reconcile_schedules

__all__ = ["reconcile_schedules"]
