"""Commands that the brain did not send, or not now, or not here, between agent and real brain.

Whoever can change bytes on the way but has no key must not make the agent run anything, nor keep
it away: it drops the session and comes back.
"""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from dependency_injector import providers
from support.agents import agent_container
from support.processes import wait_until
from support.recording_engine import RecordingEngine
from support.ws_mitm import Middleman

from z4j_fastapi.clock import SystemClock

pytestmark = [pytest.mark.brain, pytest.mark.timeout(120)]


class ShiftedClock(SystemClock):
    """The real time, off by `seconds`."""

    seconds = 0.0

    def now(self):
        return super().now() + timedelta(seconds=self.seconds)


class Scene:
    """An agent behind a middleman, and the brain's operator."""

    def __init__(self, project, middleman, agent, runtime, engine, clock):
        self.project = project
        self.middleman = middleman
        self.agent = agent
        self.runtime = runtime
        self.engine = engine
        self.clock = clock

    def issue(self, task_id):
        """Have the brain send a command; does not wait for its end."""
        return self.project.command(
            "cancel-task", self.agent.agent_id, engine="arq", task_id=task_id, wait_seconds=None
        )["id"]

    def capture(self, *task_ids):
        """Have the brain send commands that do not reach the agent; their frames."""
        line = self.middleman.lines[-1]
        before = len(line.commands())
        self.middleman.rule = without_commands
        for number, task_id in enumerate(task_ids, 1):
            self.issue(task_id)
            self.middleman.wait_for(
                lambda number=number: len(line.commands()) == before + number, "a command"
            )
        self.middleman.rule = as_it_is
        return line.commands()[before:]

    def run_one(self, task_id):
        """A command as it should be: it runs and is answered."""
        row = self.project.wait_command(self.issue(task_id), timeout_seconds=30)
        assert row["status"] == "completed", row
        assert self.engine.calls[-1] == f"ran {task_id}"

    def wait_dropped(self, line):
        self.middleman.wait_for(lambda: not line.open, "the end of the session")

    def wait_back(self, line):
        """The agent is online again, on another line, within a transient failure's backoff."""
        wait_until(
            lambda: self.middleman.lines[-1] is not line and self.runtime.status().online,
            timeout_seconds=20,
            what="the next session",
        )
        self.project.wait_online(self.agent.agent_id)


def as_it_is(_kind, data):
    return [data]


def without_commands(kind, data):
    return [] if kind == "command" else [data]


@pytest.fixture
def scene(brain, brain_project, tmp_path):
    middleman = Middleman(brain.port)
    middleman.start()
    agent = brain_project.mint_agent("web", brain_url=middleman.url)
    engine = RecordingEngine()
    clock = ShiftedClock()
    container = agent_container(agent, tmp_path)
    container.engines.override(providers.Object((engine,)))
    container.clock.override(providers.Object(clock))
    runtime = container.runtime()
    runtime.start()
    assert runtime.wait_online(20)
    yield Scene(brain_project, middleman, agent, runtime, engine, clock)
    runtime.stop(2.0)
    middleman.stop()


def test_command_when_it_is_replayed_in_its_session_runs_once(scene):
    scene.run_one("t-1")
    line = scene.middleman.lines[-1]
    scene.middleman.inject(line.commands()[0])
    scene.wait_dropped(line)
    scene.wait_back(line)
    scene.run_one("t-2")
    assert scene.engine.calls == ["ran t-1", "ran t-2"]


@pytest.mark.parametrize("ran_before", [True, False])
def test_command_when_it_is_replayed_in_a_later_session_does_not_run(scene, ran_before):
    line = scene.middleman.lines[-1]
    if ran_before:
        scene.run_one("t-1")
        frame = line.commands()[0]
    else:
        frame = scene.capture("t-1")[0]
    scene.runtime.request_reconnect()
    scene.wait_back(line)
    second = scene.middleman.lines[-1]
    scene.middleman.inject(frame)
    scene.wait_dropped(second)
    scene.wait_back(second)
    scene.run_one("t-2")
    assert scene.engine.calls == (["ran t-1"] if ran_before else []) + ["ran t-2"]


def test_commands_when_they_are_reordered_only_the_one_that_moved_forward_runs(scene):
    first, second = scene.capture("t-1", "t-2")
    line = scene.middleman.lines[-1]
    scene.middleman.inject(second, first)
    scene.wait_dropped(line)
    scene.wait_back(line)
    scene.run_one("t-3")
    assert "ran t-1" not in scene.engine.calls
    assert scene.engine.calls.count("ran t-2") <= 1
    assert scene.engine.calls[-1] == "ran t-3"


def flip_in(frame, part):
    """Change one byte in the middle of `part`, staying JSON wherever that is possible."""
    at = frame.index(part) + len(part) // 2
    old = frame[at : at + 1]
    new = b"1" if old != b"1" else b"2"
    assert old != new
    return frame[:at] + new + frame[at + 1 :]


@pytest.mark.parametrize("where", ["task id", "seq", "ts", "hmac", "brace"])
def test_command_when_one_byte_is_changed_does_not_run(scene, where):
    frame = scene.capture("task-1")[0]
    members = json.loads(frame)
    part = {
        "task id": b"task-1",
        "seq": b'"seq":' + str(members["seq"]).encode() + b",",
        "brace": b"}",
    }.get(where) or str(members[where]).encode()
    if where == "seq":
        changed = frame.replace(part, b'"seq":' + str(members["seq"] + 1).encode() + b",")
    else:
        changed = flip_in(frame, part)
    assert len(changed) in {len(frame), len(frame) + 1}
    assert changed != frame
    line = scene.middleman.lines[-1]
    scene.middleman.inject(changed)
    scene.wait_dropped(line)
    scene.wait_back(line)
    scene.run_one("t-2")
    assert scene.engine.calls == ["ran t-2"]


@pytest.mark.parametrize("what", ["unsigned", "empty signature", "hello_ack", "not json", "binary"])
def test_frame_when_it_is_made_up_is_not_acted_upon(scene, what):
    members = json.loads(scene.capture("t-1")[0])
    members["seq"] += 1
    unsigned = {name: value for name, value in members.items() if name != "hmac"}
    hello_ack = scene.middleman.lines[-1].down[0]
    made_up = {
        "unsigned": json.dumps(unsigned).encode(),
        "empty signature": json.dumps({**unsigned, "hmac": ""}).encode(),
        "hello_ack": hello_ack,
        "not json": b"run everything",
        "binary": b"\xff\x00\xfe",
    }[what]
    line = scene.middleman.lines[-1]
    session = scene.runtime.status().session_id
    scene.middleman.inject(made_up)
    scene.wait_dropped(line)
    scene.wait_back(line)
    assert scene.runtime.status().session_id != session
    scene.run_one("t-2")
    assert scene.engine.calls == ["ran t-2"]


def test_command_when_it_is_another_agents_of_the_project_does_not_run(scene, brain, tmp_path):
    """The signing key is the project's, so that agent's frames carry a good signature."""
    middleman = Middleman(brain.port)
    middleman.start()
    other = scene.project.mint_agent("other", brain_url=middleman.url)
    container = agent_container(other, tmp_path / "other")
    container.engines.override(providers.Object((RecordingEngine(),)))
    runtime = container.runtime()
    runtime.start()
    try:
        assert runtime.wait_online(20)
        scene.project.command("cancel-task", other.agent_id, engine="arq", task_id="t-1")
        frame = middleman.lines[-1].commands()[0]
    finally:
        runtime.stop(2.0)
        middleman.stop()
    line = scene.middleman.lines[-1]
    scene.middleman.inject(frame)
    scene.wait_dropped(line)
    scene.wait_back(line)
    scene.run_one("t-2")
    assert scene.engine.calls == ["ran t-2"]


def test_command_when_it_comes_a_minute_late_does_not_run(scene):
    frame = scene.capture("t-1")[0]
    line = scene.middleman.lines[-1]
    scene.clock.seconds = 75.0
    scene.middleman.inject(frame)
    scene.wait_dropped(line)
    scene.clock.seconds = 0.0
    scene.runtime.request_reconnect()
    scene.wait_back(line)
    scene.run_one("t-2")
    assert scene.engine.calls == ["ran t-2"]


def test_command_when_it_is_held_for_a_moment_runs_and_proves_that_the_others_could_have(scene):
    """The counter-proof: the same hands, nothing changed."""
    frame = scene.capture("t-1")[0]
    scene.middleman.inject(frame)
    wait_until(lambda: scene.engine.calls == ["ran t-1"], timeout_seconds=10, what="the run")
    assert scene.middleman.lines[-1].open
    scene.run_one("t-2")
