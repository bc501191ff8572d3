"""Runs the benchmarks and prints their table: `python -m benchmarks.run [NAME...]`."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import delivery, floors, lifecycle, record, targets

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
    tables: list[str] = []
    for name in names or SUITES:
        print(f"bench: {name}", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="z4j-bench-") as directory:
            results[name] = SUITES[name](Path(directory))
        tables.append(_table(name, results[name]))
        print(tables[-1])
    if names:
        return  # a part: the published figures come from whole runs only
    (ROOT / "benchmarks" / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    heading = (
        f"{datetime.now(timezone.utc):%Y-%m-%d}, commit {results['commit']}, CPython "
        f"{results['python']}, {results['machine']}"
    )
    _publish("results", "\n".join([heading, *tables]))
    _publish("targets", targets.table(results))


def _table(suite: str, rows) -> str:
    lines = [f"\n### {suite}\n", "| what | figures |", "|---|---|"]
    for what, figures in rows.items():
        shown = ", ".join(f"{name} {value:g}" for name, value in figures.items())
        lines.append(f"| {what} | {shown} |")
    return "\n".join(lines)


def _publish(section: str, text: str) -> None:
    page = ROOT / "docs" / "performance.md"
    begin, end = f"<!-- {section} -->", f"<!-- /{section} -->"
    head, rest = page.read_text().split(begin, 1)
    page.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}")


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
