from __future__ import annotations

import hmac
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
from support.outboxes import StillClock
from support.runtime_kit import KEY, LogLines, run

from z4j_fastapi.errors import CommandError
from z4j_fastapi.protocol.commands import PurgeQueue
from z4j_fastapi.runtime.command_context import DispatchContext, work_seconds


@pytest.mark.parametrize(
    ("timeout", "work"), [(1, 0.5), (2, 1.0), (9, 4.5), (10, 5), (60, 55), (3600, 3595)]
)
def test_work_time_is_the_timeout_less_what_the_answer_needs(timeout, work):
    assert work_seconds(timeout) == work


class Bench:
    def __init__(self, threshold=None):
        self.clock = StillClock()
        self.log = LogLines()
        self.pool = ThreadPoolExecutor(1)
        self.context = DispatchContext(
            clock=self.clock,
            seconds=10,
            executor=self.pool,
            signing_key=KEY,
            purge_threshold=threshold,
            logger=self.log,
        )

    def purge(self, depth, *, token=None, force=False, queue="q"):
        command = PurgeQueue(
            id="c", action="purge_queue", queue=queue, confirm_token=token, force=force
        )
        self.context.authorize_purge(command, depth)


def token_for(queue, depth, key=KEY):
    return hmac.new(key, f"purge|{queue}|{depth}".encode(), sha256).hexdigest()


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.pool.shutdown()


def test_remaining_time_when_it_passes_shrinks_and_stops_at_nothing(bench):
    assert bench.context.remaining_seconds() == 10
    bench.clock.advance(4)
    assert bench.context.remaining_seconds() == 6
    bench.clock.advance(7)
    assert bench.context.remaining_seconds() == 0


def test_blocking_call_runs_on_the_pool_and_gives_its_value_or_its_error(bench):
    async def work():
        assert await bench.context.run_blocking(threading.get_ident) != threading.get_ident()
        assert await bench.context.run_blocking(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await bench.context.run_blocking(divmod, 7, 0)

    run(work())


def test_purge_when_the_token_fits_the_depth_is_allowed(bench):
    bench.purge(12, token=token_for("q", 12))


def test_purge_when_nothing_waits_needs_no_token(bench):
    bench.purge(0)


def test_purge_when_forced_needs_nothing_and_is_logged(bench):
    bench.purge(None, force=True)
    assert bench.log.lines == [("warning", "purge_forced", {"queue": "q", "depth": None})]


@pytest.mark.parametrize(
    ("depth", "given", "reason"),
    [
        (None, token_for("q", 12), "cannot be measured"),
        (12, None, "needs a confirm token"),
        (12, token_for("q", 11), r"moved \(it is 12 now\)"),
        (12, token_for("other", 12), "moved"),
        (12, token_for("q", 12, b"x" * 32), "moved"),
        (12, "", "moved"),
    ],
)
def test_purge_when_not_confirmed_for_this_very_depth_is_refused(bench, depth, given, reason):
    with pytest.raises(CommandError, match=f"^refused: .*{reason}") as caught:
        bench.purge(depth, token=given)
    assert caught.value.reason == "refused"


def test_purge_when_deeper_than_the_threshold_needs_force():
    bench = Bench(threshold=100)
    bench.purge(100, token=token_for("q", 100))
    with pytest.raises(CommandError, match=r"holds 101 messages, more than the threshold of 100"):
        bench.purge(101, token=token_for("q", 101))
    bench.purge(101, force=True)
    bench.pool.shutdown()
