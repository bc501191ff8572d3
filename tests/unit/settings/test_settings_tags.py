from __future__ import annotations

import copy

import pytest

from z4j_fastapi.settings.tags import Tags


def test_tags_when_compared_then_equal_any_mapping_with_the_same_pairs():
    assert Tags({"a": "1"}) == {"a": "1"}
    assert Tags({"a": "1"}) != {"a": "2"}
    assert hash(Tags({"a": "1", "b": "2"})) == hash(Tags({"b": "2", "a": "1"}))
    assert dict(Tags()) == {}


def test_tags_when_the_source_changes_then_stay():
    source = {"a": "1"}
    tags = Tags(source)
    source["a"] = "2"
    assert tags["a"] == "1"
    with pytest.raises(KeyError):
        tags["b"]
    assert copy.deepcopy(tags) is tags
    assert copy.copy(tags) is tags
    assert repr(tags) == "{'a': '1'}"
