from __future__ import annotations

from datetime import timedelta

import pytest
from support.brain_side import NOW

from z4j_fastapi.errors import RemoteProtocolError
from z4j_fastapi.protocol.replay import NONCE_LIMIT, ReplayGuard


def refused(guard, reason, **frame):
    before = (guard.last_seq, len(guard))
    with pytest.raises(RemoteProtocolError) as caught:
        guard.accept(**frame)
    assert caught.value.details["reason"] == reason
    assert (guard.last_seq, len(guard)) == before


def test_accept_when_seq_rises_then_gaps_are_fine():
    guard = ReplayGuard()
    for seq in (1, 2, 7, 2**60):
        guard.accept(seq=seq, nonce=f"n{seq}", ts=NOW, now=NOW)
    assert guard.last_seq == 2**60


@pytest.mark.parametrize("seq", [5, 4, 0, -1])
def test_accept_when_seq_does_not_rise_then_refuse_as_replay(seq):
    guard = ReplayGuard()
    guard.accept(seq=5, nonce="a", ts=NOW, now=NOW)
    refused(guard, "replay", seq=seq, nonce="b", ts=NOW, now=NOW)


def test_accept_when_first_seq_is_zero_then_refuse_as_replay():
    refused(ReplayGuard(), "replay", seq=0, nonce="a", ts=NOW, now=NOW)


@pytest.mark.parametrize("seconds", [-60, 60, 0, 59.9])
def test_accept_when_clock_is_within_60_s_then_accept(seconds):
    ReplayGuard().accept(seq=1, nonce="a", ts=NOW + timedelta(seconds=seconds), now=NOW)


@pytest.mark.parametrize("seconds", [-60.001, 60.001, 1e9, -1e9])
def test_accept_when_clock_is_further_off_then_refuse_as_clock(seconds):
    refused(ReplayGuard(), "clock", seq=1, nonce="a", ts=NOW + timedelta(seconds=seconds), now=NOW)


def test_accept_when_nonce_comes_again_within_180_s_then_refuse_as_replay():
    guard = ReplayGuard()
    guard.accept(seq=1, nonce="a", ts=NOW, now=NOW)
    later = NOW + timedelta(seconds=180)
    refused(guard, "replay", seq=2, nonce="a", ts=later, now=later)


def test_accept_when_nonce_is_older_than_180_s_then_it_is_forgotten():
    guard = ReplayGuard()
    guard.accept(seq=1, nonce="a", ts=NOW, now=NOW)
    later = NOW + timedelta(seconds=180, microseconds=1)
    guard.accept(seq=2, nonce="a", ts=later, now=later)
    assert len(guard) == 1


def test_accept_when_more_than_4096_nonces_then_memory_stays_bounded():
    guard = ReplayGuard()
    for seq in range(1, NONCE_LIMIT + 11):
        guard.accept(seq=seq, nonce=str(seq), ts=NOW, now=NOW)
    assert len(guard) == NONCE_LIMIT
    refused(guard, "replay", seq=NONCE_LIMIT + 11, nonce="11", ts=NOW, now=NOW)
    guard.accept(seq=NONCE_LIMIT + 11, nonce="10", ts=NOW, now=NOW)
