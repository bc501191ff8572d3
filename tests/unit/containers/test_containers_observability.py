from __future__ import annotations

import logging

import pytest
from support.agents import memory_container

from z4j_fastapi.counters import LossReason


@pytest.fixture
def own_level():
    logger = logging.getLogger("z4j_fastapi")
    before = logger.level
    yield logger
    logger.setLevel(before)


def test_level_is_set_only_where_one_was_asked_for(memory_brain, tmp_path, own_level):
    root = logging.getLogger().level
    own_level.setLevel(logging.NOTSET)
    memory_container(memory_brain, tmp_path).observability()
    assert own_level.level == logging.NOTSET
    memory_container(memory_brain, tmp_path, log_level="debug").observability()
    assert own_level.level == logging.DEBUG
    assert logging.getLogger().level == root


def test_guard_counts_into_the_containers_counters(memory_brain, tmp_path):
    container = memory_container(memory_brain, tmp_path)
    with container.observability().guard("somewhere"):
        raise ValueError
    assert container.counters().get(LossReason.ENGINE_ERROR) == 1
