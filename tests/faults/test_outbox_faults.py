"""The outbox and the journal under real faults: kill -9, races between processes, full disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.outboxes import drain, make_outbox

from z4j_fastapi.outbox.base import RecordKind

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

TESTS = Path(__file__).resolve().parents[1]
PRELUDE = """
import json, os, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support.outboxes import drain, make_outbox
from z4j_fastapi.clock import SystemClock
from z4j_fastapi.counters import LossCounters
from z4j_fastapi.outbox.base import RecordKind
from z4j_fastapi.outbox.journal import CommandJournal
base = Path(sys.argv[2])
def say(value):
    os.write(1, json.dumps(value).encode() + b"\\n")
def wait():
    sys.stdin.readline()
"""


class Child:
    """A Python process that talks in lines of JSON."""

    def __init__(self, code: str, base: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(TESTS), str(base)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def hear(self):
        line = self.process.stdout.readline()
        assert line, "the child ended"
        return json.loads(line)

    def go(self):
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self):
        """Wait for a good exit; what it still said."""
        rest = self.process.stdout.read()
        assert self.process.wait() == 0
        return [json.loads(line) for line in rest.splitlines()]


@pytest.fixture
def base(tmp_path):
    return tmp_path / "fingerprint"


@pytest.fixture
def children(base):
    started: list[Child] = []

    def start(code: str) -> Child:
        started.append(Child(code, base))
        return started[-1]

    yield start
    for child in started:
        if child.process.poll() is None:
            child.kill()
        child.process.stdin.close()
        child.process.stdout.close()


BURST = """
outbox = make_outbox(base, "victim-%d" % os.getpid())
outbox.open()
say("open")
wait()
for n in range(5000):
    outbox.append(RecordKind.EVENT, b"%d:" % n + b"x" * 1100)
outbox.append(RecordKind.RESULT, b"result")
say("done")
wait()
"""


@pytest.mark.parametrize("by", ["sibling", "next start"])
def test_a_burst_of_5000_then_kill_9_is_delivered_whole(base, children, by):
    survivor = make_outbox(base, "survivor")
    if by == "sibling":
        survivor.open()
    victim = children(BURST)
    victim.hear()
    victim.go()
    victim.hear()
    if by == "sibling":
        assert survivor.adopt() == 0  # it lives
    victim.kill()
    survivor.open()
    assert survivor.adopt() == 1
    source = survivor.sources()[1]
    payloads = drain(source.events)
    assert [p.partition(b":")[0] for p in payloads] == [b"%d" % n for n in range(5000)]
    assert drain(source.results) == [b"result"]
    survivor.release(source)
    survivor.close()
    assert list(base.iterdir()) == []


def test_kill_9_in_the_middle_of_a_burst_keeps_every_record_that_append_returned_for(
    base, children
):
    survivor = make_outbox(base, "survivor")
    survivor.open()
    for heard in (1, 300, 2000):
        victim = children(
            """
            outbox = make_outbox(base, "victim-%d" % os.getpid())
            outbox.open()
            n = 0
            while True:
                outbox.append(RecordKind.EVENT, b"%d:" % n + b"x" * 1100)
                say(n)
                n += 1
            """
        )
        last = [victim.hear() for _ in range(heard)][-1]
        victim.kill()
        for line in victim.process.stdout:
            if line.endswith(b"\n"):
                last = json.loads(line)
        assert survivor.adopt() == 1
        source = survivor.sources()[1]
        numbers = [int(p.partition(b":")[0]) for p in drain(source.events)]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) in {last + 1, last + 2}
        survivor.release(source)
    survivor.close()


def test_adopters_that_race_never_get_the_same_directory(base, children):
    for n in range(12):
        dead = make_outbox(base, f"dead-{n}")
        dead.open()
        for record in range(20):
            dead.append(RecordKind.EVENT, b"%d-%d" % (n, record))
        dead.close()
    adopters = [
        children(
            """
            outbox = make_outbox(base, "adopter-%d" % os.getpid())
            outbox.open()
            say("ready")
            wait()
            outbox.adopt()
            got = {}
            for source in outbox.sources()[1:]:
                got[source.name] = [payload.decode() for payload in drain(source.events)]
                outbox.release(source)
            outbox.close()
            say(got)
            """
        )
        for _ in range(3)
    ]
    for adopter in adopters:
        adopter.hear()
    for adopter in adopters:
        adopter.go()
    answers = [adopter.end()[0] for adopter in adopters]
    names = [name for answer in answers for name in answer]
    assert sorted(names) == sorted(f"dead-{n}" for n in range(12))
    for answer in answers:
        for name, payloads in answer.items():
            n = name.removeprefix("dead-")
            assert payloads == [f"{n}-{record}" for record in range(20)]
    assert list(base.iterdir()) == []


def test_adopters_and_processes_that_come_and_go_lose_nothing(base, children):
    """Directories are made, locked, abandoned, adopted and removed at the same time."""
    comers = [
        children(
            """
            say("ready")
            wait()
            for n in range(60):
                outbox = make_outbox(base, "comer")  # the same name for all
                outbox.open()
                for k in range(3):
                    outbox.append(RecordKind.EVENT, b"%d-%d-%d" % (os.getpid(), n, k))
                outbox.close()
            say(os.getpid())
            """
        )
        for _ in range(2)
    ]
    adopters = [
        children(
            """
            outbox = make_outbox(base, "adopter-%d" % os.getpid())
            outbox.open()
            say("ready")
            wait()
            got = []
            import select
            while not select.select([sys.stdin], [], [], 0)[0]:
                outbox.adopt()
                for source in outbox.sources()[1:]:
                    got += [payload.decode() for payload in drain(source.events)]
                    outbox.release(source)
            outbox.close()
            say(got)
            """
        )
        for _ in range(2)
    ]
    for child in comers + adopters:
        child.hear()
    for child in comers + adopters:
        child.go()
    pids = [comer.end()[0] for comer in comers]
    for adopter in adopters:
        adopter.go()
    got = [payload for adopter in adopters for payload in adopter.end()[0]]
    last = make_outbox(base, "last")
    last.open()
    last.adopt()
    for source in last.sources()[1:]:
        got += [payload.decode() for payload in drain(source.events)]
    last.close()
    # A comer that takes its own directory back leaves its records to whoever is last.
    assert sorted(got) == sorted(
        f"{pid}-{n}-{k}" for pid in pids for n in range(60) for k in range(3)
    )
    assert [entry.name for entry in base.iterdir()] == []


def test_a_file_size_limit_of_the_process_makes_more_files_and_loses_nothing(base, children):
    child = children(
        """
        outbox = make_outbox(base, "limited")
        outbox.open()
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_000, resource.RLIM_INFINITY))
        for n in range(500):
            assert outbox.append(RecordKind.EVENT, b"%03d" % n + b"x" * 1100)
        files = len(list(outbox.directory.glob("events-*.seg")))
        say([files, [p[:3].decode() for p in drain(outbox.sources()[0].events)]])
        outbox.close()
        """
    )
    files, numbers = child.end()[0]
    assert files >= 9
    assert numbers == [f"{n:03d}" for n in range(500)]


def test_a_process_that_may_write_no_file_keeps_records_in_memory_until_it_may(base, children):
    child = children(
        """
        counters = LossCounters()
        outbox = make_outbox(base, "limited", counters=counters)
        outbox.open()
        outbox.append(RecordKind.EVENT, b"000")
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, unlimited[1]))
        for n in range(1, 100):
            assert outbox.append(RecordKind.EVENT, b"%03d" % n)
        lane = outbox.sources()[0].events
        first = [r.payload.decode() for r in lane.read(0, max_records=1000, max_bytes=1 << 20)]
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        outbox.adopt()  # the round that the runtime makes every 30 s
        size = sum(path.stat().st_size for path in outbox.directory.glob("events-*.seg"))
        say([first, size, counters.get("disk")])
        wait()
        """
    )
    first, size, lost = child.hear()
    assert first == [f"{n:03d}" for n in range(100)]
    assert size == 100 * (17 + 3)
    assert lost == 0
    child.kill()
    survivor = make_outbox(base, "survivor")
    survivor.open()
    survivor.adopt()
    assert len(drain(survivor.sources()[1].events)) == 100
    survivor.close()


def test_a_full_file_system_keeps_records_in_memory_and_in_order(base, children, tmp_path):
    mount = (
        subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
        if Path("/usr/bin/unshare").exists()
        else None
    )
    if mount is None or mount.returncode != 0 or os.geteuid() != 0:
        pytest.skip("needs root and mount namespaces for a small tmpfs")
    code = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000
    assert libc.unshare(CLONE_NEWNS) == 0
    assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
    base.mkdir()
    if libc.mount(b"tmpfs", str(base).encode(), b"tmpfs", 0, b"size=1m,mode=700") != 0:
        say("no mount")
        raise SystemExit
    counters = LossCounters()
    outbox = make_outbox(base / "fp", "full", counters=counters)
    outbox.open()
    for n in range(1500):  # 1.6 MiB
        assert outbox.append(RecordKind.EVENT, b"%04d" % n + b"x" * 1100)
    on_disk = sum(path.stat().st_size for path in outbox.directory.glob("events-*.seg"))
    got = [p[:4].decode() for p in drain(outbox.sources()[0].events, max_records=100)]
    for n in range(1500, 1510):
        outbox.append(RecordKind.EVENT, b"%04d" % n + b"x" * 1100)
    got += [p[:4].decode() for p in drain(outbox.sources()[0].events)]
    say([on_disk, counters.snapshot(), got])
    outbox.close()
    """
    child = children(code)
    answer = child.hear()
    if answer == "no mount":
        pytest.skip("a tmpfs cannot be mounted here")
    on_disk, losses, got = answer
    assert on_disk < 1 << 20
    assert set(losses.values()) == {0}
    assert got == [f"{n:04d}" for n in range(1510)]
    child.end()


CLAIM = """
journal = CommandJournal(base, clock=SystemClock())
journal.open()
say("ready")
wait()
answers = [
    journal.claim([f"c{n}", f"fire:{n}"], action="retry_task", claim_token="t").state.value
    for n in range(40)
]
say(answers)
wait()
"""


def test_claims_that_race_are_new_in_one_process_only(base, children):
    claimers = [children(CLAIM) for _ in range(4)]
    for child in claimers:
        child.hear()
    for child in claimers:
        child.go()
    answers = [child.hear() for child in claimers]
    for n in range(40):
        assert sorted(answer[n] for answer in answers) == ["new", "running", "running", "running"]


def test_claims_of_a_process_killed_with_9_are_interrupted_once(base, children):
    victim = children(CLAIM)
    victim.hear()
    victim.go()
    assert set(victim.hear()) == {"new"}
    victim.kill()
    others = [children(CLAIM) for _ in range(3)]
    for child in others:
        child.hear()
    for child in others:
        child.go()
    answers = [child.hear() for child in others]
    for n in range(40):
        assert sorted(a[n] for a in answers) == ["interrupted", "running", "running"]


def test_results_survive_kill_9(base, children):
    victim = children(
        """
        journal = CommandJournal(base, clock=SystemClock())
        for n in range(20):
            journal.claim([f"c{n}"], action="retry_task", claim_token=f"t{n}")
            journal.finish([f"c{n}"], b"result %d" % n)
        say("done")
        wait()
        """
    )
    victim.hear()
    victim.kill()
    reader = children(
        """
        journal = CommandJournal(base, clock=SystemClock())
        claims = [
            journal.claim([f"c{n}"], action="x", claim_token="later") for n in range(20)
        ]
        say([[c.state.value, c.claim_token, c.result.decode()] for c in claims])
        journal.close()
        """
    )
    assert reader.hear() == [["finished", f"t{n}", f"result {n}"] for n in range(20)]
    reader.end()
