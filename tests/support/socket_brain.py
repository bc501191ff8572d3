"""A brain on a real WebSocket, fast and steerable, for tests whose agent is another process.

It checks every frame as the specification says (`brain_side`), and can do what the real brain never
does: send one command twice, keep silent, end a session at will. The real brain remains the judge.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections import Counter
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from support.brain_side import AGENT_ID, KEY, PROJECT_ID, BrainSide
from support.ports import LOOPBACK, free_port
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

_T = TypeVar("_T")
_CALL_SECONDS = 10.0
TOKEN = "token-of-the-socket-brain"


class Session:
    """One accepted connection."""

    def __init__(self, websocket: ServerConnection, hello: dict[str, Any]) -> None:
        self.websocket = websocket
        self.side = BrainSide()
        self.hello = hello["payload"]
        self.open = True

    @property
    def pid(self) -> int:
        return int(self.hello["worker_pid"])


class SocketBrain:
    """Runs on a thread of its own; every method may be called from any thread."""

    def __init__(self) -> None:
        self.port = free_port()
        self.sessions: list[Session] = []
        self.frames: list[dict[str, Any]] = []
        self.events: dict[str, dict[str, Any]] = {}
        self.deliveries: Counter[str] = Counter()  # by event id; above 1: sent again
        self.violations: list[str] = []
        self.acknowledge = True
        self.seconds_a_batch = 0.0
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="socket-brain", daemon=True
        )
        self._server: Any = None

    # -- life

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()
        self._await(self._listen())

    def stop_listening(self) -> None:
        """End every session; new connections are refused until `start`."""
        self._await(self._stop_listening())

    def close(self) -> None:
        self.stop_listening()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS)
        self._loop.close()

    def environ(self, state_dir: Path) -> dict[str, str]:
        """What lets a process be this brain's agent."""
        return {
            "Z4J_BRAIN_URL": f"http://{LOOPBACK}:{self.port}",
            "Z4J_TOKEN": TOKEN,
            "Z4J_HMAC_SECRET": base64.urlsafe_b64encode(KEY).decode(),
            "Z4J_PROJECT_ID": "shop",
            "Z4J_HOME": str(state_dir),
        }

    def options(self, directory: Path) -> dict[str, str]:
        """The same as keyword options, for an agent of this process."""
        return {
            "brain_url": f"http://{LOOPBACK}:{self.port}",
            "token": TOKEN,
            "hmac_secret": base64.urlsafe_b64encode(KEY).decode(),
            "project_id": "shop",
            "buffer_path": str(directory / "outbox"),
        }

    # -- what tests look at

    def task_ids(self) -> Counter[str]:
        """How many different events there are of each task."""
        return Counter(event["task_id"] for event in self.events.values())

    def of_type(self, frame_type: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == frame_type]

    def results(self, command_id: str) -> list[dict[str, Any]]:
        """Payloads of all answers to a command, in order."""
        return [
            frame["payload"]
            for frame in self.of_type("command_result")
            if frame["id"] == command_id
        ]

    def open_sessions(self) -> list[Session]:
        return [session for session in self.sessions if session.open]

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
        """Wait until `condition()` is true; it is looked at whenever something happened."""
        with self._changed:
            if not self._changed.wait_for(condition, seconds):
                recent = [frame["type"] for frame in self.frames][-10:]
                raise AssertionError(
                    f"{what}: not within {seconds:g} s; {len(self.events)} events, "
                    f"{len(self.open_sessions())} sessions, last frames {recent}, "
                    f"violations {self.violations}"
                )

    # -- what tests do

    def command(
        self, command_id: str, action: str, parameters: dict[str, Any], **members: object
    ) -> None:
        """Send one signed command on the newest open session."""
        payload = {
            "action": action,
            "target": {},
            "parameters": parameters,
            "timeout_seconds": 60,
            "issued_by": None,
            "delivery_claim_token": None,
        } | members

        async def push() -> None:
            session = self.open_sessions()[-1]
            frame = session.side.frame("command", payload, _now(), id=command_id)
            await session.websocket.send(frame)

        self._await(push())

    def cut(self) -> None:
        """Drop every open connection without a goodbye."""

        async def drop() -> None:
            for session in self.open_sessions():
                session.websocket.transport.abort()

        self._await(drop())

    # -- on the loop

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await serve(
                self._serve, LOOPBACK, self.port, max_size=None, compression=None, close_timeout=0.2
            )

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, websocket: ServerConnection) -> None:
        assert websocket.request is not None
        if websocket.request.headers.get("Authorization") != f"Bearer {TOKEN}":
            await websocket.close(4401)
            return
        session: Session | None = None
        try:
            async for data in websocket:
                raw = data if isinstance(data, bytes) else data.encode()
                if session is None:
                    session = Session(websocket, BrainSide().read(raw, _now()))
                    await websocket.send(session.side.hello_ack(_now()))
                    with self._changed:
                        self.sessions.append(session)
                        self._changed.notify_all()
                    continue
                await self._received(session, raw)
        except ConnectionClosed:
            pass
        except AssertionError as error:
            self.violations.append(repr(error))
            await websocket.close(4403)
        finally:
            if session is not None:
                session.open = False
            with self._changed:
                self._changed.notify_all()

    async def _received(self, session: Session, raw: bytes) -> None:
        frame = session.side.read(raw, _now())
        frame["from_pid"] = session.pid
        with self._changed:
            self.frames.append(frame)
            if frame["type"] == "event_batch":
                for event in frame["payload"]["events"]:
                    self.events[event["id"]] = event
                    self.deliveries[event["id"]] += 1
            self._changed.notify_all()
        if frame["type"] == "event_batch" and self.acknowledge:
            await asyncio.sleep(self.seconds_a_batch)
            count = len(frame["payload"]["events"])
            await session.websocket.send(session.side.ack_batch(frame["id"], count, _now()))

    def _await(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_SECONDS)


def _now() -> datetime:
    return datetime.now(timezone.utc)


__all__ = ["AGENT_ID", "PROJECT_ID", "TOKEN", "Session", "SocketBrain"]
