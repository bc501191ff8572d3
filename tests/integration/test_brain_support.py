"""The servers that the integration tests stand on."""

from __future__ import annotations

import socket
import subprocess
import threading
import time

import pytest
from support.brain import BrainProject, RealBrain
from support.fault_proxy import Direction, FaultProxy
from support.ports import LOOPBACK, is_listening
from support.processes import ProcessFamily, wait_until
from support.valkey import ValkeyDatabase, ValkeyServer

from z4j_fastapi.dev.rest import BrainApiError


@pytest.mark.brain
def test_brain_when_provisioned_then_lists_project_and_agents(brain_project: BrainProject) -> None:
    first = brain_project.mint_agent("web")
    second = brain_project.mint_agent("worker")

    assert first.token != second.token
    assert first.hmac_secret == second.hmac_secret  # the key is the project's
    assert {row["name"] for row in brain_project.agents()} == {"web", "worker"}
    assert brain_project.agent(first.agent_id)["state"] == "unknown"
    assert brain_project.tasks() == []
    assert brain_project.count_tasks() == 0
    assert brain_project.task("arq", "nobody") is None
    assert brain_project.events("arq", "nobody") == []
    assert brain_project.workers() == []
    assert brain_project.agent_workers(first.agent_id) == []
    assert brain_project.queues() == []
    assert brain_project.queue_depths() == []
    assert brain_project.commands() == []


@pytest.mark.brain
def test_credentials_when_shown_then_hide_their_secrets(brain_project: BrainProject) -> None:
    agent = brain_project.mint_agent("web")

    assert agent.token not in repr(agent)
    assert agent.hmac_secret not in repr(agent)
    assert agent.environ()["Z4J_TOKEN"] == agent.token


@pytest.mark.brain
def test_command_when_agent_is_away_then_row_stays_pending(brain_project: BrainProject) -> None:
    agent = brain_project.mint_agent("web")
    order = {"engine": "arq", "task_id": "t-1"}

    with pytest.raises(BrainApiError) as refusal:
        brain_project.command("cancel-task", agent.agent_id, **order)
    row = brain_project.command(
        "cancel-task", agent.agent_id, may_be_offline=True, wait_seconds=None, **order
    )

    assert refusal.value.status == 503
    assert row["action"] == "cancel_task"
    assert row["status"] == "pending"
    assert len(brain_project.commands(status="pending")) == 2


@pytest.mark.brain
def test_agent_when_revoked_then_gone_from_the_brain(brain_project: BrainProject) -> None:
    agent = brain_project.mint_agent("web")

    brain_project.revoke_agent(agent.agent_id)

    assert agent.agent_id not in {row["id"] for row in brain_project.agents()}


@pytest.mark.brain
@pytest.mark.process
def test_brain_when_killed_and_restarted_then_keeps_port_and_state(
    outage_brain: RealBrain, outage_project: BrainProject
) -> None:
    agent = outage_project.mint_agent("web")
    port = outage_brain.port

    outage_brain.kill()
    assert not is_listening(port)
    outage_brain.start()

    assert outage_brain.port == port
    assert outage_project.agent(agent.agent_id)["name"] == "web"


@pytest.mark.valkey
def test_valkey_when_database_is_fresh_then_empty_and_separate(
    valkey: ValkeyDatabase, valkey_server: ValkeyServer
) -> None:
    other = valkey_server.fresh_database()
    valkey_server.command(f"SELECT {valkey.index}", "SET key value")

    assert other.index != valkey.index
    assert valkey_server.command(f"SELECT {valkey.index}", "DBSIZE") == ":1"
    assert valkey_server.command(f"SELECT {other.index}", "DBSIZE") == ":0"


@pytest.mark.process
def test_child_when_killed_then_its_own_children_end_too(processes: ProcessFamily) -> None:
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('grandchild', child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    child = processes.python("parent", "-c", script)
    child.wait_for_output("grandchild")
    grandchild = int(child.output().split()[-1])

    assert child.kill() == -9
    wait_until(lambda: not _alive(grandchild), timeout_seconds=10, what="end of the grandchild")


@pytest.mark.process
def test_child_when_its_starter_is_killed_then_ends_too(processes: ProcessFamily) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from z4j_fastapi.dev.child import ChildProcess\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = ChildProcess('orphan', command, log_path=Path('orphan.log'))\n"
        "child.start()\n"
        "print('orphan', child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    starter = processes.python("starter", "-c", script)
    starter.wait_for_output("orphan")
    orphan = int(starter.output().split()[-1])

    starter.kill()

    wait_until(lambda: not _alive(orphan), timeout_seconds=10, what="end of the orphan")


class TestFaultProxy:
    def test_proxy_when_healthy_then_passes_both_ways(self, proxied_echo: FaultProxy) -> None:
        with _connect(proxied_echo) as client:
            client.sendall(b"hello")

            assert client.recv(100) == b"hello"
        assert proxied_echo.accepted == 1
        assert proxied_echo.passed_bytes(Direction.UP) == 5

    def test_proxy_when_cut_then_resets_and_serves_again(self, proxied_echo: FaultProxy) -> None:
        with _connect(proxied_echo) as client:
            _echo(client, b"before")

            assert proxied_echo.cut() == 1
            with pytest.raises(ConnectionResetError):
                client.recv(100)
        with _connect(proxied_echo) as client:
            _echo(client, b"after")

    def test_proxy_when_refusing_then_nobody_listens_until_healed(
        self, proxied_echo: FaultProxy
    ) -> None:
        proxied_echo.refuse()
        with pytest.raises(ConnectionRefusedError):
            _connect(proxied_echo)

        proxied_echo.heal()
        with _connect(proxied_echo) as client:
            _echo(client, b"after")

    def test_proxy_when_black_hole_then_accepts_and_answers_nothing(
        self, proxied_echo: FaultProxy
    ) -> None:
        proxied_echo.black_hole()
        with _connect(proxied_echo) as client:
            client.sendall(b"lost")
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(100)
        assert proxied_echo.passed_bytes(Direction.UP) == 0

    def test_proxy_when_one_direction_is_black_hole_then_the_other_passes(
        self, proxied_echo: FaultProxy
    ) -> None:
        with _connect(proxied_echo) as client:
            _echo(client, b"before")
            proxied_echo.black_hole(Direction.DOWN)
            client.sendall(b"asked")
            wait_until(
                lambda: proxied_echo.passed_bytes(Direction.UP) == 11,
                timeout_seconds=5,
                what="bytes going up",
            )
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(100)

    def test_proxy_when_delaying_then_bytes_come_late_and_in_order(
        self, proxied_echo: FaultProxy
    ) -> None:
        proxied_echo.delay(0.3, Direction.DOWN)
        with _connect(proxied_echo) as client:
            began = time.monotonic()
            client.sendall(b"one")
            client.sendall(b"two")

            assert _receive(client, 6) == b"onetwo"
            assert time.monotonic() - began >= 0.3

    def test_proxy_when_corrupting_then_one_bit_differs_once(
        self, proxied_echo: FaultProxy
    ) -> None:
        proxied_echo.corrupt(Direction.DOWN)
        with _connect(proxied_echo) as client:
            client.sendall(b"hello")
            assert _receive(client, 5) == b"hemlo"
            _echo(client, b"hello")

    def test_proxy_when_cut_after_bytes_then_hands_on_exactly_these(
        self, proxied_echo: FaultProxy
    ) -> None:
        proxied_echo.cut_after(3, Direction.UP)
        with _connect(proxied_echo) as client:
            client.sendall(b"hello")
            with pytest.raises(ConnectionResetError):
                _receive(client, 5)
        assert proxied_echo.passed_bytes(Direction.UP) == 3
        with _connect(proxied_echo) as client:
            _echo(client, b"after")


@pytest.fixture
def proxied_echo():
    with socket.create_server((LOOPBACK, 0)) as listener:
        threading.Thread(target=_serve_echo, args=(listener,), daemon=True).start()
        proxy = FaultProxy(listener.getsockname()[1])
        proxy.start()
        try:
            yield proxy
        finally:
            proxy.stop()
            listener.shutdown(socket.SHUT_RDWR)


def _serve_echo(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_echo_back, args=(connection,), daemon=True).start()


def _echo_back(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            return


def _connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection((LOOPBACK, proxy.port), timeout=5)


def _echo(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    assert _receive(client, len(data)) == data


def _receive(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = client.recv(count - len(data))
        assert chunk
        data += chunk
    return data


def _alive(pid: int) -> bool:
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return state != "" and not state.startswith("Z")
