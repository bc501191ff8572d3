"""Run the real brain on this machine: SQLite, loopback, a state directory of its own.

The brain is a program in an environment of its own and is never imported.
"""

from __future__ import annotations

import os
import secrets
import urllib.request
from typing import TYPE_CHECKING

from z4j_fastapi.dev.child import ChildError, ChildProcess
from z4j_fastapi.dev.ports import LOOPBACK, free_port
from z4j_fastapi.dev.rest import API_PREFIX, BrainRest
from z4j_fastapi.dev.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ADMIN_EMAIL = "admin@example.com"

# A first start migrates the database: 5 to 7 s on two slow cores, far more on busy ones.
_READY_SECONDS = 90.0
_PROBE_SECONDS = 2.0
_HTTP_OK = 200


def generate_password() -> str:
    """Make a password that the brain's policy accepts.

    Returns:
        At least 12 characters of at least three classes, different at every call.
    """
    return f"Dev-{secrets.token_hex(8)}"


class LocalBrain:
    """One brain: started, stopped, killed and started again on the same port and state.

    Args:
        executable: The `z4j` program of the brain's environment.
        state_dir: Its state directory (database, secrets, log); made if missing.
        port: Port on the loopback address; None picks a free one.
        extra_env: More variables for the brain, such as `Z4J_COMMAND_TIMEOUT_SECONDS`.
    """

    def __init__(
        self,
        executable: Path,
        *,
        state_dir: Path,
        port: int | None = None,
        extra_env: Mapping[str, str] | None = None,
    ) -> None:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.port = port or free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.email = ADMIN_EMAIL
        self.password = generate_password()
        self.process = ChildProcess(
            "brain",
            [
                str(executable),
                "serve",
                "--environment",
                "dev",
                "--host",
                LOOPBACK,
                "--port",
                str(self.port),
            ],
            log_path=state_dir / "brain.log",
            env=self._environ(state_dir, extra_env or {}),
        )

    def start(self) -> None:
        """Start the brain and wait until it answers; also after `stop` and `kill`.

        Raises:
            ChildError: It did not get ready; the text holds the end of its log.
        """
        self.process.start()
        try:
            wait_until(self._is_ready, timeout_seconds=_READY_SECONDS, what="brain ready")
        except TimeoutError as error:
            tail = self.process.tail()
            self.process.kill()
            raise ChildError(f"{error}\n{tail}") from None

    def stop(self) -> None:
        """End the brain with SIGTERM; its state stays."""
        self.process.stop()

    def kill(self) -> None:
        """End the brain with SIGKILL; its state stays."""
        self.process.kill()

    def rest(self) -> BrainRest:
        """A client of its REST API, as the administrator."""
        return BrainRest(self.url, email=self.email, password=self.password)

    def _environ(self, state_dir: Path, extra_env: Mapping[str, str]) -> dict[str, str]:
        # Agent and brain share the prefix of their variables; what is set for agents of this
        # process is not meant for the brain.
        kept = {key: value for key, value in os.environ.items() if not key.startswith("Z4J_")}
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            kept.pop(name, None)
        return {
            **kept,
            "Z4J_HOME": str(state_dir),
            "Z4J_BOOTSTRAP_ADMIN_EMAIL": self.email,
            "Z4J_BOOTSTRAP_ADMIN_PASSWORD": self.password,
            "PYTHONUNBUFFERED": "1",
            **extra_env,
        }

    def _is_ready(self) -> bool:
        if not self.process.running:
            raise ChildError(f"the brain ended ({self.process.returncode}):\n{self.process.tail()}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}{API_PREFIX}/health/ready", timeout=_PROBE_SECONDS) as ok:
                return bool(ok.status == _HTTP_OK)
        except OSError:  # URLError and HTTPError are OSErrors: not there yet, or not ready yet
            return False
