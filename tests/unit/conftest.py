from __future__ import annotations

import os

import pytest
from support.memory_brain import MemoryBrain


@pytest.fixture(autouse=True)
def no_z4j_environment(monkeypatch, tmp_path):
    """The developer's own Z4J_* variables and state directory stay out of unit tests."""
    for name in list(os.environ):
        if name.startswith("Z4J_") and not name.startswith("Z4J_TEST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("Z4J_HOME", str(tmp_path / "z4j-home"))


@pytest.fixture
def memory_brain():
    return MemoryBrain()
