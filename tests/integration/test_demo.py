"""The demo and its example application, as a stranger runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.environments import brain_environment, brain_program
from support.processes import REPOSITORY, ProcessFamily

pytestmark = [pytest.mark.brain, pytest.mark.valkey, pytest.mark.process]

DEMO = REPOSITORY / "scripts" / "demo.py"


@pytest.mark.timeout(300)
def test_demo_when_run_once_then_shows_every_task_and_leaves_nothing(
    processes: ProcessFamily, tmp_path: Path
) -> None:
    brain_program("z4j")
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    demo = processes.python(
        "demo",
        *(DEMO, "--once", "--brain-env", brain_environment()),
        env={"TMPDIR": str(scratch)},
    )
    returncode = demo.wait(timeout_seconds=280)

    output = demo.output()
    assert returncode == 0, output
    for name in ("send_invoice", "charge_card", "sync_inventory", "send_mail", "read_feed"):
        assert name in output
    assert "bulk retry completed" in output
    assert "all 7 tasks are in the brain" in output
    assert list(scratch.iterdir()) == []


@pytest.mark.timeout(60)
def test_demo_when_brain_is_missing_then_says_so_and_leaves_nothing(
    processes: ProcessFamily, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    demo = processes.python(
        "demo",
        *(DEMO, "--once", "--brain-env", tmp_path / "nowhere"),
        env={"TMPDIR": str(scratch)},
    )

    assert demo.wait(timeout_seconds=50) == 1
    assert "demo: FAILED: valkey cannot be started" in demo.output()
    assert list(scratch.iterdir()) == []
