from __future__ import annotations

import pytest
from support.vectors import recorded_frames

from z4j_fastapi.errors import CommandError
from z4j_fastapi.protocol.commands import (
    BULK_LIMIT,
    KNOWN_ACTIONS,
    BulkRetry,
    CancelTask,
    ChangeConsumer,
    Command,
    FireSchedule,
    ListDeadLetters,
    PurgeQueue,
    RateLimit,
    ReconcileTask,
    RequeueDeadLetter,
    ResizePool,
    RestartWorker,
    RetryTask,
    SubmitTask,
    parse_command,
    parse_envelope,
)


def parse(action, parameters, **payload):
    return parse_command("c1", {"action": action, "parameters": parameters} | payload)


def refused(action, parameters, reason, **payload):
    with pytest.raises(CommandError) as caught:
        parse(action, parameters, **payload)
    assert caught.value.reason == reason
    return str(caught.value)


RECORDED = [
    (label, frame) for label, _, _, frame in recorded_frames() if frame["type"] == "command"
]


@pytest.mark.parametrize(
    ("label", "frame"), RECORDED, ids=lambda v: v if isinstance(v, str) else ""
)
def test_parse_command_when_given_a_recorded_frame_then_its_values(label, frame):
    payload = frame["payload"]
    if payload["action"] not in KNOWN_ACTIONS:
        assert payload["action"].startswith(("schedule.external.", "schedule.resync"))
        with pytest.raises(CommandError) as caught:
            parse_command(frame["id"], payload)
        assert caught.value.reason == "unsupported"
        return
    command = parse_command(frame["id"], payload)
    assert command.id == frame["id"]
    assert command.action == payload["action"]
    assert command.engine == payload["target"].get("engine")
    assert command.claim_token == payload["delivery_claim_token"]
    assert command.timeout_seconds == payload["timeout_seconds"] == 60
    assert command.issued_by == payload["issued_by"]
    parameters = payload["parameters"]
    for name in ("task_id", "task_name", "queue", "worker_name", "fire_id", "schedule_id", "rate"):
        if name in parameters and hasattr(command, name):
            assert getattr(command, name) == parameters[name]


def test_known_actions_when_listed_then_all_recorded_kinds_but_external_schedules():
    assert len(set(KNOWN_ACTIONS)) == len(KNOWN_ACTIONS) == 15
    recorded = {frame["payload"]["action"] for _, frame in RECORDED}
    assert recorded & set(KNOWN_ACTIONS) == set(KNOWN_ACTIONS)


def test_parse_command_when_retry_has_overrides_then_exactly_those():
    command = parse(
        "retry_task",
        {
            "engine": "arq",
            "task_id": "a:b",
            "override_args": [],
            "override_kwargs": {},
            "eta": 17,
            "priority": "high",
            "args": None,
        },
    )
    assert isinstance(command, RetryTask)
    assert command.has_overrides
    assert (command.override_args, command.override_kwargs) == ((), {})
    assert (command.eta, command.priority, command.task_name) == (17.0, "high", None)
    assert command.order_key == "task:arq:a:b"
    assert command.target == "a:b"
    assert command.identities == ("c1",)


def test_parse_command_when_retry_comes_from_a_rule_then_missing_members_are_null():
    command = parse("retry_task", {"engine": "rq", "task_id": "t", "task_name": "x.y"})
    assert not command.has_overrides
    assert command.override_args is command.override_kwargs is command.eta is None
    assert command.task_name == "x.y"


@pytest.mark.parametrize(
    "halves",
    [
        {"override_args": []},
        {"override_kwargs": {}},
        {"override_args": None, "override_kwargs": {"a": 1}},
    ],
)
def test_parse_command_when_retry_has_one_half_only_then_invalid(halves):
    refused("retry_task", {"task_id": "t"} | halves, "invalid")


def test_parse_command_when_override_names_a_reserved_key_then_refused():
    parameters = {"task_id": "t", "override_args": [], "override_kwargs": {"__z4j_x": 1}}
    refused("retry_task", parameters, "refused")


@pytest.mark.parametrize("priority", [5, ["high"], None, ""])
def test_parse_command_when_priority_is_strange_then_it_is_only_advice(priority):
    assert parse("retry_task", {"task_id": "t", "priority": priority}).priority is None


@pytest.mark.parametrize(
    ("eta", "usable"),
    [
        (None, True),
        (1_000.0, True),
        (940.0, True),
        (939.9, False),
        (1_000.0 + 365 * 86_400, True),
        (1_001.0 + 365 * 86_400, False),
        (-1e300, False),
    ],
)
def test_require_usable_eta_when_far_off_then_refused(eta, usable):
    command = parse("retry_task", {"task_id": "t", "eta": eta})
    if usable:
        command.require_usable_eta(1_000.0)
        return
    with pytest.raises(CommandError) as caught:
        command.require_usable_eta(1_000.0)
    assert caught.value.reason == "refused"


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("cancel_task", CancelTask),
        ("requeue_dead_letter", RequeueDeadLetter),
        ("reconcile_task", ReconcileTask),
    ],
)
def test_parse_command_when_it_names_a_task_then_take_the_id_from_parameters(action, kind):
    command = parse(
        action,
        {"engine": "arq", "task_id": "t:1"},
        target={"type": "task", "id": "arq:t:1", "engine": "arq"},
    )
    assert type(command) is kind
    assert (command.task_id, command.engine) == ("t:1", "arq")
    refused(action, {"engine": "arq"}, "invalid")
    refused(action, {"task_id": "x" * 201}, "invalid")


def test_parse_command_when_bulk_then_ids_once_and_in_order():
    command = parse(
        "bulk_retry",
        {
            "filter": {
                "engine": "arq",
                "task_ids": ["b", "a", "b"],
                "task_names": {"a": "x.y", "b": None},
                "task_priorities": {"a": "high"},
                "state": "failure",
            },
            "max": 50,
        },
        target={"type": "bulk", "id": None, "engine": "arq"},
    )
    assert isinstance(command, BulkRetry)
    assert command.task_ids == ("b", "a")
    assert command.task_names == {"a": "x.y"}
    assert command.task_priorities == {"a": "high"}
    assert (command.engine, command.skipped, command.target) == ("arq", 0, "2 tasks")
    assert command.order_key is None


@pytest.mark.parametrize("parameters", [{}, {"filter": None}, {"filter": {}}])
def test_parse_command_when_bulk_names_no_ids_then_nothing_to_do(parameters):
    assert parse("bulk_retry", parameters).task_ids == ()


@pytest.mark.parametrize(
    ("count", "maximum", "taken"),
    [
        (5, 2, 2),
        (BULK_LIMIT + 5, None, BULK_LIMIT),
        (BULK_LIMIT + 5, 10**30, BULK_LIMIT),
        (5, 5, 5),
    ],
)
def test_parse_command_when_bulk_is_over_its_limit_then_clamp_and_say_how_many(
    count, maximum, taken
):
    ids = [str(n) for n in range(count)]
    command = parse("bulk_retry", {"filter": {"task_ids": ids}, "max": maximum})
    assert len(command.task_ids) == taken
    assert command.skipped == count - taken


@pytest.mark.parametrize(
    "parameters",
    [
        {"filter": []},
        {"filter": {"task_ids": "abc"}},
        {"filter": {"task_ids": [""]}},
        {"filter": {"task_ids": [["a"]]}},
        {"filter": {"task_ids": [5]}},
        {"filter": {"task_ids": ["a"]}, "max": 0},
        {"filter": {"task_ids": ["a"]}, "max": "5"},
        {"filter": {"task_ids": ["a"]}, "max": True},
    ],
)
def test_parse_command_when_bulk_is_wrong_then_invalid(parameters):
    refused("bulk_retry", parameters, "invalid")


def test_parse_command_when_purge_then_token_and_force():
    command = parse("purge_queue", {"queue": "q", "confirm_token": "ab", "force": False})
    assert isinstance(command, PurgeQueue)
    assert (command.queue, command.confirm_token, command.force) == ("q", "ab", False)
    assert command.engine is None
    assert (command.order_key, command.target) == ("queue:q", "q")
    assert parse("purge_queue", {"queue": "q"}).confirm_token is None
    refused("purge_queue", {"queue": "q", "force": "yes"}, "invalid")
    refused("purge_queue", {"queue": ""}, "invalid")


def test_parse_command_when_dead_letters_then_defaults_and_bounds():
    command = parse("dlq.list", {"engine": "rq", "queue": None, "cursor": None})
    assert isinstance(command, ListDeadLetters)
    assert (command.queue, command.limit, command.cursor, command.target) == (None, 100, None, "")
    assert parse("dlq.list", {"queue": "q", "limit": 200, "cursor": "x"}).target == "q"
    refused("dlq.list", {"limit": 201}, "invalid")


@pytest.mark.parametrize("cursor", [5, "x" * 201])
def test_parse_command_when_cursor_cannot_be_read_then_the_words_the_brain_looks_for(cursor):
    assert "invalid dead-letter cursor" in refused("dlq.list", {"cursor": cursor}, "invalid")


def test_parse_command_when_submit_then_engine_from_the_filter():
    command = parse(
        "submit_task",
        {
            "name": "a.b",
            "args": [1],
            "kwargs": {"k": 2},
            "queue": None,
            "filter": {"engine": "arq"},
            "schedule_id": "s",
            "schedule_name": "n",
        },
    )
    assert type(command) is SubmitTask
    assert (command.task_name, command.args, command.kwargs) == ("a.b", (1,), {"k": 2})
    assert (command.engine, command.queue, command.target) == ("arq", None, "a.b")
    assert (command.schedule_id, command.schedule_name) == ("s", "n")
    assert command.identities == ("c1",)


def test_parse_command_when_schedule_fires_then_fire_id_is_an_identity():
    command = parse(
        "schedule.fire", {"task_name": "a.b", "engine": "arq", "fire_id": "f", "args": None}
    )
    assert type(command) is FireSchedule
    assert command.identities == ("c1", "fire:f")
    assert (command.args, command.kwargs) == ((), {})
    refused("schedule.fire", {"task_name": "a.b"}, "invalid")


def test_parse_command_when_a_fire_holds_strange_information_then_it_still_runs():
    command = parse(
        "schedule.fire",
        {
            "task_name": "a.b",
            "fire_id": "f",
            "schedule_id": 5,
            "schedule_name": "n" * 600,
            "scheduled_for": {},
            "fired_at": "t" * 70,
        },
    )
    assert command.schedule_id is command.scheduled_for is None
    assert command.schedule_name == "n" * 500
    assert command.fired_at == "t" * 64


def test_parse_command_when_worker_control_then_one_worker_in_order():
    restart = parse("restart_worker", {"worker_name": "w", "engine": "celery"})
    grow = parse("pool_grow", {"worker_name": "w", "engine": "celery", "delta": 2})
    add = parse("add_consumer", {"worker_name": "w", "engine": "celery", "queue": "q"})
    assert type(restart) is RestartWorker
    assert (type(grow), grow.action, grow.delta) == (ResizePool, "pool_grow", 2)
    assert (type(add), add.queue) == (ChangeConsumer, "q")
    assert restart.order_key == grow.order_key == add.order_key == "worker:w"
    assert restart.target == "w"
    for delta in (0, -1, 101, None, 1.0):
        refused("pool_shrink", {"worker_name": "w", "delta": delta}, "invalid")
    refused("cancel_consumer", {"worker_name": "w"}, "invalid")


@pytest.mark.parametrize("rate", ["0", "10", "5/s", "10/m", "3/h"])
def test_parse_command_when_rate_follows_the_grammar_then_accept(rate):
    command = parse("rate_limit", {"task_name": "a.b", "rate": rate, "worker_name": None})
    assert isinstance(command, RateLimit)
    assert (command.rate, command.worker_name) == (rate, None)
    assert (command.order_key, command.target) == ("rate:a.b", "a.b")


@pytest.mark.parametrize("rate", ["10/d", "", "-1", "1.5/s", "/s", "1/s\n", "٣/s", 5])
def test_parse_command_when_rate_does_not_then_invalid(rate):
    refused("rate_limit", {"task_name": "a.b", "rate": rate}, "invalid")


@pytest.mark.parametrize(
    ("target", "parameters"),
    [
        ({"engine": "arq"}, {"engine": "rq"}),
        ({"engine": "arq"}, {"filter": {"engine": "rq"}}),
        ({}, {"engine": "arq", "filter": {"engine": "rq"}}),
    ],
)
def test_parse_command_when_engines_disagree_then_refused(target, parameters):
    text = refused("cancel_task", {"task_id": "t"} | parameters, "refused", target=target)
    assert "arq, rq" in text


@pytest.mark.parametrize("target", [None, [], "x", {"engine": 5}, {"engine": ""}, {}])
def test_parse_command_when_no_engine_is_named_then_none(target):
    assert parse("cancel_task", {"task_id": "t"}, target=target).engine is None


@pytest.mark.parametrize("action", ["schedule.delete", "", None, 5, ["x"], "x" * 10_000])
def test_parse_command_when_action_is_unknown_then_unsupported(action):
    assert len(refused(action, {}, "unsupported")) < 200


@pytest.mark.parametrize("parameters", [None, [], "x"])
def test_parse_command_when_parameters_are_no_object_then_invalid(parameters):
    refused("cancel_task", parameters, "invalid")


@pytest.mark.parametrize("timeout", [0, 3601, True, "60", None, 1.5])
def test_parse_envelope_when_members_are_strange_then_defaults(timeout):
    command = parse_envelope(
        "c1", {"timeout_seconds": timeout, "delivery_claim_token": 5, "issued_by": {}, "action": 1}
    )
    assert command == Command(id="c1", action="")
    assert command.timeout_seconds == 60
    assert (command.order_key, command.target) == (None, "")


def test_parse_envelope_when_complete_then_its_values():
    command = parse_envelope(
        "c1",
        {
            "action": "x",
            "timeout_seconds": 3600,
            "delivery_claim_token": "tok",
            "issued_by": "u",
        },
    )
    assert command == Command(
        id="c1", action="x", claim_token="tok", timeout_seconds=3600, issued_by="u"
    )
