from __future__ import annotations

from z4j_fastapi.errors import RemoteProtocolError
from z4j_fastapi.protocol.violations import violation


def test_violation_when_made_then_carries_its_reason():
    error = violation("clock", "too far off")
    assert isinstance(error, RemoteProtocolError)
    assert error.details == {"reason": "clock"}
    assert str(error) == "too far off"
