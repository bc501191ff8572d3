from __future__ import annotations

from z4j_fastapi.outbox.ages import AgeMarks


def noted(count: int, seconds: float = 1.0) -> AgeMarks:
    ages = AgeMarks()
    for number in range(1, count + 1):
        if number * seconds >= ages.due:
            ages.note(number, number * seconds)
    return ages


def test_oldest_without_marks_is_unknown():
    assert AgeMarks().oldest() is None
    assert AgeMarks().written_before(1e9) == 0


def test_oldest_after_forget_is_about_the_first_that_is_left():
    ages = noted(10)
    ages.forget(4)
    assert ages.oldest() == 5.0
    ages.forget(10)
    assert ages.oldest() == 10.0


def test_marks_of_a_long_backlog_stay_few_and_cover_all_of_it():
    ages = noted(100_000)
    assert len(ages._marks) <= 129
    assert ages.oldest() == 1.0
    ages.forget(50_000)
    assert abs(ages.oldest() - 50_000) < 2_000


def test_interval_is_fine_again_after_a_backlog_is_gone():
    ages = noted(1_000)
    ages.forget(1_000)
    ages.note(1_001, 5_000.0)
    assert ages.due == 5_001.0


def test_written_before_is_certain():
    ages = noted(10)
    assert ages.written_before(4.5) == 4
    assert ages.written_before(0.5) == 0
    assert ages.written_before(99.0) == 10
