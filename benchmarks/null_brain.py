"""A brain that does nothing but answer, in a process of its own: for measuring the agent alone.

    python -m benchmarks.null_brain [--ms-per-event 10]

Speaks the brain's side of the protocol with the standard library only. It prints one JSON line with
its address, then answers one JSON line for every line on its standard input:

    stats               counters since the start
    reset               zeroes them
    command N           sends N commands (cancel_task), answers when all results are in

It does not check signatures: that is its own cost, not the agent's.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

KEY = bytes(range(32))
_ID = re.compile(rb'"id":"([^"]{1,64})","nonce"')
_TYPE = re.compile(rb'"type":"([a-z_]+)","v":2}$')


class NullBrain:
    """The client's view: where it listens, and its counters."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        ready = json.loads(self._line())
        self.url: str = ready["url"]
        self.pid: int = child.pid
        self.hmac_secret = base64.urlsafe_b64encode(KEY).decode()

    def _line(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError("the null brain ended")
        return line

    def ask(self, line: str) -> dict[str, float]:
        assert self._child.stdin is not None
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()
        answer: dict[str, float] = json.loads(self._line())
        return answer

    @classmethod
    @contextmanager
    def process(cls, *arguments: str) -> Iterator[NullBrain]:
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.null_brain", *arguments],
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield cls(child)
        finally:
            child.kill()
            child.wait()


class _Server:
    def __init__(self, ms_per_event: float) -> None:
        self.ms_per_event = ms_per_event
        self.connections: list[_Connection] = []
        self.results: dict[str, float] = {}
        self.result_came = asyncio.Event()
        self.reset()

    def reset(self) -> None:
        self.events = 0
        self.batches = 0
        self.first_at = 0.0
        self.last_at = 0.0

    def stats(self) -> dict[str, float]:
        return {
            "events": self.events,
            "batches": self.batches,
            "seconds": self.last_at - self.first_at,
            "last_at": self.last_at,
            "first_at": self.first_at,
            "connections": len(self.connections),
            "cpu_seconds": time.process_time(),
        }

    async def serve(self, websocket) -> None:
        connection = _Connection(websocket)
        self.connections.append(connection)
        try:
            async for message in websocket:
                data = message if isinstance(message, bytes) else message.encode()
                await self.received(connection, data)
        finally:
            self.connections.remove(connection)

    async def received(self, connection: _Connection, data: bytes) -> None:
        kind = _TYPE.search(data)
        frame_type = kind[1] if kind else b""
        if frame_type == b"hello":
            await connection.websocket.send(connection.hello_ack())
            return
        if frame_type == b"command_result":
            found = _ID.search(data)
            if found:
                self.results[found[1].decode()] = time.perf_counter()
                self.result_came.set()
            return
        if frame_type != b"event_batch":
            return
        count = data.count(b'"occurred_at":"')
        now = time.time()
        if count:
            self.first_at = self.first_at or now
            self.last_at = now
            self.events += count
            self.batches += 1
            if self.ms_per_event:
                await asyncio.sleep(self.ms_per_event * count / 1000)
        found = _ID.search(data)
        assert found
        await connection.send(
            "event_batch_ack",
            {"acked_id": found[1].decode(), "received": count, "accepted": count, "rejected": 0},
        )

    async def commands(self, count: int) -> dict[str, float]:
        """Round trips one after another, through `cancel_task` of an unknown engine."""
        connection = self.connections[-1]
        times = []
        for _ in range(count):
            command_id = str(uuid.uuid4())
            self.result_came.clear()
            begun = time.perf_counter()
            await connection.send(
                "command",
                {
                    "action": "cancel_task",
                    "target": {},
                    "parameters": {"engine": "none", "task_id": command_id},
                    "timeout_seconds": 60,
                    "issued_by": None,
                    "delivery_claim_token": None,
                },
                frame_id=command_id,
            )
            while command_id not in self.results:
                self.result_came.clear()
                await self.result_came.wait()
            times.append(self.results.pop(command_id) - begun)
        times.sort()
        return {
            "p50_ms": round(times[len(times) // 2] * 1e3, 2),
            "p99_ms": round(times[int(len(times) * 0.99)] * 1e3, 2),
        }


class _Connection:
    def __init__(self, websocket) -> None:
        self.websocket = websocket
        self.ids = {
            "agent_id": str(uuid.UUID(int=1)),
            "project_id": str(uuid.UUID(int=2)),
            "session_id": str(uuid.uuid4()),
        }
        self.seq = 0

    def hello_ack(self) -> bytes:
        payload = {
            "protocol_version": "2",
            "brain_version": "1.13.0",
            "heartbeat_interval_seconds": 10,
            "max_frame_size_bytes": 1_048_576,
            **self.ids,
        }
        frame = {"v": 2, "type": "hello_ack", "id": "ack", "ts": _now(), "payload": payload}
        return json.dumps(frame).encode()

    async def send(self, frame_type: str, payload: dict, frame_id: str | None = None) -> None:
        self.seq += 1
        frame = {
            "v": 2,
            "id": frame_id or f"n{self.seq}",
            "ts": _now(),
            "nonce": f"null-brain-{self.seq:011d}",
            "seq": self.seq,
            "type": frame_type,
            "payload": payload,
        }
        signed = json.dumps(
            {**frame, **self.ids}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        frame["hmac"] = hmac.new(KEY, signed.encode(), hashlib.sha256).hexdigest()
        await self.websocket.send(json.dumps(frame, separators=(",", ":")).encode())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


async def _main() -> None:
    from websockets.asyncio.server import serve

    parser = argparse.ArgumentParser()
    parser.add_argument("--ms-per-event", type=float, default=0.0)
    arguments = parser.parse_args()
    server = _Server(arguments.ms_per_event)
    async with serve(server.serve, "127.0.0.1", 0, compression=None, max_size=None) as listening:
        port = listening.sockets[0].getsockname()[1]
        print(json.dumps({"url": f"http://127.0.0.1:{port}"}), flush=True)
        loop = asyncio.get_running_loop()
        while True:
            line = await loop.run_in_executor(None, sys.stdin.readline)
            if not line:
                return
            word, _, rest = line.strip().partition(" ")
            if word == "reset":
                server.reset()
            answer = server.stats()
            if word == "command":
                answer = await server.commands(int(rest))
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
