"""Fixtures for real servers, registered once for the whole suite by `tests/conftest.py`.

They never skip: without the brain's environment they fail and say what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.brain import BrainProject, RealBrain
from support.fault_proxy import FaultProxy
from support.processes import ProcessFamily
from support.valkey import ValkeyDatabase, ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBrain]:
    """The session's brain. Tests must neither stop it nor change it outside their project."""
    server = RealBrain(tmp_path_factory.mktemp("brain"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def brain_project(brain: RealBrain) -> BrainProject:
    """A new project of the session's brain, without agents."""
    return brain.provision_project()


@pytest.fixture
def outage_brain(tmp_path: Path) -> Iterator[RealBrain]:
    """A brain of the test's own, which it may stop, kill and restart."""
    server = RealBrain(tmp_path / "outage-brain")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def outage_project(outage_brain: RealBrain) -> BrainProject:
    """A new project of the test's own brain."""
    return outage_brain.provision_project()


@pytest.fixture
def brain_proxy(brain: RealBrain) -> Iterator[FaultProxy]:
    """A proxy of the test's own before the session's brain; agents are minted with its `url`."""
    proxy = FaultProxy(brain.port)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """The session's Valkey server. Tests must not stop it."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> ValkeyDatabase:
    """An empty database of the session's server: `valkey.url`, `valkey.port`, `valkey.index`."""
    return valkey_server.fresh_database()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[ProcessFamily]:
    """Starts children of the test; all are killed and collected after it, their tails printed."""
    family = ProcessFamily(tmp_path)
    try:
        yield family
    finally:
        tails = family.tails()
        family.kill_all()
        if tails:
            print(tails)  # pytest shows it when the test fails
