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
    """(label, recording, bytes, parsed frame) of every recorded frame of a recorded session.

    Frames inside `cases` were kept parsed only; their bytes here are a rendering of our own, which
    the signature does not mind. (What a case `got` on a session whose id was not kept is left out.)
    """
    found = []
    for name, content in recordings():
        raws = zip(content["frames_raw"], content["frames"], strict=True)
        found += [
            (f"{name}[{index}]", content, raw.encode(), frame)
            for index, (raw, frame) in enumerate(raws)
        ]
        found += [
            (f"{name}:{case['case']}", content, json.dumps(case["frame"]).encode(), case["frame"])
            for case in content.get("cases", ())
            if "hmac" in (case.get("frame") or {})
        ]
    return found
