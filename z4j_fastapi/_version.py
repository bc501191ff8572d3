"""The package's own version, and the z4j line whose contract it implements."""

from __future__ import annotations

__version__ = "0.1.0"

#: What `hello` reports as `agent_version`: the brain compares it with itself (wire-protocol 3).
Z4J_LINE = "1.13.0"

#: `hello.protocol_version` and, as an integer, every frame's `v`.
PROTOCOL_VERSION = "2"
