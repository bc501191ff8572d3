"""The recorded test data under `tests/vectors`."""

from __future__ import annotations

import json
from pathlib import Path

VECTORS = Path(__file__).resolve().parents[1] / "vectors"


def load(name):
    return json.loads((VECTORS / name).read_text())


def recordings():
    """(file name, content) of every recording that holds signed frames."""
    found = []
    for folder in ("commands", "schedules"):
        for path in sorted((VECTORS / folder).glob("*.json")):
            content = json.loads(path.read_text())
            if isinstance(content, dict) and "frames_raw" in content:
                found.append((f"{folder}/{path.name}", content))
    return found


def recorded_frames():
    """(label, recording, bytes as received, parsed frame) of every recorded frame."""
    return [
        (f"{name}[{index}]", content, raw.encode(), frame)
        for name, content in recordings()
        for index, (raw, frame) in enumerate(
            zip(content["frames_raw"], content["frames"], strict=True)
        )
    ]
