from __future__ import annotations

from support.runtime_kit import MemoryLane, adopted

from z4j_fastapi.outbox.base import Source
from z4j_fastapi.runtime.positions import Positions


def own(events=0, results=0):
    lanes = {"events": MemoryLane([b"e"] * events), "results": MemoryLane([b"r"] * results)}
    return Source(name="own", own=True, **lanes)


def test_position_begins_behind_what_was_acknowledged():
    source = own(events=5, results=4)
    source.events.acknowledge(2)
    source.results.acknowledge(3)
    position = Positions(lambda: [source]).of(source)
    assert (position.events, position.results) == (2, 3)


def test_position_of_a_source_without_results_counts_events_only():
    source = adopted(events=[b"e"], results=None)
    positions = Positions(lambda: [source])
    assert positions.of(source).results == 0
    assert not positions.results_unsent
    assert positions.events_unsent
    assert positions.results_sent() == {"dead": 0}


def test_unsent_is_told_apart_for_events_and_results():
    source = own(events=2, results=1)
    positions = Positions(lambda: [source])
    assert positions.events_unsent
    assert positions.results_unsent
    positions.of(source).events = 2
    assert not positions.events_unsent
    assert positions.results_unsent
    positions.of(source).results = 1
    assert not positions.results_unsent
    assert positions.results_sent() == {"own": 1}
    source.events.append(b"more")
    assert positions.events_unsent


def test_sources_with_unsent_events_take_turns():
    sources = [own(events=1), adopted("a", events=[b"e"]), adopted("b", events=[b"e"])]
    positions = Positions(lambda: sources)
    names = [positions.next_source().name for _ in range(4)]
    assert names == ["own", "a", "b", "own"]
    positions.of(sources[1]).events = 1
    assert [positions.next_source().name for _ in range(3)] == ["b", "own", "b"]


def test_next_source_when_everything_was_sent_is_none():
    source = own(events=1)
    positions = Positions(lambda: [source])
    positions.of(source).events = 1
    assert positions.next_source() is None
    assert Positions(list).next_source() is None


def test_turn_when_sources_disappear_still_finds_the_rest():
    sources = [own(events=1), adopted("a", events=[b"e"]), adopted("b", events=[b"e"])]
    positions = Positions(lambda: sources)
    positions.next_source()
    positions.next_source()
    del sources[1:]
    assert positions.next_source().name == "own"


def test_restart_and_forget_begin_again_behind_what_was_acknowledged():
    source = own(events=5, results=5)
    positions = Positions(lambda: [source])
    for again in (positions.restart, lambda: positions.forget(source)):
        position = positions.of(source)
        position.events = position.results = 5
        source.events.acknowledge(source.events.acknowledged + 1)
        again()
        assert positions.of(source).events == source.events.acknowledged
        assert positions.of(source).results == 0


def test_resending_events_leaves_results_where_they_are():
    source = own(events=5, results=5)
    positions = Positions(lambda: [source])
    position = positions.of(source)
    position.events = position.results = 5
    source.events.acknowledge(3)
    positions.resend_events(source)
    assert (positions.of(source).events, positions.of(source).results) == (3, 5)
