"""Runs the benchmarks and prints their table: `python -m benchmarks.run [NAME...]`."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import delivery, floors, lifecycle, record

ROOT = Path(__file__).resolve().parents[1]
SUITES = {
    "floors": lambda _: floors.run(),
    "record": record.run,
    "delivery": delivery.run,
    "lifecycle": lifecycle.run,
}


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        raise SystemExit(f"bench: unknown {', '.join(unknown)}; there are {', '.join(SUITES)}")
    results: dict[str, object] = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {_cores()} cores",
        "commit": _commit(),
    }
    for name in names or SUITES:
        print(f"bench: {name}", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="z4j-bench-") as directory:
            results[name] = SUITES[name](Path(directory))
        _show(name, results[name])
    (ROOT / "benchmarks" / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def _show(suite: str, rows) -> None:
    print(f"\n### {suite}\n\n| what | figures |\n|---|---|")
    for what, figures in rows.items():
        shown = ", ".join(f"{name} {value:g}" for name, value in figures.items())
        print(f"| {what} | {shown} |")


def _cores() -> int:
    import os

    return os.cpu_count() or 0


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main(sys.argv[1:])
