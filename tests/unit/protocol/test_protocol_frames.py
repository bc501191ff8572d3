from __future__ import annotations

from z4j_fastapi.protocol.frames import FrameType


def test_frame_type_when_compared_with_wire_text_then_equal():
    assert FrameType.EVENT_BATCH == "event_batch"
    assert {kind.value for kind in FrameType} == {
        "hello",
        "hello_ack",
        "event_batch",
        "event_batch_ack",
        "heartbeat",
        "agent_status",
        "registry_delta",
        "command",
        "command_ack",
        "command_result",
        "error",
    }
