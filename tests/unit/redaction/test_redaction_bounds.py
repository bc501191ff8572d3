"""Limits: redaction.md section 5, and input that changes or never ends."""

from __future__ import annotations

import json
import sys
import threading

import pytest

from z4j_fastapi.redaction import REDACTED, Redactor, bounds

REDACTOR = Redactor()
redact = REDACTOR.redact


def nested(depth, leaf="leaf"):
    for _ in range(depth):
        leaf = [leaf]
    return leaf


def test_containers_when_32_deep_then_they_stay_and_the_33rd_is_marked():
    assert redact(nested(32)) == nested(32)
    assert redact(nested(33)) == nested(32, "[...]")
    assert redact(nested(5_000)) == nested(32, "[...]")


def test_secret_when_32_deep_then_it_is_redacted():
    assert redact(nested(32, "a@b.cc")) == nested(32, REDACTED)


def test_event_when_nested_then_each_value_has_its_own_depth():
    payload = json.loads(REDACTOR.render({"args": nested(32), "kwargs": {"a": nested(40)}}).payload)
    assert payload["args"] == nested(32)
    assert payload["kwargs"] == {"a": nested(31, "[...]")}


def test_list_when_over_1000_members_then_the_rest_is_counted():
    assert redact(list(range(1_000))) == list(range(1_000))
    assert redact(list(range(1_001)))[999:] == [999, "[...1 more items]"]
    shown = redact(tuple(range(200_000)))
    assert len(shown) == 1_001
    assert shown[-1] == "[...199000 more items]"


def test_dict_when_over_1000_members_then_a_key_counts_the_rest():
    shown = redact({f"k{at}": at for at in range(1_500)})
    assert len(shown) == 1_001
    assert shown["[...500 more items]"] is None
    assert shown["k999"] == 999


def test_secret_subtree_when_wide_and_deep_then_it_is_bounded_too():
    shown = redact(
        {
            "auth": [*range(5_000)],
            "token": nested(100),
            "cookie": {f"k{at}": 1 for at in range(2_000)},
        }
    )
    assert shown["auth"] == [REDACTED] * 1_001 or shown["auth"][:1_000] == [REDACTED] * 1_000
    assert len(shown["cookie"]) == 1_001
    assert set(shown["cookie"].values()) <= {REDACTED, None}
    assert '"leaf"' not in json.dumps(shown)


def test_members_when_20000_then_further_containers_are_marked():
    shown = redact([[0] * 1_000 for _ in range(40)])
    assert shown[:19] == [[0] * 1_000] * 19
    assert set(shown[20:]) == {"[...]"}


def test_container_when_its_own_ancestor_then_it_is_redacted():
    loop = [1]
    loop.append(loop)
    assert redact(loop) == [1, REDACTED]
    circle = {"a": {}}
    circle["a"]["b"] = circle
    assert redact(circle) == {"a": {"b": REDACTED}}
    secret = {"token": []}
    secret["token"].append(secret["token"])
    assert redact(secret) == {"token": [REDACTED]}


def test_container_when_shared_but_acyclic_then_it_appears_twice():
    shared = {"x": 1}
    assert redact([shared, shared]) == [{"x": 1}, {"x": 1}]


def test_lists_when_each_holds_the_next_twice_then_the_walk_ends():
    value = []
    for _ in range(40):
        value = [value, value]
    assert json.dumps(redact(value))


def test_string_when_over_the_limit_then_it_is_cut_at_a_word():
    shown = redact("word " * 3_000)
    assert shown.endswith("more bytes truncated]")
    assert len(shown) <= 8_192
    assert shown.partition("[...")[0].rstrip().endswith("word")


@pytest.mark.parametrize("character", ["é", "日", "😀"])
def test_string_when_cut_then_no_character_is_split(character):
    shown = redact(character * 9_000)
    assert len(shown.encode()) <= 8_192
    assert "\ufffd" not in shown


def test_secret_when_in_the_first_64_kib_then_the_string_is_redacted():
    assert redact("word " * 12_000 + "a@b.cc") == REDACTED


def test_secret_when_split_by_the_64_kib_limit_then_its_head_is_dropped(monkeypatch):
    monkeypatch.setattr("z4j_fastapi.redaction.scrub.SCAN_CHARS", bounds.SCAN_CHARS)
    text = "w " * 32_763 + "AKIAIOSFODNN7EXAMPLE"
    assert len(text[: bounds.SCAN_CHARS]) - text.index("AKIA") == 10
    assert "AKIA" not in bounds.scan_head(text)
    assert "AKIA" not in redact(text)


def test_limit_when_smaller_then_strings_fit_it():
    redactor = Redactor(max_payload_bytes=128)
    for text in ("x" * 200, "x y " * 100, "日" * 100):
        assert len(redactor.redact(text).encode()) <= 128


def test_pairs_when_they_make_a_string_longer_then_it_still_fits():
    text = "pwd=x " * 340
    shown = Redactor(max_payload_bytes=2_048).redact(text)
    assert len(shown.encode()) <= 2_048


def test_event_when_too_large_then_the_longest_strings_go_first():
    data = {
        "task_name": "app.t",
        "args": ["short", "word " * 1_500],
        "kwargs": {"note": "stays " * 20},
    }
    rendered = Redactor(max_event_bytes=2_048).render(data)
    payload = json.loads(rendered.payload)
    assert rendered.shortened
    assert 1_500 < len(rendered.payload) <= 2_048
    assert payload["args"][0] == "short"
    assert payload["args"][1].endswith("more bytes truncated]")
    assert payload["kwargs"] == {"note": "stays " * 20}


def test_event_when_strings_do_not_help_then_args_kwargs_and_result_give_way():
    data = {
        "task_name": "app.t",
        "args": [list(range(900))],
        "kwargs": {"a": 1},
        "result": list(range(400)),
    }
    rendered = Redactor(max_event_bytes=3_000).render(data)
    payload = json.loads(rendered.payload)
    assert rendered.shortened
    assert payload["args"].endswith("more bytes truncated]")
    assert payload["kwargs"] == {"a": 1}
    assert payload["result"] == list(range(400))


def test_event_when_nothing_else_helps_then_the_names_are_left():
    data = {"task_name": "app.t", "queue": "q", **{f"key{at}": at for at in range(900)}}
    rendered = Redactor(max_event_bytes=1_024).render(data)
    payload = json.loads(rendered.payload)
    assert rendered.shortened
    assert len(rendered.payload) <= 1_024
    assert payload["task_name"] == "app.t"
    assert payload["queue"] == "q"
    assert payload["truncated"].startswith("[...")


def test_event_when_small_then_it_is_not_marked_as_shortened():
    assert Redactor().render({"a": 1}) == (b'{"a":1}', False)


def test_data_when_another_thread_changes_it_then_rendering_goes_on():
    data = {"args": [{"a": 1}], "kwargs": {}, "items": set()}
    ended = threading.Event()

    def change():
        at = 0
        while not ended.is_set():
            at += 1
            for container in (data, data["kwargs"]):
                container[f"k{at % 1_500}"] = at
                container.pop(f"k{(at - 700) % 1_500}", None)
            data["items"].add(at % 1_500)
            data["items"].discard((at - 3) % 1_500)

    held = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(150):
            assert b'"args":[{"a":1}]' in REDACTOR.render(data).payload
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(held)


def test_dict_when_it_changes_size_while_copied_then_it_is_looked_at_again(monkeypatch):
    from z4j_fastapi.redaction import walk

    calls = []

    class Islice:
        def __new__(cls, members, most):
            calls.append(1)
            if len(calls) < 3:
                raise RuntimeError("dictionary changed size during iteration")
            return list(members)[:most]

    monkeypatch.setattr(walk, "islice", Islice)
    assert len(redact({f"k{at}": 1 for at in range(1_001)})) == 1_001


def test_data_when_it_cannot_be_read_then_the_names_are_left():
    class Data(dict):
        def get(self, key, default=None):
            if key == "traceback":
                raise RuntimeError
            return super().get(key, default)

    rendered = REDACTOR.render(Data(task_name="app.t", worker="celery@web1.example.com"))
    payload = json.loads(rendered.payload)
    assert rendered.shortened
    assert payload["task_name"] == "app.t"
    assert payload["worker"].startswith("id-")
