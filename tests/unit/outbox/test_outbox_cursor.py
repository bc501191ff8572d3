from __future__ import annotations

import errno
import stat

import pytest

from z4j_fastapi.outbox.cursor import Cursor


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.cursor"


def test_load_before_any_store_finds_none(path):
    assert Cursor(path).load() is None


def test_load_after_store_finds_the_newest_number(path):
    cursor = Cursor(path)
    cursor.store(7)
    cursor.store(2**40)
    assert Cursor(path).load() == 2**40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == 16
    cursor.close()
    cursor.close()


def test_store_after_close_opens_again(path):
    cursor = Cursor(path)
    cursor.store(1)
    cursor.close()
    cursor.store(2)
    cursor.close()
    assert cursor.load() == 2


def test_load_of_a_cursor_cut_anywhere_finds_none(path):
    cursor = Cursor(path)
    cursor.store(123456)
    cursor.close()
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert cursor.load() is None


def test_load_of_a_cursor_with_any_flipped_bit_finds_none(path):
    cursor = Cursor(path)
    cursor.store(123456)
    cursor.close()
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert cursor.load() is None


def test_store_through_a_planted_link_is_refused(path, tmp_path):
    target = tmp_path / "somebody's file"
    target.write_text("theirs")
    path.symlink_to(target)
    with pytest.raises(OSError) as caught:
        Cursor(path).store(1)
    assert caught.value.errno == errno.ELOOP
    assert target.read_text() == "theirs"
