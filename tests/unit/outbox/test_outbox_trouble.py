from __future__ import annotations

from support.outboxes import ListLogger

from z4j_fastapi.outbox.trouble import TroubleLog


def test_begin_says_trouble_once_until_it_is_over():
    logger = ListLogger()
    trouble = TroubleLog(logger)
    trouble.begin("disk", errno=28)
    trouble.begin("disk", errno=28)
    trouble.begin("other")
    trouble.end("disk")
    trouble.end("disk")
    trouble.begin("disk")
    assert logger.lines == [
        ("warning", "disk", {"errno": 28}),
        ("warning", "other", {}),
        ("info", "disk_over", {}),
        ("warning", "disk", {}),
    ]


def test_end_that_another_thread_was_faster_with_says_nothing():
    logger = ListLogger()
    trouble = TroubleLog(logger)
    trouble.begin("disk")

    class Faster:
        def __enter__(self):
            trouble._open.discard("disk")

        def __exit__(self, *_):
            return None

    trouble._lock = Faster()  # type: ignore[assignment]
    trouble.end("disk")
    assert logger.events == ["disk"]


def test_without_a_logger_nothing_is_said():
    trouble = TroubleLog(None)
    trouble.begin("disk")
    trouble.end("disk")
