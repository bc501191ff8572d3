from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from z4j_fastapi.outbox.gaps import Gaps


def test_add_counts_each_number_once():
    gaps = Gaps()
    assert gaps.add(3, 5) == 3
    assert gaps.add(4, 8) == 3
    assert gaps.add(9, 9) == 1
    assert gaps.add(7, 6) == 0
    assert gaps.add(1, 1) == 1
    assert gaps.count == 8


def test_pass_over_steps_over_a_range_that_begins_right_behind():
    gaps = Gaps()
    gaps.add(3, 5)
    gaps.add(9, 9)
    assert gaps.pass_over(1) == 1
    assert gaps.pass_over(2) == 5
    assert gaps.pass_over(20) == 20
    assert gaps.count == 0


numbers = st.integers(1, 30)


@given(st.lists(st.tuples(numbers, numbers)), st.integers(0, 31))
def test_gaps_behave_as_a_set_of_numbers(ranges, position):
    gaps, model = Gaps(), set()
    for first, last in ranges:
        new = set(range(first, last + 1)) - model
        assert gaps.add(first, last) == len(new)
        model |= new
        assert gaps.count == len(model)
    while position + 1 in model:
        position += 1
    assert gaps.pass_over(position) == position
    assert gaps.count == len([number for number in model if number > position])
