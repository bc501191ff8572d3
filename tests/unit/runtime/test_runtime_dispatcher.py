from __future__ import annotations

import asyncio
import json
import threading
from contextlib import asynccontextmanager

import pytest
from support.runtime_kit import (
    KEY,
    LogLines,
    MemoryOutbox,
    MixedClock,
    ScriptedEngine,
    instruments,
    rounds,
    run,
    until,
)

from z4j_fastapi.engines.base import COMMAND_METHODS, CommandOutcome
from z4j_fastapi.errors import CommandError, OutboxError
from z4j_fastapi.outbox.journal import ClaimState, CommandJournal
from z4j_fastapi.protocol.commands import KNOWN_ACTIONS
from z4j_fastapi.protocol.results import check_result_payload
from z4j_fastapi.redaction import Redactor
from z4j_fastapi.runtime import control_record
from z4j_fastapi.runtime.dispatcher import MAX_CONCURRENT, Dispatcher

TOKENS = ("cancel_task", "retry_task", "bulk_retry", "purge_queue", "submit_task")


class Bench:
    """A dispatcher with a real journal, one engine, and an outbox in memory."""

    def __init__(self, directory, *engines):
        self.directory = directory
        self.clock = MixedClock()
        self.outbox = MemoryOutbox()
        self.log = LogLines()
        self.engine = engines[0] if engines else ScriptedEngine("arq", TOKENS)
        self.engines = {engine.name: engine for engine in engines or (self.engine,)}
        self.originals = {}
        self.woken = 0
        self.journal = CommandJournal(directory, clock=self.clock, agent_tag="tag")
        self.dispatcher = Dispatcher(
            outbox=self.outbox,
            journal=self.journal,
            redactor=Redactor(),
            clock=self.clock,
            signing_key=KEY,
            purge_threshold=None,
            logger=self.log,
            tracing=instruments(),
            original_task_id=lambda shown: self.originals.get(shown, shown),
        )
        self.dispatcher.preload()
        self.bind()

    def bind(self):
        self.dispatcher.bind(engines=self.engines, process="worker w (role web)", wake=self._wake)

    def _wake(self):
        self.woken += 1

    def take(self, command_id="c-1", action="cancel_task", **changes):
        parameters = changes.pop("parameters", {"engine": "arq", "task_id": "t-1"})
        payload = {
            "action": action,
            "target": {},
            "parameters": parameters,
            "timeout_seconds": 60,
            "issued_by": None,
            "delivery_claim_token": None,
        } | changes
        self.dispatcher.take(command_id, payload)

    @property
    def records(self):
        decoded = [control_record.decode(data) for data in self.outbox.own.results.payloads()]
        return [(one.frame_type, one.command_id, json.loads(one.payload)) for one in decoded]

    def answers(self, command_id="c-1"):
        return [
            payload
            for kind, known, payload in self.records
            if kind == control_record.RESULT and known == command_id
        ]

    async def answer(self, command_id="c-1", count=1):
        await until(lambda: len(self.answers(command_id)) >= count, f"answer to {command_id}")
        return self.answers(command_id)[-1]

    async def ask(self, command_id="c-1", action="cancel_task", **changes):
        count = len(self.answers(command_id))
        self.take(command_id, action, **changes)
        answer = await self.answer(command_id, count + 1)
        await until(lambda: not self.dispatcher.running, "the end of the command")
        return answer

    @property
    def called(self):
        return [method for method, _ in self.engine.calls]

    def dead_process(self, *identities, token="old", action="cancel_task"):
        """Somebody claimed a command and died over it."""
        journal = CommandJournal(self.directory, clock=self.clock, agent_tag="tag")
        journal.claim(identities, action=action, claim_token=token)
        journal.close()


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@asynccontextmanager
async def closing(bench, grace=0.0):
    try:
        yield
    finally:
        await bench.dispatcher.aclose(grace)


def on_loop(bench, work):
    async def main():
        async with closing(bench):
            await work()

    run(main())


class Gate:
    """An adapter's method that waits until it is let go."""

    def __init__(self):
        self.entered = 0
        self.most = 0
        self.inside = 0
        self.order = []
        self.open = asyncio.Event()

    async def __call__(self, command, context):
        self.entered += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.order.append(command.id)
        try:
            await self.open.wait()
        finally:
            self.inside -= 1
        return CommandOutcome(result={"id": command.id})


# -- the course of one command


def test_command_is_acknowledged_first_then_run_and_answered(bench):
    async def work():
        bench.take(delivery_claim_token="tok")
        assert bench.records == [(control_record.ACK, "c-1", {"delivery_claim_token": "tok"})]
        assert bench.woken == 1
        assert bench.dispatcher.running == 1
        assert await bench.answer() == {
            "status": "success",
            "result": {"did": "cancel_task"},
            "error": None,
            "delivery_claim_token": "tok",
        }
        assert bench.woken == 2
        assert bench.called == ["cancel_task"]
        await until(lambda: not bench.dispatcher.running)
        assert bench.log.fields("command_finished") == [
            {"action": "cancel_task", "command_id": "c-1", "outcome": "success"}
        ]

    on_loop(bench, work)


def test_claim_is_durable_before_the_engine_is_called(bench):
    async def work():
        async def cancel(command, context):
            other = CommandJournal(bench.directory, clock=bench.clock, agent_tag="tag")
            claim = other.claim(command.identities, action="cancel_task", claim_token=None)
            other.close()
            return CommandOutcome(result={"state": claim.state.value})

        bench.engine.does["cancel_task"] = cancel
        assert (await bench.ask())["result"] == {"state": "running"}

    on_loop(bench, work)


def test_answer_is_in_the_outbox_before_the_journal_calls_it_finished(bench):
    async def work():
        finish = bench.journal.finish
        seen = []

        def late(identities, result):
            seen.append(len(bench.answers()))
            finish(identities, result)

        bench.journal.finish = late
        await bench.ask()
        assert seen == [1]

    on_loop(bench, work)


@pytest.mark.parametrize(
    ("action", "changes", "error"),
    [
        ("explode", {}, "unsupported: this agent does not know the action 'explode'"),
        (7, {}, "unsupported: this agent does not know the action ''"),
        ("cancel_task", {"parameters": None}, "invalid: cancel_task: parameters"),
        ("cancel_task", {"parameters": {"engine": "arq"}}, "invalid: cancel_task: parameter 'task"),
        ("cancel_task", {"target": {"engine": "rq"}}, "refused: cancel_task: the frame names sev"),
        (
            "cancel_task",
            {"parameters": {"engine": "rq", "task_id": "1"}},
            "engine_not_loaded: worker w (role web) has no engine 'rq' (loaded: arq)",
        ),
        (
            "retry_task",
            {"parameters": {"engine": "arq", "task_id": "1", "eta": 1.0}},
            "refused: retry_task: eta is more than 60 s past",
        ),
        (
            "restart_worker",
            {"parameters": {"engine": "arq", "worker_name": "w"}},
            "unsupported: engine arq cannot restart_worker in worker w (role web)",
        ),
    ],
)
def test_command_when_it_cannot_be_carried_out_is_acknowledged_and_answered(
    bench, action, changes, error
):
    async def work():
        answer = await bench.ask(action=action, delivery_claim_token="tok", **changes)
        assert bench.records[0][0] == control_record.ACK
        assert answer["status"] == "failed"
        assert answer["error"].startswith(error)
        assert answer["delivery_claim_token"] == "tok"
        assert answer["result"] is None
        assert bench.called == []

    on_loop(bench, work)


def test_engine_when_none_is_loaded_is_named_as_missing(bench):
    async def work():
        bench.engines.clear()
        answer = await bench.ask()
        assert "loaded: none" in answer["error"]
        answer = await bench.ask("c-2", "purge_queue", parameters={"queue": "q"})
        assert answer["error"].startswith("unsupported: no engine of worker w (role web) can purge")

    on_loop(bench, work)


def test_capability_is_looked_at_again_when_the_command_runs(bench):
    async def work():
        bench.engine.tokens = ()
        answer = await bench.ask()
        assert answer["error"].startswith("unsupported:")
        assert bench.called == []
        bench.engine.tokens = ("cancel_task",)
        assert (await bench.ask("c-2"))["status"] == "success"

    on_loop(bench, work)


def test_reconcile_needs_no_token(bench):
    async def work():
        bench.engine.tokens = ()
        assert (await bench.ask(action="reconcile_task"))["status"] == "success"

    on_loop(bench, work)


def test_every_action_that_is_understood_has_a_method():
    assert set(KNOWN_ACTIONS) == set(COMMAND_METHODS)


@pytest.mark.parametrize(
    ("raised", "error", "result", "outcome"),
    [
        (CommandError("not_found", "no such job"), "not_found: no such job", None, "not_found"),
        (
            CommandError("timeout", "no answer", indeterminate=True, result={"task_id": "t"}),
            "timeout: no answer",
            {"indeterminate": True, "task_id": "t"},
            "timeout",
        ),
        (
            ValueError("redis://x:hunter2@h/0 is away"),
            "failed: ValueError: redis://x:",
            {"indeterminate": True},
            "failed",
        ),
        (
            asyncio.TimeoutError("connecting took too long"),
            "failed: TimeoutError: connecting",
            {"indeterminate": True},
            "failed",
        ),
    ],
)
def test_adapter_when_it_raises_is_answered_for(bench, raised, error, result, outcome):
    async def work():
        bench.engine.does["cancel_task"] = raised
        answer = await bench.ask()
        assert answer["status"] == "failed"
        assert answer["error"].startswith(error)
        assert "hunter2" not in answer["error"]
        assert answer["result"] == result
        assert bench.log.fields("command_finished")[0]["outcome"] == outcome

    on_loop(bench, work)


@pytest.mark.parametrize("returned", [None, "done", CommandOutcome(result=None)])
def test_adapter_when_it_returns_nonsense_is_answered_for(bench, returned):
    async def work():
        async def cancel(command, context):
            return returned

        bench.engine.does["cancel_task"] = cancel
        answer = await bench.ask()
        assert answer["status"] in ("failed", "success")
        check_result_payload(bench.journal.claim(["c-1"], action="x", claim_token=None).result)
        if not isinstance(returned, CommandOutcome):
            assert answer["error"].startswith("failed: AttributeError")

    on_loop(bench, work)


def test_outcome_with_an_error_is_a_failure_that_keeps_its_result(bench):
    async def work():
        async def bulk(command, context):
            return CommandOutcome(result={"failed": 1}, error="failed: none could be retried")

        bench.engine.does["bulk_retry"] = bulk
        answer = await bench.ask(
            action="bulk_retry", parameters={"filter": {"engine": "arq", "task_ids": ["1"]}}
        )
        assert answer["status"] == "failed"
        assert answer["result"] == {"failed": 1}

    on_loop(bench, work)


def test_result_is_redacted_and_capped(bench):
    async def work():
        async def cancel(command, context):
            big = {f"key{n}": f"a text {n} " * 60 for n in range(3000)}
            return CommandOutcome(result={"password": "hunter2"} if command.id == "c-1" else big)

        bench.engine.does["cancel_task"] = cancel
        assert "hunter2" not in json.dumps(await bench.ask())
        answer = await bench.ask("c-2")
        assert answer["status"] == "success"
        assert len(json.dumps(answer)) <= 300_000

    on_loop(bench, work)


# -- which engine


def two(tmp_path):
    return Bench(tmp_path, ScriptedEngine("arq", TOKENS), ScriptedEngine("taskiq", TOKENS))


@pytest.mark.parametrize(
    ("arq", "taskiq", "chosen", "error"),
    [
        ({"q": 1}, {"other": 1}, "arq", None),
        ({}, {"q": 0}, "taskiq", None),
        ({"q": 1}, {"q": 1}, None, "refused: queue 'q' exists in several engines: arq, taskiq"),
        ({}, {}, None, "not_found: no engine knows a queue 'q'"),
    ],
)
def test_purge_when_several_engines_could_goes_to_the_one_that_knows_the_queue(
    tmp_path, arq, taskiq, chosen, error
):
    bench = two(tmp_path)
    bench.engines["arq"].depths = arq
    bench.engines["taskiq"].depths = taskiq

    async def work():
        answer = await bench.ask(action="purge_queue", parameters={"queue": "q", "force": True})
        called = [name for name, engine in bench.engines.items() if engine.calls]
        assert called == ([chosen] if chosen else [])
        assert answer["error"] == error

    on_loop(bench, work)


def test_purge_when_one_engine_can_goes_to_it_whatever_it_knows(tmp_path):
    bench = two(tmp_path)
    bench.engines["taskiq"].tokens = ()

    async def work():
        answer = await bench.ask(action="purge_queue", parameters={"queue": "q", "force": True})
        assert answer["status"] == "success"
        assert bench.engines["arq"].calls

    on_loop(bench, work)


def test_purge_when_an_engine_cannot_be_asked_in_time_is_answered(tmp_path):
    bench = two(tmp_path)

    async def never():
        await asyncio.sleep(600)

    bench.engines["taskiq"].queues = never

    async def work():
        answer = await bench.ask(
            action="purge_queue", parameters={"queue": "q", "force": True}, timeout_seconds=1
        )
        assert answer["error"] == "timeout: purge_queue did not finish within 0.5 s"

    on_loop(bench, work)


def test_command_without_an_engine_when_several_could_do_it_is_refused(tmp_path):
    bench = two(tmp_path)

    async def work():
        for command_id, action, parameters in (
            ("c-1", "cancel_task", {"task_id": "1"}),
            ("c-2", "reconcile_task", {"task_id": "1"}),
        ):
            answer = await bench.ask(command_id, action, parameters=parameters)
            assert answer["error"].startswith(f"refused: {action}: the command names no engine")
        bench.engines["taskiq"].tokens = ()
        answer = await bench.ask("c-3", parameters={"task_id": "1"})
        assert answer["status"] == "success"
        assert [command.id for _, command in bench.engines["arq"].calls] == ["c-3"]

    on_loop(bench, work)


# -- time


def test_command_when_it_takes_too_long_is_given_up_in_time_as_indeterminate(bench):
    async def work():
        bench.engine.does["cancel_task"] = Gate()
        answer = await bench.ask(timeout_seconds=1)
        assert answer["error"] == "timeout: cancel_task did not finish within 0.5 s"
        assert answer["result"] == {"indeterminate": True}
        assert bench.engine.does["cancel_task"].inside == 0

    on_loop(bench, work)


def test_context_knows_how_much_time_is_left(bench):
    async def work():
        async def cancel(command, context):
            return CommandOutcome(result={"left": context.remaining_seconds()})

        bench.engine.does["cancel_task"] = cancel
        answer = await bench.ask(timeout_seconds=60)
        assert 50 < answer["result"]["left"] <= 55

    on_loop(bench, work)


def test_time_in_the_queue_counts_and_a_command_whose_time_is_over_is_not_run(bench):
    async def work():
        gate = bench.engine.does["cancel_task"] = Gate()
        bench.take("c-1")
        bench.take("c-2")
        await until(lambda: gate.entered)
        bench.clock.advance(56)
        gate.open.set()
        assert (await bench.answer("c-1"))["status"] == "success"
        answer = await bench.answer("c-2")
        assert (
            answer["error"] == "timeout: cancel_task waited too long for its turn; it was not run"
        )
        assert answer["result"] is None
        assert gate.order == ["c-1"]

    on_loop(bench, work)


# -- order and concurrency


def test_commands_of_one_task_run_one_after_another_and_others_beside_them(bench):
    async def work():
        gate = bench.engine.does["cancel_task"] = Gate()
        for number in range(3):
            bench.take(f"a{number}")
        bench.take("b", parameters={"engine": "arq", "task_id": "other"})
        await until(lambda: gate.entered == 2)
        await rounds()
        assert gate.order == ["a0", "b"]
        gate.open.set()
        for command_id in ("a0", "a1", "a2", "b"):
            await bench.answer(command_id)
        assert gate.order == ["a0", "b", "a1", "a2"]
        await until(lambda: not bench.dispatcher.running)
        assert bench.dispatcher._turns == {}

    on_loop(bench, work)


def test_commands_when_there_are_very_many_are_run_sixteen_at_a_time(bench):
    async def work():
        gate = bench.engine.does["submit_task"] = Gate()
        ids = [f"c-{number}" for number in range(40)]
        for command_id in ids:
            bench.take(command_id, "submit_task", parameters={"name": "job", "engine": "arq"})
        assert len(bench.records) == 40  # all acknowledged at once
        await until(lambda: gate.entered == MAX_CONCURRENT == 16)
        await rounds(200)
        assert gate.entered == 16
        gate.open.set()
        for command_id in ids:
            assert (await bench.answer(command_id))["status"] == "success"
        assert gate.most == 16

    on_loop(bench, work)


def test_blocking_broker_calls_when_all_hang_leave_room_for_an_answer(bench):
    release = threading.Event()

    async def work():
        async def cancel(command, context):
            await context.run_blocking(release.wait, 20)
            return CommandOutcome()

        bench.engine.does["cancel_task"] = cancel
        for number in range(6):
            bench.take(f"c-{number}", parameters={"engine": "arq", "task_id": str(number)})
        bench.take("other", "reconcile_task")
        assert (await bench.answer("other"))["status"] == "success"
        assert bench.dispatcher.running >= 6

    try:
        on_loop(bench, work)
    finally:
        release.set()


# -- the same command again


def test_command_when_finished_is_answered_again_with_the_stored_result(bench):
    async def work():
        first = await bench.ask(delivery_claim_token="tok")
        again = await bench.ask(delivery_claim_token="tok")
        assert again == first
        assert bench.called == ["cancel_task"]
        assert [kind for kind, _, _ in bench.records] == [
            control_record.ACK,
            control_record.RESULT,
        ] * 2

    on_loop(bench, work)


def test_command_when_failed_is_not_tried_again(bench):
    async def work():
        bench.engine.does["cancel_task"] = CommandError("not_found", "no such job")
        first = await bench.ask()
        bench.engine.does.clear()
        assert await bench.ask() == first
        assert bench.called == ["cancel_task"]

    on_loop(bench, work)


def test_command_when_it_comes_again_while_it_runs_is_run_once(bench):
    async def work():
        gate = bench.engine.does["submit_task"] = Gate()
        for _ in range(3):
            bench.take(action="submit_task", parameters={"name": "job", "engine": "arq"})
        await until(lambda: bench.dispatcher.running == 1, "the redeliveries to be put aside")
        assert gate.entered == 1
        gate.open.set()
        await bench.answer()
        await until(lambda: not bench.dispatcher.running)
        assert len(bench.answers()) == 1
        assert gate.entered == 1

    on_loop(bench, work)


def test_command_when_a_living_sibling_runs_it_is_left_to_it(bench):
    sibling = CommandJournal(bench.directory, clock=bench.clock, agent_tag="tag")
    sibling.claim(["c-1"], action="cancel_task", claim_token=None)

    async def work():
        bench.take()
        await until(lambda: not bench.dispatcher.running)
        assert bench.answers() == []
        assert bench.called == []

    on_loop(bench, work)
    sibling.close()


@pytest.mark.parametrize(("token", "echoed"), [(None, "old"), ("new", "new")])
def test_command_when_its_process_died_over_it_is_never_run_again(bench, token, echoed):
    bench.dead_process("c-1", token="old")

    async def work():
        answer = await bench.ask(delivery_claim_token=token)
        assert answer["status"] == "failed"
        assert "outcome unknown" in answer["error"]
        assert answer["result"] == {"indeterminate": True}
        assert answer["delivery_claim_token"] == echoed
        assert await bench.ask(delivery_claim_token=token) == answer
        assert bench.called == []

    on_loop(bench, work)


def fire(fire_id="f-1", **more):
    return {"task_name": "job", "engine": "arq", "fire_id": fire_id} | more


def test_fire_when_it_comes_in_another_command_is_the_same_fire(bench):
    async def work():
        first = await bench.ask(
            "c-1", "schedule.fire", parameters=fire(), delivery_claim_token="tok-1"
        )
        again = await bench.ask(
            "c-2", "schedule.fire", parameters=fire(), delivery_claim_token="tok-2"
        )
        assert first["delivery_claim_token"] == "tok-1"
        assert again == first | {"delivery_claim_token": "tok-2"}
        assert bench.called == ["schedule_fire"]
        other = await bench.ask("c-3", "schedule.fire", parameters=fire("f-2"))
        assert other["status"] == "success"
        assert bench.called == ["schedule_fire"] * 2

    on_loop(bench, work)


def test_token_when_a_redelivery_lacks_it_comes_from_the_journal(bench):
    async def work():
        await bench.ask(delivery_claim_token="tok")
        assert (await bench.ask())["delivery_claim_token"] == "tok"

    on_loop(bench, work)


# -- the journal fails


def test_command_when_it_cannot_be_claimed_is_refused_and_not_run(bench):
    def claim(*args, **more):
        raise OutboxError("disk full")

    async def work():
        bench.journal.claim = claim
        answer = await bench.ask(delivery_claim_token="tok")
        assert answer["error"] == "refused: the command journal cannot be written: disk full"
        assert answer["status"] == "failed"
        assert answer["delivery_claim_token"] == "tok"
        assert bench.called == []

    on_loop(bench, work)


def test_result_when_it_cannot_be_journalled_is_sent_all_the_same(bench):
    def finish(*args):
        raise OutboxError("disk full")

    async def work():
        bench.journal.finish = finish
        assert (await bench.ask())["status"] == "success"
        assert bench.log.fields("command_journal_unwritable") == [{"error": "disk full"}]

    on_loop(bench, work)


def test_answer_when_the_outbox_refuses_it_is_logged_and_raises_nothing(bench):
    async def work():
        bench.outbox.refuse = True
        bench.take()
        await until(lambda: not bench.dispatcher.running)
        assert bench.called == ["cancel_task"]
        lost = bench.log.fields("command_answer_lost")
        assert [line["command_id"] for line in lost] == ["c-1", "c-1"]
        assert bench.woken == 0

    on_loop(bench, work)


def test_defect_of_ours_when_it_shows_is_logged_and_does_not_reach_the_session(bench):
    def claim(*args, **more):
        raise ZeroDivisionError

    async def work():
        bench.journal.claim = claim
        bench.take()
        await until(lambda: not bench.dispatcher.running)
        assert bench.log.fields("command_failed_internally") == [{"error": "ZeroDivisionError"}]

    on_loop(bench, work)


# -- ids that were replaced on the wire


def test_task_ids_are_the_engines_own_again_when_the_engine_sees_them(bench):
    bench.originals = {"id-abc": "someone@example.com"}

    async def work():
        await bench.ask(parameters={"engine": "arq", "task_id": "id-abc"})
        await bench.ask(
            "c-2",
            "bulk_retry",
            parameters={
                "filter": {
                    "engine": "arq",
                    "task_ids": ["1", "id-abc"],
                    "task_names": {"id-abc": "send", "1": "other"},
                    "task_priorities": {"id-abc": "high"},
                },
                "max": 10,
            },
        )
        await bench.ask(
            "c-3", "bulk_retry", parameters={"filter": {"engine": "arq", "task_ids": ["1"]}}
        )
        first, second, third = (command for _, command in bench.engine.calls)
        assert first.task_id == "someone@example.com"
        assert second.task_ids == ("1", "someone@example.com")
        assert second.task_names == {"someone@example.com": "send", "1": "other"}
        assert second.task_priorities == {"someone@example.com": "high"}
        assert third.task_ids == ("1",)

    on_loop(bench, work)


# -- stopping


def test_stop_lets_a_command_finish_within_its_grace(bench):
    async def work():
        gate = bench.engine.does["cancel_task"] = Gate()
        bench.take()
        await until(lambda: gate.entered)
        asyncio.get_running_loop().call_later(0.01, gate.open.set)
        await bench.dispatcher.aclose(10)
        assert bench.answers()[0]["status"] == "success"

    run(work())


def test_stop_answers_what_runs_what_waits_and_what_is_being_claimed(bench):
    claiming = threading.Event()

    async def work():
        gate = bench.engine.does["cancel_task"] = Gate()
        claim = bench.journal.claim

        def slow_claim(identities, **more):
            if identities[0] == "claimed late":
                claiming.set()
                threading.Event().wait(0.05)
            return claim(identities, **more)

        bench.journal.claim = slow_claim
        bench.take("runs", delivery_claim_token="tok")
        bench.take("waits")
        bench.take("waits")  # and comes again
        await until(lambda: gate.entered)
        bench.take("claimed late", parameters={"engine": "arq", "task_id": "other"})
        await until(claiming.is_set)
        await bench.dispatcher.aclose(0.0)
        assert not bench.dispatcher.running
        [runs] = bench.answers("runs")
        assert runs["error"].startswith("timeout: the agent stopped while the command ran")
        assert runs["result"] == {"indeterminate": True}
        assert runs["delivery_claim_token"] == "tok"
        for command_id in ("waits", "claimed late"):
            for answer in bench.answers(command_id):
                assert answer["error"] == "refused: the agent stopped before the command ran"
                assert answer["result"] is None
            assert bench.answers(command_id)
        assert gate.order == ["runs"]
        assert bench.called == ["cancel_task"]

    run(work())
    journal = CommandJournal(bench.directory, clock=bench.clock, agent_tag="tag")
    for command_id in ("runs", "waits", "claimed late"):
        claim = journal.claim([command_id], action="x", claim_token=None)
        assert claim.state is ClaimState.FINISHED
    journal.close()


def test_stop_while_a_redelivery_waits_does_not_contradict_the_first_answer(bench):
    async def work():
        gate = bench.engine.does["cancel_task"] = Gate()
        bench.take()
        await until(lambda: gate.entered)
        bench.take()
        await rounds()
        await bench.dispatcher.aclose(0.0)
        assert {answer["error"] for answer in bench.answers()} == {
            "timeout: the agent stopped while the command ran; outcome unknown"
        }

    run(work())


def test_command_when_the_runtime_stops_is_turned_away_but_a_fire_is_left_to_others(bench):
    async def work():
        await bench.dispatcher.aclose(0.0)
        bench.take("c-1", delivery_claim_token="tok")
        bench.take("c-2", "schedule.fire", parameters=fire())
        assert bench.answers()[0] == {
            "status": "failed",
            "error": "refused: the agent is stopping; the command was not run",
            "result": None,
            "delivery_claim_token": "tok",
        }
        assert [(kind, known) for kind, known, _ in bench.records] == [
            (control_record.ACK, "c-1"),
            (control_record.RESULT, "c-1"),
        ]
        bench.bind()  # the runtime starts again
        assert (await bench.ask("c-2", "schedule.fire", parameters=fire()))["status"] == "success"
        await bench.dispatcher.aclose(0.0)

    run(work())


def test_stop_when_an_adapter_ignores_it_ends_all_the_same(bench, monkeypatch):
    async def work():
        stubborn = asyncio.Event()

        async def cancel(command, context):
            while not stubborn.is_set():
                try:
                    await stubborn.wait()
                except asyncio.CancelledError:
                    continue
            return CommandOutcome()

        bench.engine.does["cancel_task"] = cancel
        bench.take()
        await until(lambda: bench.called)
        started = bench.clock.monotonic()
        await bench.dispatcher.aclose(0.0)
        assert bench.clock.monotonic() - started < 5
        stubborn.set()
        await until(lambda: not bench.dispatcher.running)

    run(work())


# -- after a crash


def test_recovery_answers_what_a_dead_process_left_exactly_once(bench):
    bench.dead_process("c-1", token="tok-1")
    bench.dead_process("c-2", "fire:f-2", token=None, action="schedule.fire")
    finished = CommandJournal(bench.directory, clock=bench.clock, agent_tag="tag")
    finished.claim(["done"], action="cancel_task", claim_token=None)
    finished.finish(["done"], b"{}")
    finished.close()

    async def work():
        await bench.dispatcher.recover()
        await bench.dispatcher.recover()
        assert [known for _, known, _ in bench.records] == ["c-1", "c-2"]
        [answer] = bench.answers("c-1")
        assert answer["status"] == "failed"
        assert "outcome unknown" in answer["error"]
        assert answer["result"] == {"indeterminate": True}
        assert answer["delivery_claim_token"] == "tok-1"
        assert bench.woken == 2
        again = await bench.ask("c-9", "schedule.fire", parameters=fire("f-2"))
        assert "outcome unknown" in again["error"]
        assert bench.called == []

    on_loop(bench, work)


def test_recovery_when_the_journal_cannot_be_written_still_answers_all(bench):
    bench.dead_process("c-1")
    bench.dead_process("c-2")

    def finish(*args):
        raise OutboxError("disk full")

    async def work():
        bench.journal.finish = finish
        await bench.dispatcher.recover()
        assert len(bench.answers("c-1")) == len(bench.answers("c-2")) == 1
        assert bench.log.events == ["command_journal_unwritable"] * 2

    on_loop(bench, work)


def test_recovery_when_there_never_was_a_command_makes_no_journal(bench):
    on_loop(bench, bench.dispatcher.recover)
    assert list(bench.directory.iterdir()) == []


def test_fork_when_it_happens_leaves_the_parents_commands_to_the_parent(bench):
    async def work():
        gate = bench.engine.does["cancel_task"] = Gate()
        bench.take()
        await until(lambda: gate.entered)
        running = set(bench.dispatcher._tasks)
        bench.dispatcher.reinit_after_fork()
        assert bench.dispatcher.running == 0
        await bench.dispatcher.aclose(0.0)
        assert bench.answers() == []
        for task in running:
            task.cancel()
        await asyncio.wait(running)

    run(work())
