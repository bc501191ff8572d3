"""Where records wait, and the journal of commands."""

from __future__ import annotations
