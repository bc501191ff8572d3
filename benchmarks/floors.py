"""The floors that the recording rows stand beside: render, hash, one write."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import tempfile
import zlib

from benchmarks import typical


def run() -> dict[str, dict[str, float]]:
    encoder = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    rendered = encoder.encode(typical.DATA).encode()
    key = bytes(32)
    rows = {
        "canonical JSON, standard library": lambda _: encoder.encode(typical.DATA),
        "hmac-sha256": lambda _: hmac.new(key, rendered, hashlib.sha256).hexdigest(),
        "crc32": lambda _: zlib.crc32(rendered),
    }
    try:
        import orjson
    except ImportError:
        pass
    else:
        rows["canonical JSON, orjson"] = lambda _: orjson.dumps(
            typical.DATA, option=orjson.OPT_SORT_KEYS
        )
    results = {
        name: typical.percentiles(typical.timed(call, 20_000)) for name, call in rows.items()
    }
    with tempfile.TemporaryFile(buffering=0) as file:
        number = file.fileno()
        results["one write"] = typical.percentiles(
            typical.timed(lambda _: os.write(number, rendered), 20_000)
        )
    return results
