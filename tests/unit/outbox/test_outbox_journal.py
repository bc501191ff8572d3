from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading

import pytest
from support.outboxes import ListLogger, StillClock

from z4j_fastapi.errors import OutboxError
from z4j_fastapi.outbox import journal as journal_module
from z4j_fastapi.outbox.journal import ClaimState, CommandJournal

NEW, FINISHED, RUNNING, INTERRUPTED = (
    ClaimState.NEW,
    ClaimState.FINISHED,
    ClaimState.RUNNING,
    ClaimState.INTERRUPTED,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


@pytest.fixture
def clock():
    return StillClock()


@pytest.fixture
def journals(tmp_path, clock):
    """Makes journals on one directory, each as if in a process of its own."""
    made = []

    def make(**options):
        journal = CommandJournal(tmp_path, clock=clock, **options)
        made.append(journal)
        return journal

    yield make
    for journal in made:
        journal.close()


def claim(journal, *identities, token="t1"):
    return journal.claim(identities, action="retry_task", claim_token=token)


def die(journal):
    """What a killed process leaves: its lock is free, nothing is cleaned up."""
    journal._owner_file.close()
    journal._owner_file = None


def database(tmp_path):
    return max((tmp_path / "journal").glob("commands-*.sqlite"))


def test_claim_is_new_once_then_running_then_finished(journals):
    journal = journals()
    assert claim(journal, "c1").state is NEW
    again = claim(journal, "c1", token="t2")
    assert (again.state, again.claim_token, again.result) == (RUNNING, "t1", None)
    journal.finish(["c1"], b'{"status":"success"}')
    done = claim(journal, "c1", token="t3")
    assert (done.state, done.claim_token, done.action) == (FINISHED, "t1", "retry_task")
    assert done.result == b'{"status":"success"}'


def test_claim_in_another_process_sees_the_same(journals):
    first, second = journals(), journals()
    assert claim(first, "c1").state is NEW
    assert claim(second, "c1").state is RUNNING
    first.finish(["c1"], b"r")
    assert claim(second, "c1").state is FINISHED
    assert claim(second, "c2", token=None).claim_token is None


def test_claim_by_any_identity_is_the_same_command(journals):
    journal = journals()
    assert claim(journal, "c1", "fire:f1").state is NEW
    assert claim(journal, "c2", "fire:f1").state is RUNNING
    assert claim(journal, "c2").state is RUNNING  # learned from the delivery before
    journal.finish(["fire:f1"], b"r")
    assert claim(journal, "c2").result == b"r"


def test_claim_by_identities_of_two_commands_prefers_the_finished_one(journals):
    journal = journals()
    claim(journal, "c1")
    claim(journal, "c2")
    journal.finish(["c2"], b"r2")
    assert claim(journal, "c1", "c2").result == b"r2"
    assert claim(journal, "c2", "c1").result == b"r2"


def test_claim_of_a_dead_owner_is_interrupted_for_exactly_one(journals):
    dead, second, third = journals(), journals(), journals()
    claim(dead, "c1")
    die(dead)
    answer = claim(second, "c1", token="t9")
    assert (answer.state, answer.claim_token) == (INTERRUPTED, "t1")
    assert claim(third, "c1").state is RUNNING
    assert claim(second, "c1").state is RUNNING
    second.finish(["c1"], b"unknown")
    assert claim(third, "c1").result == b"unknown"


def test_claim_of_an_interrupted_one_whose_new_owner_dies_too_is_interrupted_again(journals):
    dead, second, third = journals(), journals(), journals()
    claim(dead, "c1")
    die(dead)
    assert claim(second, "c1").state is INTERRUPTED
    die(second)
    assert claim(third, "c1").state is INTERRUPTED


def test_claim_after_close_of_its_owner_is_interrupted(journals):
    first = journals()
    claim(first, "c1")
    first.close()
    first.close()
    assert claim(first, "c1").state is INTERRUPTED


def test_claims_from_many_threads_and_journals_are_new_once(journals):
    answers = []
    barrier = threading.Barrier(8)
    shared = [journals(), journals()]

    def run(n):
        barrier.wait()
        answers.append(claim(shared[n % 2], "c1").state)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [NEW] + [RUNNING] * 7


def test_interrupted_tells_one_caller_what_the_dead_left(journals):
    dead, second, third = journals(agent_tag="a"), journals(agent_tag="a"), journals(agent_tag="a")
    claim(dead, "c1", "fire:f1")
    claim(dead, "c2", token=None)
    claim(dead, "c3")
    dead.finish(["c3"], b"r")
    claim(second, "c4")
    assert second.interrupted() == []  # it lives
    die(dead)
    left = second.interrupted()
    assert [(one.command_id, set(one.identities), one.claim_token) for one in left] == [
        ("c1", {"c1", "fire:f1"}, "t1"),
        ("c2", {"c2"}, None),
    ]
    assert second.interrupted() == []
    assert third.interrupted() == []
    assert claim(third, "c1").state is RUNNING


def test_interrupted_leaves_other_agents_commands_alone(journals):
    dead, ours = journals(agent_tag="theirs"), journals(agent_tag="ours")
    claim(dead, "c1")
    die(dead)
    assert ours.interrupted() == []
    assert [one.command_id for one in journals(agent_tag="theirs").interrupted()] == ["c1"]


def test_interrupted_without_any_journal_makes_none(journals, tmp_path):
    assert journals().interrupted() == []
    assert list(tmp_path.iterdir()) == []


def test_preload_loads_sqlite_and_opens_nothing(journals, tmp_path):
    journals().preload()
    assert "sqlite3" in sys.modules
    assert list(tmp_path.iterdir()) == []


def test_finish_keeps_the_first_result_and_ignores_strangers(journals):
    journal = journals()
    claim(journal, "c1")
    journal.finish(["c1"], b"first")
    journal.finish(["c1"], b"second")
    journal.finish(["stranger"], b"x")
    assert claim(journal, "c1").result == b"first"
    assert claim(journal, "stranger").state is NEW


def test_a_claim_is_synced_before_it_returns(journals, tmp_path):
    journal = journals()
    claim(journal, "c1")
    connection = journal._connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert not connection.in_transaction


def test_files_are_private(journals, tmp_path):
    before = os.umask(0)
    try:
        claim(journals(), "c1")
    finally:
        os.umask(before)
    for path in [tmp_path / "journal", *(tmp_path / "journal").rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_old_and_too_many_commands_are_forgotten(journals, clock, monkeypatch):
    monkeypatch.setattr(journal_module, "_PRUNE_EVERY", 0)
    monkeypatch.setattr(journal_module, "_KEEP_COMMANDS", 3)
    journal = journals()
    claim(journal, "old")
    clock.advance(7 * 24 * 3600 + 1)
    for n in range(6):
        claim(journal, f"c{n}", f"fire:{n}")
        if n:
            journal.finish([f"c{n}"], b"r")
    claim(journal, "last")
    known = {row[0] for row in journal._connection.execute("SELECT text FROM identity")}
    # c0 still runs: it is too old for the count, not for the days
    assert known == {"last", *(f"{p}{n}" for n in (0, 3, 4, 5) for p in ("c", "fire:"))}
    assert claim(journal, "old").state is NEW


def test_a_file_that_is_no_database_is_set_aside_once(journals, tmp_path):
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "commands-1.sqlite").write_bytes(b"nonsense" * 1000)
    logger = ListLogger()
    journal = journals(logger=logger)
    assert claim(journal, "c1").state is NEW
    assert logger.events == ["command_journal_damaged"]
    names = {path.name for path in (tmp_path / "journal").glob("commands-*")}
    assert {"commands-1.sqlite.damaged", "commands-2.sqlite"} <= names
    assert claim(journals(), "c1").state is RUNNING


def test_a_database_found_damaged_refuses_then_is_set_aside(journals, tmp_path):
    logger = ListLogger()
    journal = journals(logger=logger)
    for n in range(200):
        claim(journal, f"c{n}")
    journal.close()
    path = database(tmp_path)
    data = bytearray(path.read_bytes())
    page = 4096
    for at in range(2 * page, len(data), page):  # all but the schema
        data[at : at + page] = b"\xa5" * page
    path.write_bytes(data)
    with pytest.raises(OutboxError, match="command journal"):
        claim(journal, "c5")
    assert claim(journal, "c5").state is NEW
    assert logger.events == ["command_journal_damaged"]


def test_a_database_that_was_suspect_and_is_sound_is_kept(journals):
    logger = ListLogger()
    journal = journals(logger=logger)
    claim(journal, "c1")
    journal.close()
    journal._suspect = True
    assert claim(journal, "c1").state is INTERRUPTED
    assert logger.lines == []


def test_a_sibling_that_set_the_database_aside_is_followed(journals, tmp_path):
    first, second = journals(), journals()
    claim(first, "c1")
    path = database(tmp_path)
    first._set_aside(path, RuntimeError("test"))
    assert claim(second, "c2").state is NEW
    assert claim(first, "c2").state is RUNNING  # first reopened as well


def test_a_database_that_cannot_be_opened_refuses_the_claim(journals, tmp_path):
    (tmp_path / "journal").touch()
    journal = journals()
    with pytest.raises(OutboxError, match="command journal"):
        claim(journal, "c1")
    (tmp_path / "journal").unlink()
    assert claim(journal, "c1").state is NEW


def test_a_busy_or_unwritable_database_refuses_and_recovers(journals, tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "_BUSY_SECONDS", 0.01)
    journal = journals()
    journal.open()
    other = sqlite3.connect(database(tmp_path), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutboxError, match="locked"):
        claim(journal, "c1")
    other.execute("ROLLBACK")
    other.close()
    assert claim(journal, "c1").state is NEW


def test_a_commit_that_fails_claims_nothing(journals, tmp_path):
    journal = journals()
    journal.open()
    journal._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(OutboxError, match="full"):
        claim(journal, "c1" + "x" * 100_000)
    assert journal._connection.execute("SELECT count(*) FROM command").fetchone() == (0,)
    assert not journal._connection.in_transaction


def test_a_database_locked_while_it_is_opened_refuses(journals, tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "_BUSY_SECONDS", 0.01)
    first = journals()
    first.open()
    first.close()
    other = sqlite3.connect(database(tmp_path), isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    other.execute("CREATE TABLE t (x)")
    with pytest.raises(OutboxError, match="locked"):
        claim(journals(), "c1")
    other.close()


def test_owner_files_of_the_dead_are_removed(journals, tmp_path):
    first, second = journals(), journals()
    first.open()
    die(first)
    second.open()
    assert len(list((tmp_path / "journal" / "owners").iterdir())) == 1


def test_a_forked_child_is_another_owner(journals):
    journal = journals()
    claim(journal, "parent")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            journal.reinit_after_fork()
            good = claim(journal, "parent").state is RUNNING
            good = good and claim(journal, "child").state is NEW
            status = 0 if good else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert claim(journal, "parent").state is RUNNING
    assert claim(journal, "child").state is INTERRUPTED  # it exited without a result


def test_a_child_keeps_no_claim_of_its_parent_alive(journals, tmp_path):
    journal = journals()
    claim(journal, "c1")
    go, told = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        journal.reinit_after_fork()
        os.write(told[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(told[0], 1)
    die(journal)
    assert claim(journals(), "c1").state is INTERRUPTED
    os.write(go[1], b"x")
    os.waitpid(pid, 0)
    for fd in (*go, *told):
        os.close(fd)


def test_leaving_the_parent_before_anything_is_open_or_twice_does_nothing(journals, monkeypatch):
    journal = journals()
    journal.reinit_after_fork()
    journal.open()
    journal._connection.close()
    journal._connection = None
    parent = os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: parent + 1)
        real = threading.RLock()

        class Late:
            def __enter__(self):
                real.acquire()
                if journal._pid:
                    journal._locks[parent + 1] = real
                    journal._leave_parent()

            def __exit__(self, *_):
                real.release()

        journal._locks[parent + 1] = Late()
        journal.reinit_after_fork()
    assert journal._owner_file is None


def test_leaving_the_parent_whose_owner_file_is_gone(journals, monkeypatch):
    journal = journals()
    journal.open()
    die(journal)
    parent = os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: parent + 1)
        journal.reinit_after_fork()
    assert len(journal._inherited) == 1
    journal._inherited.pop().close()


def test_sqlite_is_not_loaded_before_the_first_command():
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from z4j_fastapi.clock import SystemClock\n"
        "from z4j_fastapi.outbox.journal import CommandJournal\n"
        "CommandJournal(Path('x'), clock=SystemClock()).close()\n"
        "assert 'sqlite3' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
