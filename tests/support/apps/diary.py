"""What jobs of the test applications write down: what really happened, whatever kills them."""

from __future__ import annotations

import json
import os


def write(path: str, **line: object) -> None:
    """Append one line of JSON with a single write: complete or absent."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, json.dumps({**line, "pid": os.getpid()}).encode() + b"\n")
    os.close(descriptor)
