from __future__ import annotations

import pytest

from z4j_fastapi.engines.taskiq.labels import (
    carrier_of,
    count,
    priority_of,
    put_carrier,
    queue_label,
    requeues_of,
    wants_retry,
)


def test_put_carrier_when_another_tasks_labels_were_copied_then_nothing_of_it_is_left():
    labels = {"z4j_p": "other", "z4j_r": "other-root", "z4j_tp": "old", "mine": 1}

    put_carrier(labels, {"tp": "new", "rid": "r"})

    assert labels == {"z4j_tp": "new", "z4j_rid": "r", "mine": 1}
    assert carrier_of(labels) == {"tp": "new", "rid": "r"}


@pytest.mark.parametrize(
    ("value", "number"), [(2, 2), ("2", 2), ("many", 0), (None, 0), (-4, 0), (1.0, 1)]
)
def test_count_when_the_label_is_of_any_kind_then_a_number(value, number):
    assert count({"_retries": value}, "_retries") == number
    assert requeues_of({"X-Taskiq-requeue": value}) == number


def test_count_when_the_label_is_a_list_then_zero():
    assert count({"_retries": []}, "_retries") == 0


@pytest.mark.parametrize("value", [None, "", 5, b"x"])
def test_queue_label_when_it_is_no_text_then_none(value):
    assert queue_label({"queue_name": value}) is None


@pytest.mark.parametrize(
    ("value", "priority"), [("high", "high"), ("HIGH", None), (5, None), (None, None)]
)
def test_priority_of_when_it_is_not_the_brains_word_then_none(value, priority):
    assert priority_of({"priority": value}) == priority


@pytest.mark.parametrize(
    ("value", "default", "wanted"),
    [
        (None, True, True),
        (None, False, False),
        ("True", False, True),
        ("false", True, False),
        (False, True, False),
        (1, False, True),
    ],
)
def test_wants_retry_when_the_label_has_any_form_then_read_as_taskiq_reads_it(
    value, default, wanted
):
    assert wants_retry({"retry_on_error": value}, default=default) is wanted
