from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager

import pytest
from support.brain_side import AGENT_ID, KEY
from support.memory_brain import MemoryBrain, MemoryConnection
from support.runtime_kit import LogLines, cancel, instruments, rounds, run, until

from z4j_fastapi.clock import SystemClock
from z4j_fastapi.errors import Failure, TransportError
from z4j_fastapi.protocol.handshake import Hello
from z4j_fastapi.runtime import supervisor as supervisor_module
from z4j_fastapi.runtime.status import ConnectionState
from z4j_fastapi.runtime.supervisor import Supervisor

HANG = object()
LONG = 600.0


class ListedBackoff:
    """Writes down what it is asked; waits as long as the test says."""

    def __init__(self):
        self.asked = []
        self.delay = LONG

    def next_delay(self, failure):
        self.asked.append(failure)
        return self.delay

    def reset(self):
        self.asked.append("reset")

    @property
    def failures(self):
        return [one for one in self.asked if one != "reset"]

    @property
    def resets(self):
        return self.asked.count("reset")


class Part:
    """Stands in for sender and heartbeat: sends a fence where it should, then waits."""

    def __init__(self, *, fence=False):
        self.fence = fence
        self.error = None
        self.links = []
        self.acked = []
        self.ended = []
        self.fail = asyncio.Event()
        self.late_error = None  # raised when it is told to end

    async def run(self, link, *args, **more):
        self.links.append((link, args, more))
        if self.fence:
            await link.send_batch([])
        try:
            await self.fail.wait()
        except asyncio.CancelledError:
            if self.late_error is not None:
                raise self.late_error from None
            raise
        raise self.error

    def acknowledged(self, frame_id):
        self.acked.append(frame_id)

    def session_ended(self, error):
        self.ended.append(error)

    def break_with(self, error):
        self.error = error
        self.fail.set()


class ListedDispatcher:
    def __init__(self):
        self.taken = []

    def take(self, command_id, payload):
        self.taken.append((command_id, payload))


class Bench:
    def __init__(self):
        self.brain = MemoryBrain()
        self.steps = []  # what the next connects do: an exception, HANG, or a connection
        self.connects = 0
        self.hello_error = None
        self.check_error = None
        self.backoff = ListedBackoff()
        self.log = LogLines()
        self.calls = []
        self.sender = Part(fence=True)
        self.heartbeat = Part()
        self.dispatcher = ListedDispatcher()
        self.unhandled = []
        self.supervisor = Supervisor(
            transport=self,
            hello=self._hello,
            signing_key=KEY,
            sender=self.sender,
            dispatcher=self.dispatcher,
            heartbeat=self.heartbeat,
            backoff=self.backoff,
            clock=SystemClock(),
            logger=self.log,
            tracing=instruments(),
            check_ack=self._check,
            on_online=lambda: self.calls.append("online"),
            on_offline=lambda: self.calls.append("offline"),
            new_identity=lambda: self.calls.append("new identity"),
        )

    # as a transport

    async def connect(self):
        self.connects += 1
        step = self.steps.pop(0) if self.steps else None
        if step is HANG:
            await asyncio.sleep(LONG)
        if isinstance(step, BaseException):
            raise step
        connection = step or MemoryConnection(self.brain)
        self.brain.connections.append(connection)
        return connection

    def _hello(self):
        if self.hello_error is not None:
            raise self.hello_error
        return Hello(
            worker_id="w", worker_role="web", worker_pid=1, worker_started_at=SystemClock().now()
        )

    def _check(self, ack):
        assert ack.agent_id == AGENT_ID
        if self.check_error is not None:
            raise self.check_error

    # what tests look at and do

    @property
    def facts(self):
        return self.supervisor.facts

    @asynccontextmanager
    async def running(self):
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: self.unhandled.append(context)
        )
        task = asyncio.ensure_future(self.supervisor.run())
        try:
            yield task
        finally:
            await cancel(task)
            del task
            gc.collect()
            await rounds(3)
        assert self.unhandled == []

    async def state(self, state):
        await until(lambda: self.facts.state is state, f"{state} (is {self.facts.state})")

    async def online(self):
        await self.state(ConnectionState.ONLINE)

    async def steady(self):
        """Online, and left alone."""
        await self.online()
        connects = self.connects
        await rounds(100)
        assert (self.facts.state, self.connects) == (ConnectionState.ONLINE, connects)

    async def failed(self, count=1):
        """Wait for a failure; its class and its text."""
        await until(lambda: len(self.backoff.failures) >= count, "a failure")
        await rounds(3)
        return self.backoff.failures[-1], self.facts.last_error

    @property
    def connection(self):
        return self.brain.connections[-1]


def test_session_when_the_brain_answers_a_signed_frame_is_online():
    async def work():
        bench = Bench()
        bench.brain.acknowledge = False
        async with bench.running():
            await bench.state(ConnectionState.HANDSHAKE)
            await until(lambda: bench.brain.of_type("event_batch"))
            await rounds()
            # The handshake alone proves nothing: with a wrong secret it succeeds as well.
            assert bench.facts.state is ConnectionState.HANDSHAKE
            assert bench.facts.connects == 1
            assert bench.facts.ack.session_id == bench.connection.side.session_id
            assert bench.backoff.asked == []
            assert "online" not in bench.calls
            [batch] = bench.brain.of_type("event_batch")
            bench.brain.send(
                "event_batch_ack",
                {"acked_id": batch["id"], "received": 0, "accepted": 0, "rejected": 0},
            )
            await bench.online()
            assert bench.calls == ["online"]
            assert bench.backoff.asked == ["reset"]
            assert bench.sender.acked == [batch["id"]]
            assert bench.facts.last_online_at is not None
            assert bench.log.lines[-1] == ("info", "brain_reached", {"connects": 1})
            bench.brain.send("event_batch_ack", {"acked_id": "x"})
            await until(lambda: len(bench.sender.acked) == 2)
            assert bench.calls == ["online"]
            assert bench.backoff.asked == ["reset"]
        assert bench.calls == ["online", "offline"]
        assert bench.facts.state is ConnectionState.OFFLINE
        assert bench.facts.ack is None
        assert bench.connection.error is not None  # closed

    run(work())


def test_parts_get_what_the_brain_said_in_its_handshake():
    async def work():
        bench = Bench()
        async with bench.running():
            await bench.online()
            [(link, args, more)] = bench.sender.links
            assert (args, more) == ((), {"max_frame_size_bytes": 1_048_576})
            assert bench.heartbeat.links == [(link, (10,), {})]

    run(work())


def test_command_when_it_arrives_is_handed_on_and_is_proof_as_well():
    async def work():
        bench = Bench()
        bench.sender.fence = False
        async with bench.running():
            await until(lambda: bench.facts.connects)
            bench.brain.command("c-1", "cancel_task", {"task_id": "1"})
            await bench.online()
            [(command_id, payload)] = bench.dispatcher.taken
            assert command_id == "c-1"
            assert payload["action"] == "cancel_task"

    run(work())


def test_frame_of_an_unknown_type_is_ignored_with_a_warning():
    async def work():
        bench = Bench()
        async with bench.running():
            await bench.online()
            bench.brain.send("future_thing", {})
            await until(lambda: "frame_ignored" in bench.log.events)
            assert bench.log.fields("frame_ignored") == [{"frame_type": "future_thing"}]
            assert bench.facts.state is ConnectionState.ONLINE

    run(work())


# -- failures by class


@pytest.mark.parametrize("failure", list(Failure))
def test_connect_when_it_fails_is_backed_off_from_by_its_class(failure):
    async def work():
        bench = Bench()
        bench.steps = [TransportError("no luck", failure=failure)]
        async with bench.running():
            assert await bench.failed() == (failure, "no luck")
            assert bench.backoff.asked == [failure]
            assert bench.facts.last_error_kind == failure.value
            terminal = failure is Failure.TERMINAL
            assert bench.facts.state is (
                ConnectionState.TERMINAL if terminal else ConnectionState.BACKOFF
            )
            assert ("new identity" in bench.calls) is (failure is Failure.DISPLACED)
            assert bench.log.lines == [
                (
                    "warning",
                    "brain_unreachable",
                    {"error": "no luck", "kind": failure.value, "retry_in_seconds": LONG},
                )
            ]
            assert bench.connects == 1

    run(work())


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (4400, Failure.PROTOCOL),
        (4401, Failure.AUTH),
        (4403, Failure.AUTH),
        (4408, Failure.IDLE),
        (4426, Failure.TERMINAL),
        (4427, Failure.TERMINAL),
        (4429, Failure.THROTTLED),
        (4002, Failure.DISPLACED),
        (4003, Failure.AUTH),
        (1001, Failure.TRANSIENT),
        (1011, Failure.TRANSIENT),
        (4999, Failure.TRANSIENT),
    ],
)
def test_session_when_it_is_closed_is_classified_by_the_code(code, failure):
    async def work():
        bench = Bench()
        async with bench.running():
            await bench.online()
            bench.brain.cut(close_code=code)
            assert (await bench.failed())[0] is failure
            assert bench.calls.count("offline") == 1
            assert bench.facts.ack is None
            assert [error.close_code for error in bench.sender.ended] == [code]

    run(work())


@pytest.mark.parametrize("proved", [False, True])
def test_close_4403_names_the_secret_only_while_it_is_not_proved(proved):
    async def work():
        bench = Bench()
        bench.brain.acknowledge = proved
        async with bench.running():
            if proved:
                await bench.online()
            else:
                await until(lambda: bench.brain.of_type("event_batch"))
            bench.brain.cut(close_code=4403)
            failure, text = await bench.failed()
            assert failure is Failure.AUTH
            assert ("hmac_secret (Z4J_HMAC_SECRET)" in text) is not proved
            assert "clocks" in text

    run(work())


def test_session_when_it_breaks_without_a_code_keeps_its_own_words():
    async def work():
        bench = Bench()
        async with bench.running():
            await bench.online()
            bench.connection.end(TransportError("reset by peer", failure=Failure.TRANSIENT))
            assert await bench.failed() == (Failure.TRANSIENT, "reset by peer")

    run(work())


@pytest.mark.parametrize(
    ("code", "failure", "state"),
    [
        ("agent_incompatible", Failure.TERMINAL, ConnectionState.TERMINAL),
        ("protocol_incompatible", Failure.TERMINAL, ConnectionState.TERMINAL),
        ("scheduler_upgrade_required", Failure.TERMINAL, ConnectionState.TERMINAL),
        ("whatever", Failure.TRANSIENT, ConnectionState.BACKOFF),
    ],
)
def test_error_frame_when_fatal_ends_the_session_and_is_no_proof(code, failure, state):
    async def work():
        bench = Bench()
        bench.brain.acknowledge = False
        async with bench.running():
            await until(lambda: bench.brain.of_type("event_batch"))
            bench.brain.send("error", {"code": code, "message": "go away", "fatal": True})
            assert await bench.failed() == (
                failure,
                f"the brain ended the session: {code}: go away",
            )
            assert bench.facts.state is state
            assert bench.backoff.resets == 0
            assert "online" not in bench.calls

    run(work())


def test_error_frame_when_not_fatal_is_logged_and_the_session_goes_on():
    async def work():
        bench = Bench()
        async with bench.running():
            await bench.online()
            bench.brain.send("error", {"code": "odd", "message": "m", "fatal": False})
            await until(lambda: "brain_error" in bench.log.events)
            assert bench.log.fields("brain_error") == [{"code": "odd", "message": "m"}]
            assert bench.backoff.failures == []

    run(work())


def tampered(side):
    frame = side.frame("command", {"action": "cancel_task"}, SystemClock().now())
    return frame.replace(b"cancel_task", b"cancel_tasK")


def replayed(side):
    return side.frame("event_batch_ack", {"acked_id": "x"}, SystemClock().now(), seq=0)


@pytest.mark.parametrize(
    "build",
    [tampered, replayed, lambda _: b'{"v":3,"type":"command"}', lambda _: b"rubbish"],
    ids=["tampered", "replayed", "other version", "rubbish"],
)
def test_frame_when_it_fails_its_checks_ends_the_session_but_keeps_nobody_away(build):
    async def work():
        bench = Bench()
        async with bench.running():
            await bench.online()
            bench.connection.push(build)
            failure, text = await bench.failed()
            assert failure is Failure.TRANSIENT
            assert text.startswith("the session was closed: ")
            assert bench.dispatcher.taken == []
            assert bench.connection.error is not None

    run(work())


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ({"protocol_version": "3"}, Failure.TERMINAL),
        ({"session_id": "no uuid"}, Failure.TRANSIENT),
    ],
)
def test_handshake_when_its_answer_cannot_be_used_is_classified(answer, failure):
    async def work():
        bench = Bench()
        bench.brain.answer_hello = False
        async with bench.running():
            await until(lambda: bench.brain.hellos)
            bench.connection.push(lambda side: side.hello_ack(SystemClock().now(), **answer))
            assert (await bench.failed())[0] is failure
            assert bench.connection.error is not None  # closed
            assert bench.facts.connects == 0

    run(work())


def test_handshake_when_the_brain_is_silent_is_given_up(monkeypatch):
    monkeypatch.setattr(supervisor_module, "_HELLO_ACK_SECONDS", 0.02)

    async def work():
        bench = Bench()
        bench.brain.answer_hello = False
        async with bench.running():
            failure, text = await bench.failed()
            assert failure is Failure.TRANSIENT
            assert text.startswith("the brain did not answer the hello within")
            assert bench.connection.error is not None

    run(work())


def test_handshake_when_it_belongs_to_another_agent_is_refused():
    async def work():
        bench = Bench()
        bench.check_error = TransportError("not this agent", failure=Failure.AUTH)
        async with bench.running():
            assert await bench.failed() == (Failure.AUTH, "not this agent")
            assert bench.facts.connects == 0
            assert bench.connection.error is not None

    run(work())


def test_hello_when_it_cannot_be_said_is_a_bug_of_ours():
    async def work():
        bench = Bench()
        try:
            Hello(worker_id="", worker_role="web", worker_pid=1, worker_started_at=None)
        except Exception as error:
            bench.hello_error = error
        async with bench.running():
            assert (await bench.failed())[0] is Failure.PROTOCOL
            assert "protocol_misuse" in bench.log.events
            assert bench.connection.error is not None

    run(work())


@pytest.mark.parametrize("part", ["hello", "sender", "heartbeat"])
def test_agent_when_a_part_crashes_goes_on_after_a_while(part):
    async def work():
        bench = Bench()
        bench.backoff.delay = 0.0
        if part == "hello":
            bench.hello_error = KeyError("an adapter's capabilities")
        async with bench.running() as task:
            if part != "hello":
                await bench.online()
                getattr(bench, part).break_with(KeyError("a bug"))
                await until(lambda: bench.backoff.failures)
                getattr(bench, part).fail.clear()
            else:
                await until(lambda: bench.backoff.failures)
                bench.hello_error = None
            assert bench.backoff.failures[0] is Failure.PROTOCOL
            assert bench.log.fields("session_crashed")[0]["error"] == "KeyError"
            await bench.online()
            assert not task.done()
            assert bench.facts.last_error is None

    run(work())


def test_connection_when_several_parts_see_it_break_complains_to_nobody():
    async def work():
        bench = Bench()
        async with bench.running():
            await bench.online()
            bench.sender.break_with(TransportError("sender", close_code=1006))
            bench.heartbeat.late_error = TransportError("heartbeat", close_code=1006)
            bench.connection.inbox.put_nowait(b"rubbish")
            await bench.failed()
            # What keeps the tasks of the session alive goes, so that asyncio may complain.
            bench.sender.error = bench.heartbeat.late_error = None
            gc.collect()
            await rounds(3)
            assert bench.unhandled == []

    run(work())


def test_failure_is_logged_once_until_it_changes_or_ends():
    async def work():
        bench = Bench()
        bench.backoff.delay = 0.0
        bench.steps = [*[TransportError("away") for _ in range(3)], TransportError("refused"), None]
        async with bench.running():
            await bench.online()
            logged = [(event, fields.get("error")) for _, event, fields in bench.log.lines]
            assert logged == [
                ("brain_unreachable", "away"),
                ("brain_unreachable", "refused"),
                ("brain_reached_again", None),
            ]
            assert bench.facts.last_error is None
            assert bench.facts.last_error_kind is None
            bench.backoff.delay = LONG
            bench.brain.cut(close_code=1012)
            await bench.failed(5)
            assert bench.log.events.count("brain_unreachable") == 3

    run(work())


# -- asked to reconnect


def test_reconnect_while_it_connects_begins_again():
    async def work():
        bench = Bench()
        bench.steps = [HANG]
        async with bench.running():
            await until(lambda: bench.connects == 1)
            bench.supervisor.reconnect()
            await bench.steady()
            assert bench.connects == 2
            assert bench.backoff.failures == []

    run(work())


def test_reconnect_during_the_handshake_begins_again():
    async def work():
        bench = Bench()
        bench.brain.answer_hello = False
        async with bench.running():
            await until(lambda: bench.brain.hellos)
            first = bench.connection
            bench.brain.answer_hello = True
            bench.supervisor.reconnect()
            await bench.steady()
            assert first.error is not None
            assert bench.connects == 2

    run(work())


def test_reconnect_during_a_backoff_ends_it_and_starts_the_count_over():
    async def work():
        bench = Bench()
        bench.steps = [TransportError("away", failure=Failure.TERMINAL)]
        async with bench.running():
            await bench.state(ConnectionState.TERMINAL)
            bench.supervisor.reconnect()
            await bench.online()
            assert bench.backoff.asked == [Failure.TERMINAL, "reset", "reset"]

    run(work())


def test_reconnect_of_a_live_session_drops_it_and_connects_at_once():
    async def work():
        bench = Bench()
        async with bench.running():
            await bench.online()
            first = bench.connection
            bench.supervisor.reconnect()
            await until(lambda: bench.facts.connects == 2)
            await bench.steady()
            assert first.error is not None
            assert bench.backoff.failures == []
            assert bench.calls == ["online", "offline", "online"]
            assert bench.facts.ack.session_id == bench.connection.side.session_id

    run(work())


def test_connection_that_comes_although_it_was_cancelled_is_closed():
    class Stubborn(Bench):
        async def connect(self):
            self.connects += 1
            if self.connects > 1:
                return await super().connect()
            connection = MemoryConnection(self.brain)
            self.brain.connections.append(connection)
            try:
                await asyncio.sleep(LONG)
            except asyncio.CancelledError:
                return connection

    async def work():
        bench = Stubborn()
        async with bench.running():
            await until(lambda: bench.connects == 1)
            first = bench.connection
            bench.supervisor.reconnect()
            await bench.online()
            assert first.error is not None

    run(work())


# -- stopping


@pytest.mark.parametrize("during", ["connect", "handshake", "backoff", "live"])
def test_stop_when_it_comes_at_any_moment_leaves_nothing_open(during):
    async def work():
        bench = Bench()
        if during == "connect":
            bench.steps = [HANG]
        if during == "backoff":
            bench.steps = [TransportError("away")]
        bench.brain.answer_hello = during != "handshake"
        async with bench.running() as task:
            await until(lambda: bench.connects)
            if during == "handshake":
                await until(lambda: bench.brain.hellos)
            if during == "backoff":
                await bench.state(ConnectionState.BACKOFF)
            if during == "live":
                await bench.online()
            await cancel(task)
            assert task.cancelled()
            assert bench.facts.state is ConnectionState.OFFLINE
            assert bench.calls[-1] == "offline"
            assert all(connection.error is not None for connection in bench.brain.connections)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await until(lambda: sum(not other.done() for other in others) <= 1)

    run(work())


def test_close_when_the_peer_does_not_answer_it_holds_nobody_up():
    class Deaf(MemoryConnection):
        async def close(self):
            self.error = TransportError("closed")
            await asyncio.sleep(LONG)

    async def work():
        bench = Bench()
        bench.steps = [Deaf(bench.brain)]
        async with bench.running():
            await bench.online()
            loop = asyncio.get_running_loop()
            started = loop.time()
            bench.supervisor.reconnect()
            await until(lambda: bench.connects == 2)
            assert loop.time() - started < 1

    run(work())
