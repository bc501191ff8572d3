from __future__ import annotations

import threading

from z4j_fastapi.counters import LossCounters, LossReason


def test_counts_begin_at_zero_and_are_kept_by_reason():
    counters = LossCounters()
    assert counters.snapshot() == {reason.value: 0 for reason in LossReason}
    counters.add(LossReason.CAPACITY)
    counters.add(LossReason.CAPACITY, 4)
    counters.add(LossReason.DISK)
    assert counters.get(LossReason.CAPACITY) == 5
    assert counters.get(LossReason.CORRUPT) == 0
    assert counters.snapshot()["disk"] == 1


def test_snapshot_does_not_change_afterwards():
    counters = LossCounters()
    before = counters.snapshot()
    counters.add(LossReason.DISK)
    assert before["disk"] == 0


def test_counts_when_many_threads_add_are_exact():
    counters = LossCounters()

    def work():
        for _ in range(2000):
            counters.add(LossReason.DISK)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.get(LossReason.DISK) == 8000


def test_fork_starts_the_count_over_under_another_name_and_with_a_free_lock():
    counters = LossCounters()
    counters.add(LossReason.DISK)
    epoch = counters.epoch
    counters._lock.acquire()  # as a thread of the parent may have
    counters.reinit_after_fork()
    counters.add(LossReason.CORRUPT)
    assert counters.get(LossReason.DISK) == 0
    assert counters.get(LossReason.CORRUPT) == 1
    assert counters.epoch != epoch
    assert 1 <= len(counters.epoch) <= 64
