"""`z4j_meta`: redaction.md section 7, the table at its end."""

from __future__ import annotations

import functools
import json
import types

import pytest

from z4j_fastapi.events import EventKind
from z4j_fastapi.redaction import REDACTED, Redactor
from z4j_fastapi.task_meta import TaskMeta, meta_of, z4j_meta

REDACTOR = Redactor()


def rendered(data, meta):
    return json.loads(REDACTOR.render(data, meta=meta).payload)


def pay(ctx, order, iban, *rest, note=None):
    return order, iban, rest, note


def hinted(**hints):
    return z4j_meta(**hints)(functools.wraps(pay)(functools.partial(pay)))


def test_function_when_decorated_then_it_is_the_same_function_and_keeps_its_hints():
    def task():
        return 5

    assert z4j_meta(tags=["a"])(task) is task
    assert task() == 5
    assert meta_of(task).tags == ("a",)
    assert meta_of(lambda: 1) is None
    assert meta_of(None) is None


def test_redact_kwargs_when_rendered_then_keywords_nested_keys_and_positions_go():
    meta = meta_of(hinted(redact_kwargs=["iban"]), skip_parameters=1)
    data = {
        "args": [1, "AT61", {"iban": "AT61", "x": [{"iban": 1}]}],
        "kwargs": {"iban": {"a": 1}, "note": {"iban": [2], "kept": 3}},
        "result": "r",
    }
    assert rendered(data, meta) == {
        "args": [1, REDACTED, {"iban": REDACTED, "x": [{"iban": REDACTED}]}],
        "kwargs": {"iban": REDACTED, "note": {"iban": [REDACTED], "kept": 3}},
        "result": "r",
    }
    assert rendered({"kwargs": {"IBAN": 1}}, meta) == {"kwargs": {"IBAN": 1}}
    assert rendered({"kwargs": {"iban": 1}}, None) == {"kwargs": {"iban": 1}}


def test_redact_kwargs_when_the_variadic_parameter_is_named_then_all_surplus_goes():
    meta = meta_of(hinted(redact_kwargs=["rest"]), skip_parameters=1)
    assert rendered({"args": [1, 2, 3, 4]}, meta) == {"args": [1, 2, REDACTED, REDACTED]}


def test_keep_kwargs_when_rendered_then_all_others_go():
    meta = meta_of(hinted(keep_kwargs=["order", "note"]), skip_parameters=1)
    data = {"args": [1, 2, 3], "kwargs": {"note": "a@b.cc", "iban": [1], "order": {"password": 1}}}
    assert rendered(data, meta) == {
        "args": [1, REDACTED, REDACTED],
        "kwargs": {"note": REDACTED, "iban": REDACTED, "order": {"password": REDACTED}},
    }


def test_keep_kwargs_when_empty_or_arguments_are_strange_then_everything_goes():
    meta = meta_of(hinted(keep_kwargs=[]))
    assert rendered({"args": (1, 2), "kwargs": {"a": 1, 2: 3}}, meta) == {
        "args": [REDACTED, REDACTED],
        "kwargs": {"a": REDACTED, "2": REDACTED},
    }
    assert rendered({"args": "text", "kwargs": [1]}, meta) == {"args": REDACTED, "kwargs": REDACTED}
    assert rendered({"args": None}, meta) == {"args": None}


def test_redact_result_when_rendered_then_the_result_goes():
    assert rendered({"result": {"a": 1}}, TaskMeta(redact_result=True)) == {"result": REDACTED}
    assert rendered({"args": []}, TaskMeta(redact_result=True)) == {"args": []}


def test_labels_when_rendered_then_they_are_copied_unless_the_event_has_them():
    meta = TaskMeta(tags=("a",), priority="high", expected_duration_ms=5, deadline_ms=6)
    assert rendered({"priority": "low"}, meta) == {
        "tags": ["a"], "priority": "low", "expected_duration_ms": 5, "deadline_ms": 6,
    }  # fmt: skip


def test_input_when_hints_apply_then_it_is_not_changed():
    data = {"args": [1], "kwargs": {"a": 1}, "result": 2}
    before = repr(data)
    REDACTOR.render(data, meta=TaskMeta(keep_kwargs=frozenset(), redact_result=True, tags=("a",)))
    assert repr(data) == before


@pytest.mark.parametrize("priority", ["urgent", "", "HIGH", 1])
def test_priority_when_unknown_then_it_is_a_value_error(priority):
    with pytest.raises(ValueError, match="priority"):
        z4j_meta(priority=priority)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), True, "0.5", None])
def test_sample_rate_when_out_of_range_then_it_is_a_value_error(rate):
    with pytest.raises(ValueError, match="sample_rate"):
        z4j_meta(sample_rate=rate)


@pytest.mark.parametrize("field", ["redact_kwargs", "keep_kwargs", "tags"])
def test_names_when_given_as_one_string_then_it_is_a_type_error(field):
    with pytest.raises(TypeError, match=field):
        z4j_meta(**{field: "password"})


def test_arguments_when_positional_then_they_are_refused():
    with pytest.raises(TypeError):
        z4j_meta(["a"])


def test_skip_when_set_then_nothing_is_recorded():
    meta = TaskMeta(skip=True)
    assert not any(meta.should_record("id", kind) for kind in EventKind)


def test_sampling_when_decided_then_all_events_of_a_task_share_the_decision():
    meta = TaskMeta(sample_rate=0.25)
    kinds = [kind for kind in EventKind if kind is not EventKind.TASK_FAILED]
    kept = 0
    for at in range(2_000):
        decisions = {meta.should_record(f"task-{at}", kind) for kind in (*kinds, "task.sent")}
        assert len(decisions) == 1
        kept += decisions.pop()
        assert meta.should_record(f"task-{at}", EventKind.TASK_FAILED)
        assert meta.should_record(f"task-{at}", "task.failed")
    assert 400 < kept < 600


def test_sampling_when_nought_or_all_then_nothing_or_everything_is_recorded():
    ids = [f"{at}" for at in range(100)] + ["\ud800"]
    assert not any(TaskMeta(sample_rate=0).should_record(one, "task.sent") for one in ids)
    assert all(TaskMeta().should_record(one, "task.sent") for one in ids)


def test_parameters_when_leading_ones_are_skipped_then_the_rest_are_named():
    meta = meta_of(hinted(redact_kwargs=["iban"]), skip_parameters=1)
    assert meta.parameters == ("order", "iban")
    assert meta.variadic == "rest"


def test_meta_when_asked_twice_then_the_signature_is_read_once(monkeypatch):
    function = hinted(redact_kwargs=["iban"])
    first = meta_of(function)
    assert meta_of(function) is first
    assert meta_of(function, skip_parameters=1) is not first


def test_foreign_hints_when_read_then_fields_that_make_no_sense_are_left_out():
    def task(a):
        return a

    task.__z4j_meta__ = types.SimpleNamespace(
        redact_kwargs={"a", 5}, keep_kwargs=None, redact_result="yes", tags=["t", 1], priority="urgent",
        expected_duration_ms=True, deadline_ms=9, skip=0, sample_rate=7,
    )  # fmt: skip
    meta = meta_of(task)
    assert meta == TaskMeta(
        redact_kwargs=frozenset({"a"}), tags=("t",), deadline_ms=9, parameters=("a",)
    )


def test_foreign_hints_when_reading_them_raises_then_there_are_none_of_that_kind():
    class Foreign:
        redact_kwargs = ("a",)

        @property
        def tags(self):
            raise RuntimeError

    def task(a):
        return a

    task.__z4j_meta__ = Foreign()
    assert meta_of(task).redact_kwargs == frozenset({"a"})

    class Raises:
        def __getattr__(self, name):
            raise RuntimeError

    assert meta_of(Raises()) is None


def test_meta_when_the_function_has_no_signature_or_weak_reference_then_it_is_read_all_the_same():
    class Task:
        __slots__ = ("__z4j_meta__",)

    task = Task()
    task.__z4j_meta__ = TaskMeta(redact_kwargs=frozenset({"a"}))
    assert meta_of(task).parameters == ()
