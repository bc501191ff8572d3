from __future__ import annotations

import getpass
import os
import stat
import tempfile
from pathlib import Path

import pytest

from z4j_fastapi.errors import OutboxError
from z4j_fastapi.outbox import directory
from z4j_fastapi.outbox.directory import (
    outbox_root,
    private_trouble,
    state_directory,
)

UID = os.geteuid()


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A temporary directory of our own, and no home."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    monkeypatch.delenv("Z4J_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return path


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_state_directory_by_default_is_made_in_the_home(tmp_path):
    state = state_directory()
    assert state.path == tmp_path / "home" / ".z4j"
    assert mode(state.path) == 0o700
    assert (state.relocated, state.reason, state.warning, state.durable) == (
        False,
        None,
        None,
        True,
    )
    assert list(state.path.iterdir()) == []  # the probe is gone
    assert state_directory() == state


def test_state_directory_follows_z4j_home_and_an_empty_one_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setenv("Z4J_HOME", str(tmp_path / "a" / "b"))
    assert state_directory().path == tmp_path / "a" / "b"
    assert mode(tmp_path / "a") == 0o700
    monkeypatch.setenv("Z4J_HOME", "")
    assert state_directory().path == tmp_path / "home" / ".z4j"


def test_state_directory_expands_makes_absolute_and_resolves(tmp_path, monkeypatch):
    assert state_directory("~/x").path == tmp_path / "home" / "x"
    monkeypatch.chdir(tmp_path)
    assert state_directory("relative").path == tmp_path / "relative"
    (tmp_path / "link").symlink_to(tmp_path / "home")
    assert state_directory(str(tmp_path / "link" / "y")).path == tmp_path / "home" / "y"


def test_state_directory_that_others_can_read_is_used_with_a_warning(tmp_path):
    home = tmp_path / "open"
    home.mkdir()
    home.chmod(0o755)
    state = state_directory(str(home))
    assert state.path == home
    assert not state.relocated
    assert (
        state.warning == f"state directory {home}: other users can read it; run: chmod 700 {home}"
    )
    assert mode(home) == 0o755


@pytest.mark.parametrize("bits", [0o770, 0o702, 0o777, 0o1777])
def test_state_directory_that_others_can_write_to_is_not_used(tmp_path, temporary, bits):
    home = tmp_path / "shared"
    home.mkdir()
    home.chmod(bits)
    state = state_directory(str(home))
    assert state.path == temporary / f"z4j-{UID}"
    assert state.relocated
    assert state.reason == "other users can write to it"
    assert str(home) in state.warning
    assert str(state.path) in state.warning
    assert "Z4J_HOME" in state.warning


@pytest.mark.skipif(UID != 0, reason="only root can give files away")
def test_state_directory_of_another_user_is_not_used(tmp_path):
    home = tmp_path / "theirs"
    home.mkdir(mode=0o700)
    os.chown(home, 12345, 12345)
    assert state_directory(str(home)).reason == "it belongs to another user"


def test_state_directory_that_cannot_be_written_to_is_relocated(tmp_path, temporary):
    (tmp_path / "file").touch()
    state = state_directory(str(tmp_path / "file" / "below"))
    assert state.path == temporary / f"z4j-{UID}"
    assert state.reason.startswith("it cannot be written to (")
    assert mode(state.path) == 0o700
    assert state_directory(str(tmp_path / "file")).path == state.path  # again, the same place
    assert state.durable


def test_state_directory_on_a_disk_that_takes_no_file_is_relocated(tmp_path, monkeypatch):
    real = tempfile.mkstemp

    def mkstemp(prefix, dir):  # noqa: A002 - the real name
        if Path(dir) == tmp_path / "full":
            raise OSError(28, "No space left on device")
        return real(prefix=prefix, dir=dir)

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    state = state_directory(str(tmp_path / "full"))
    assert state.relocated
    assert state.reason == "it cannot be written to (No space left on device)"


def test_state_directory_without_any_home_is_relocated(monkeypatch, temporary):
    def no_home(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    state = state_directory()
    assert state.path == temporary / f"z4j-{UID}"
    assert state.reason == "there is no home directory"


def test_relocation_to_a_directory_of_ours_from_before_uses_it(temporary, tmp_path):
    (temporary / f"z4j-{UID}").mkdir(mode=0o700)
    (temporary / f"z4j-{UID}" / "backlog").touch()
    (tmp_path / "file").touch()
    state = state_directory(str(tmp_path / "file"))
    assert (state.path / "backlog").exists()


@pytest.mark.parametrize("planted", ["link", "file", "open", "foreign"])
def test_relocation_to_a_planted_name_goes_elsewhere_and_says_so(tmp_path, temporary, planted):
    name = temporary / f"z4j-{UID}"
    if planted == "link":
        (tmp_path / "trap").mkdir(mode=0o700)
        name.symlink_to(tmp_path / "trap")
    elif planted == "file":
        name.touch()
    else:
        name.mkdir(mode=0o700)
        if planted == "open":
            name.chmod(0o710)
        elif UID != 0:
            pytest.skip("only root can give files away")
        else:
            os.chown(name, 12345, 12345)
    (tmp_path / "file").touch()
    state = state_directory(str(tmp_path / "file"))
    assert state.path.parent == temporary
    assert state.path.name.startswith(f"z4j-{UID}-")
    assert len(state.path.name) == len(f"z4j-{UID}-") + 8
    assert mode(state.path) == 0o700
    assert not state.durable
    assert "not found again" in state.warning


def test_relocation_that_is_impossible_too_raises_with_advice(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(OutboxError, match="Z4J_HOME"):
        state_directory(str(tmp_path / "file"))


def test_account_name_on_windows_is_reduced(monkeypatch):
    monkeypatch.setattr(directory.os, "name", "nt")
    monkeypatch.setattr(getpass, "getuser", lambda: "Jörg \\ Meier" + "x" * 40)
    assert directory._account() == "J_rg___Meier" + "x" * 20


def test_claim_of_a_temporary_directory_on_windows_checks_no_modes(temporary, monkeypatch):
    path = temporary / "z4j-me"
    path.mkdir()
    path.chmod(0o755)
    monkeypatch.setattr(directory.os, "name", "nt")
    assert directory._claim_temporary(path)


def test_private_trouble_on_windows_looks_at_the_kind_only(temporary, monkeypatch):
    temporary.chmod(0o777)
    assert private_trouble(temporary) == "other users can write to it"
    link = temporary / "link"
    link.symlink_to(temporary)
    monkeypatch.setattr(directory.os, "name", "nt")
    assert private_trouble(temporary) is None
    assert private_trouble(link) == "it is not a directory"


def test_outbox_root_by_default_lies_in_the_state_directory():
    state = state_directory()
    root = outbox_root(state, None)
    assert root.path == state.path / "outbox"
    assert mode(root.path) == 0o700
    assert (root.relocated, root.warning) == (False, None)


def test_outbox_root_in_a_relocated_state_directory_says_so(tmp_path):
    (tmp_path / "file").touch()
    state = state_directory(str(tmp_path / "file"))
    root = outbox_root(state, None)
    assert root.relocated
    assert root.reason == state.reason
    assert root.warning is None  # told by the state directory


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("{0}/var/buffer.sqlite", "{0}/var"),
        ("{0}/var/buffer.db", "{0}/var"),
        ("{0}/var/buffer", "{0}/var/buffer"),
        ("~/b.sqlite", "{0}/home"),
        ("~/buffer", "{0}/home/buffer"),
    ],
)
def test_outbox_root_of_a_buffer_path(tmp_path, given, expected):
    root = outbox_root(state_directory(), given.format(tmp_path))
    assert root.path == Path(expected.format(tmp_path))
    assert root.path.is_dir()
    assert not root.relocated


def test_outbox_root_of_a_buffer_path_that_cannot_be_written_to_moves(tmp_path):
    (tmp_path / "file").touch()
    state = state_directory()
    root = outbox_root(state, tmp_path / "file" / "b.sqlite")
    assert root.path == state.path / "outbox"
    assert root.relocated
    assert root.warning.startswith(f"buffer_path {tmp_path}/file/b.sqlite: it cannot be written")


def test_outbox_root_of_a_buffer_path_of_an_unknown_user_moves():
    state = state_directory()
    root = outbox_root(state, "~no-such-user-here/b.sqlite")
    assert root.path == state.path / "outbox"
    assert root.reason == "there is no home directory"


def test_outbox_root_that_cannot_be_made_anywhere_raises():
    state = state_directory()
    (state.path / "outbox").touch()
    with pytest.raises(OutboxError, match="Z4J_HOME"):
        outbox_root(state, None)
