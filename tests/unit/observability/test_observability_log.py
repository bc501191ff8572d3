from __future__ import annotations

import enum
import logging
import subprocess
import sys

import pytest
import structlog

from z4j_fastapi.observability.log import RateLimit, get_logger, set_level


class FakeClock:
    def __init__(self):
        self.seconds = 1000.0

    def monotonic(self):
        return self.seconds

    def now(self):
        raise AssertionError("wall-clock time is not needed")


@pytest.fixture
def records():
    """What a handler of the host's, on our tree, is given."""
    found = []
    handler = logging.Handler()
    handler.emit = found.append
    tree = logging.getLogger("z4j_fastapi")
    level = tree.level
    tree.addHandler(handler)
    tree.setLevel(logging.DEBUG)
    yield found
    tree.removeHandler(handler)
    tree.setLevel(level)


def test_logger_when_it_logs_then_is_a_standard_record_with_fields_in_extra(records):
    get_logger("runtime").warning("brain_unreachable", kind="auth", retry_in_seconds=1.5)

    (record,) = records
    assert (record.name, record.levelname) == ("z4j_fastapi.runtime", "WARNING")
    assert (record.event, record.kind, record.retry_in_seconds) == (
        "brain_unreachable",
        "auth",
        1.5,
    )
    assert record.getMessage() == "brain_unreachable kind=auth retry_in_seconds=1.5"


def test_logger_when_it_logs_then_the_record_points_to_the_caller(records):
    log = get_logger("runtime")
    log.info("here")
    log.bind(worker_id="w").error("here")

    assert {(record.filename, record.funcName) for record in records} == {
        (
            "test_observability_log.py",
            "test_logger_when_it_logs_then_the_record_points_to_the_caller",
        )
    }


def test_logger_when_values_differ_then_the_template_stays_the_same(records):
    """Error trackers group by it."""
    log = get_logger("runtime")
    log.warning("trouble", error="one")
    log.warning("trouble", error="two")

    assert {record.msg for record in records} == {"trouble error=%s"}


def test_logger_when_fields_are_named_like_record_attributes_then_renames_them(records):
    get_logger("runtime").warning(
        "brain_error", message="m", name="n", args=(1,), event_="e", module=1
    )

    (record,) = records
    assert (record.message_, record.name_, record.args_, record.module_) == ("m", "n", (1,), 1)
    assert record.name == "z4j_fastapi.runtime"


def test_logger_when_bound_then_fields_travel_along(records):
    log = get_logger("runtime").bind(worker_id="web-1")
    log.info("started")

    assert records[0].worker_id == "web-1"


def test_logger_when_text_holds_percent_signs_then_prints_them(records):
    get_logger("runtime").info("100%s", share="50%d")
    get_logger("runtime").info("%d of %d", 1, 2)

    assert [record.getMessage() for record in records] == ["100%s share=50%d", "1 of 2"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("two words", "'two words'"),
        ("line\nz4j_fastapi fake", "'line\\nz4j_fastapi fake'"),
        ("a=b", "'a=b'"),
        ("", "''"),
        ("\u202eright", "'\\u202eright'"),
        (None, "None"),
        (["x"], "['x']"),
    ],
)
def test_logger_when_a_value_could_fake_a_line_or_field_then_quotes_it(records, value, shown):
    get_logger("runtime").info("event", value=value)

    assert records[0].getMessage() == f"event value={shown}"


def test_logger_when_an_exception_is_given_then_the_record_carries_it(records):
    error = ValueError("x")
    get_logger("runtime").error("failed", exc_info=error)

    assert records[0].exc_info[1] is error


def test_logger_when_the_level_is_off_then_values_are_not_rendered(caplog):
    class Loud:
        def __repr__(self):
            raise AssertionError("rendered")

    caplog.set_level(logging.WARNING, logger="z4j_fastapi")
    get_logger("runtime").debug("quiet", value=Loud())

    assert caplog.records == []


def test_logger_when_the_host_configured_structlog_then_takes_nothing_of_it(records):
    seen = []
    before = structlog.get_config()
    log = get_logger("runtime")
    structlog.configure(
        processors=[lambda *args: seen.append(args) or args[2]],
        wrapper_class=structlog.BoundLogger,
        cache_logger_on_first_use=True,
    )
    try:
        log.warning("first")
        get_logger("engines.arq").warning("second")
    finally:
        structlog.configure(**before)

    assert seen == []
    assert [record.getMessage() for record in records] == ["first", "second"]
    assert before["processors"] is not None


def test_logger_when_the_host_prints_foreign_records_by_structlog_then_fields_are_apart(records):
    get_logger("runtime").warning("brain_unreachable", kind="auth")
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.KeyValueRenderer(sort_keys=True),
        ],
    )

    vars(records[0]).pop("message", None)  # left by pytest's own formatter

    assert formatter.format(records[0]) == "event='brain_unreachable' kind='auth'"


@pytest.mark.process
def test_logger_when_the_host_configured_nothing_then_prints_nothing_and_configures_nothing():
    program = (
        "import logging, structlog\n"
        "before = structlog.get_config()\n"
        "from z4j_fastapi.observability.log import get_logger\n"
        "log = get_logger('runtime')\n"
        "log.error('loud', a=1); log.bind(b=2).critical('louder')\n"
        "assert structlog.get_config() == before and not structlog.is_configured()\n"
        "tree = logging.getLogger('z4j_fastapi')\n"
        "assert logging.root.handlers == [] and tree.level == 0 and tree.propagate\n"
        "assert [type(h).__name__ for h in tree.handlers] == ['NullHandler']\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


class _Level(str, enum.Enum):
    ERROR = "ERROR"


@pytest.mark.parametrize("level", ["ERROR", logging.ERROR, _Level.ERROR])
def test_set_level_when_called_then_changes_only_our_tree(level):
    tree = logging.getLogger("z4j_fastapi")
    before, root_before = tree.level, logging.root.level
    try:
        set_level(level)
        assert (tree.level, logging.root.level) == (logging.ERROR, root_before)
    finally:
        tree.setLevel(before)


def test_rate_limit_when_lines_repeat_then_lets_one_a_minute_through_and_counts_the_rest():
    clock = FakeClock()
    limit = RateLimit(clock=clock)

    assert limit.allow("a") == 0
    assert [limit.allow("a") for _ in range(5)] == [None] * 5
    assert limit.allow("b") == 0
    clock.seconds += 59.9
    assert limit.allow("a") is None
    clock.seconds += 0.2
    assert limit.allow("a") == 6
    assert limit.allow("a") is None


def test_rate_limit_when_keys_are_without_number_then_memory_stays_bounded():
    limit = RateLimit(clock=FakeClock())
    for number in range(5000):
        assert limit.allow(str(number)) == 0

    assert len(limit._last_at_monotonic) <= 1000
