from __future__ import annotations

import os
import stat

import pytest

from z4j_fastapi.outbox.files import (
    Descriptor,
    make_private_directory,
    open_private,
    sync_directory,
)


@pytest.fixture(params=[0o000, 0o022, 0o777])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_modes_are_private_whatever_the_umask(tmp_path, umask):
    if os.geteuid() != 0 and umask == 0o777:
        pytest.skip("needs root to go through a directory without permissions")
    make_private_directory(tmp_path / "a" / "b")
    open_private(tmp_path / "a" / "b" / "f", os.O_WRONLY | os.O_CREAT).close()
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700
    assert mode(tmp_path / "a" / "b" / "f") == 0o600


def test_make_private_directory_leaves_an_existing_one_alone(tmp_path):
    tmp_path.chmod(0o755)
    make_private_directory(tmp_path)
    assert mode(tmp_path) == 0o755


def test_make_private_directory_over_a_file_raises(tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(FileExistsError):
        make_private_directory(tmp_path / "f")
    with pytest.raises(NotADirectoryError):
        make_private_directory(tmp_path / "f" / "below")


def test_make_private_directory_where_no_root_is_raises(monkeypatch):
    class Nowhere(type(os.path and __import__("pathlib").Path())):
        def mkdir(self, *args, **kwargs):
            raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        make_private_directory(Nowhere("/"))


def test_open_private_that_cannot_set_the_mode_leaks_no_descriptor(tmp_path, monkeypatch):
    opened = []

    def refuse(fd, mode):
        opened.append(fd)
        raise PermissionError

    monkeypatch.setattr(os, "fchmod", refuse)
    with pytest.raises(PermissionError):
        open_private(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError):
        os.fstat(opened[0])


def test_open_private_descriptor_is_not_inherited_by_programs(tmp_path):
    descriptor = open_private(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    assert not os.get_inheritable(descriptor.fd)
    descriptor.close()


def test_descriptor_close_twice_closes_once(tmp_path):
    descriptor = open_private(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    fd = descriptor.fd
    descriptor.close()
    other = os.open(tmp_path / "g", os.O_WRONLY | os.O_CREAT)
    assert other == fd  # the number was free again
    descriptor.close()
    os.fstat(other)
    os.close(other)


def test_descriptor_close_after_the_number_changed_hands_spares_the_other_file(tmp_path):
    descriptor = open_private(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    fd = descriptor.fd
    os.close(fd)  # a daemonising process closes everything ...
    other = os.open(tmp_path / "g", os.O_WRONLY | os.O_CREAT)
    assert other == fd  # ... and opens something else
    descriptor.close()
    os.fstat(other)
    os.close(other)


def test_descriptor_of_a_closed_number_closes_nothing():
    descriptor = Descriptor(10_000)
    assert descriptor.identity is None
    descriptor.fd = -1
    descriptor.close()


def test_sync_directory_of_a_directory_returns_and_of_nothing_raises(tmp_path):
    sync_directory(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_directory(tmp_path / "missing")
