"""The targets of the first version, and what a run says of them."""

from __future__ import annotations

from typing import Any

#: The floor "canonical JSON, standard library" on the machine that the targets were set on.
REFERENCE_FLOOR_US = 10.6

#: What, suite, row, figure, target, whether it is CPU (scaled by the floor), and "at most".
ROWS: tuple[tuple[str, str, str, str, float, bool, bool], ...] = (
    ("`record()` p50, us", "record", "brain up, 1 thread", "p50_us", 40, True, True),
    (
        "... with an e-mail address",
        "record",
        "brain down, 1 thread, with an e-mail address",
        "p50_us",
        65,
        True,
        True,
    ),
    ("... paced 1,000/s", "record", "brain up, paced 1,000/s", "p50_us", 100, True, True),
    ("... p99 under saturation, us", "record", "brain up, 1 thread", "p99_us", 400, True, True),
    (
        "CPU per delivered event under load, recording included, us",
        "delivery",
        "sustained, 1 thread recording",
        "cpu_us_per_event_recording_included",
        70,
        True,
        True,
    ),
    (
        "... at 200 events/s, us",
        "delivery",
        "200 events/s",
        "cpu_us_per_event_recording_included",
        280,
        True,
        True,
    ),
    (
        "arrival delay on an idle line p50, ms",
        "delivery",
        "arrival delay, idle line",
        "p50_ms",
        2,
        False,
        True,
    ),
    (
        "sustained rate, events/s",
        "delivery",
        "sustained, 1 thread recording",
        "events_per_second",
        13_000,
        True,
        False,
    ),
    (
        "drain of 100,000, s",
        "delivery",
        "drain of 100,000 after reconnect",
        "seconds",
        2.5,
        False,
        True,
    ),
    (
        "... memory added, MiB",
        "delivery",
        "drain of 100,000 after reconnect",
        "memory_added_mib",
        16,
        False,
        True,
    ),
    (
        "command round trip, idle p50, ms",
        "delivery",
        "command round trip, idle",
        "p50_ms",
        2,
        True,
        True,
    ),
    (
        "... while 500 events/s flow, ms",
        "delivery",
        "command round trip, 500 events/s flowing",
        "p50_ms",
        4,
        True,
        True,
    ),
    (
        "import, CPU ms",
        "lifecycle",
        "import z4j_fastapi after fastapi",
        "cpu_ms",
        10,
        False,
        True,
    ),
    (
        "import, modules",
        "lifecycle",
        "import z4j_fastapi after fastapi",
        "modules",
        15,
        False,
        True,
    ),
    (
        "lifespan enter, libraries loaded, ms",
        "lifecycle",
        "brain up, nothing pending",
        "enter_ms",
        25,
        False,
        True,
    ),
    (
        "modules of ours once started",
        "lifecycle",
        "brain up, nothing pending",
        "modules_of_ours",
        80,
        False,
        True,
    ),
    (
        "lifespan exit, brain up, ms",
        "lifecycle",
        "brain up, nothing pending",
        "exit_ms",
        50,
        False,
        True,
    ),
    (
        "... refused",
        "lifecycle",
        "brain refused, nothing pending",
        "exit_ms",
        50,
        False,
        True,
    ),
    ("... black hole", "lifecycle", "black hole, nothing pending", "exit_ms", 50, False, True),
    (
        "... brain up, 100 events pending",
        "lifecycle",
        "brain up, 100 events pending",
        "exit_ms",
        250,
        False,
        True,
    ),
    (
        "idle, connected: CPU, %",
        "delivery",
        "idle, connected",
        "cpu_percent",
        0.05,
        False,
        True,
    ),
    (
        "... wake-ups a second",
        "delivery",
        "idle, connected",
        "wakeups_per_second",
        3,
        False,
        True,
    ),
)


def table(results: dict[str, Any]) -> str:
    """Target, measured, scaled to the reference floor, met or not."""
    floor = results["floors"]["canonical JSON, standard library"]["p50_us"]
    scale = REFERENCE_FLOOR_US / floor
    lines = [
        f"This run's floor: {floor:g} us, so CPU figures are scaled by {scale:.2f}.",
        "",
        "| what | target | measured | scaled | |",
        "|---|---|---|---|---|",
    ]
    for what, suite, row, figure, target, is_cpu, at_most in ROWS:
        measured = results[suite][row][figure]
        scaled = measured
        if is_cpu:
            scaled = measured * scale if at_most else measured / scale
        met = scaled <= target if at_most else scaled >= target
        bound = "at most" if at_most else "at least"
        shown = f"{scaled:.3g}" if is_cpu and scaled < 1000 else f"{scaled:.0f}" if is_cpu else ""
        verdict = "met" if met else "**missed**"
        lines.append(f"| {what} | {bound} {target:g} | {measured:g} | {shown} | {verdict} |")
    return "\n".join(lines)
