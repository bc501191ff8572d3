from __future__ import annotations

import dataclasses

import pytest

from z4j_fastapi.runtime.status import ConnectionState, RuntimeState, RuntimeStatus


def test_states_are_the_words_that_users_compare_with():
    assert [state.value for state in RuntimeState] == ["stopped", "starting", "running", "stopping"]
    assert RuntimeState.RUNNING == "running"
    assert ConnectionState.ONLINE == "online"


@pytest.mark.parametrize("connection", list(ConnectionState))
def test_online_only_when_the_connection_is(connection):
    status = RuntimeStatus(state=RuntimeState.RUNNING, connection=connection)
    assert status.online is (connection is ConnectionState.ONLINE)


def test_status_is_a_snapshot_that_cannot_be_changed_and_shares_nothing():
    one = RuntimeStatus(state=RuntimeState.STOPPED, connection=ConnectionState.OFFLINE)
    two = RuntimeStatus(state=RuntimeState.STOPPED, connection=ConnectionState.OFFLINE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.pid = 1
    assert one.dropped is not two.dropped
    assert one.engine_errors is not two.engine_errors
