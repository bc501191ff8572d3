"""A transport whose other end is a brain in memory: for unit tests of the runtime's logic.

The real brain remains the judge; this one can be made to misbehave at a given frame.
"""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime, timezone

from support.brain_side import KEY, BrainSide

from z4j_fastapi.errors import Failure, TransportError

CLOSED = object()


class MemoryBrain:
    """Counts what arrives and answers as told; `transport` is what a container takes."""

    def __init__(self, *, key=KEY):
        self.key = key
        self.frames = []
        self.events = {}
        self.acknowledge = True
        self.refuse = None  # a TransportError for the next connects
        self.answer_hello = True
        self.on_frame = None
        self.connections = []
        self.transport = MemoryTransport(self)
        self._changed = threading.Condition()

    # -- what tests look at

    @property
    def hellos(self):
        return [frame for frame in self.frames if frame["type"] == "hello"]

    def of_type(self, frame_type):
        return [frame for frame in self.frames if frame["type"] == frame_type]

    def wait_for(self, condition, timeout=10.0):
        """Wait until `condition()` is true; it is looked at whenever a frame arrived."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise AssertionError(
                    f"not within {timeout} s; got {[f['type'] for f in self.frames][-20:]}"
                )

    def results(self):
        return {frame["id"]: frame["payload"] for frame in self.of_type("command_result")}

    # -- what tests do

    def send(self, frame_type, payload, **changes):
        """Send one signed frame on the newest connection; from any thread."""
        connection = self.connections[-1]
        connection.push(lambda side: side.frame(frame_type, payload, _now(), **changes))

    def send_raw(self, data):
        self.connections[-1].push(lambda _side: data)

    def command(self, command_id, action, parameters, **members):
        payload = {
            "action": action,
            "target": {},
            "parameters": parameters,
            "timeout_seconds": 60,
            "issued_by": None,
            "delivery_claim_token": None,
        } | members
        self.send("command", payload, id=command_id)

    def cut(self, close_code=None, failure=Failure.TRANSIENT):
        """End the newest connection as the peer would."""
        self.connections[-1].end(
            TransportError("the connection ended", failure=failure, close_code=close_code)
        )

    # -- the server side, on the agent's loop

    def received(self, connection, data):
        frame = connection.side.read(data, _now())
        with self._changed:
            self.frames.append(frame)
            if frame["type"] == "event_batch":
                for event in frame["payload"]["events"]:
                    self.events.setdefault(event["id"], []).append(event)
            self._changed.notify_all()
        if self.on_frame is not None and self.on_frame(frame) is False:
            return
        if frame["type"] == "hello" and self.answer_hello:
            connection.push(lambda side: side.hello_ack(_now()))
        elif frame["type"] == "event_batch" and self.acknowledge:
            count = len(frame["payload"]["events"])
            connection.push(lambda side: side.ack_batch(frame["id"], count, _now()))


class MemoryTransport:
    name = "memory"

    def __init__(self, brain):
        self.brain = brain

    def preload(self):
        pass

    def abandon_after_fork(self):
        pass

    async def connect(self):
        if self.brain.refuse is not None:
            raise self.brain.refuse
        connection = MemoryConnection(self.brain)
        self.brain.connections.append(connection)
        return connection


class MemoryConnection:
    def __init__(self, brain):
        self.brain = brain
        self.side = BrainSide(key=brain.key)
        self.loop = asyncio.get_running_loop()
        self.inbox = asyncio.Queue()
        self.error = None

    def push(self, build):
        self.loop.call_soon_threadsafe(lambda: self.inbox.put_nowait(build(self.side)))

    def end(self, error):
        def finish():
            self.error = error
            self.inbox.put_nowait(CLOSED)

        self.loop.call_soon_threadsafe(finish)

    async def send(self, data):
        if self.error is not None:
            raise self.error
        self.brain.received(self, data)

    async def receive(self):
        item = await self.inbox.get()
        if item is CLOSED:
            raise self.error
        return item

    async def close(self):
        self.error = self.error or TransportError("closed")


def _now():
    return datetime.now(timezone.utc)
