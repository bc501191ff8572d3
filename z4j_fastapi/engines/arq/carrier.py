"""The carrier as the sixth key of arq's job dict (spec: engines.md 4.3).

arq passes one dict `{t, f, a, k, et}` through the pool's serialiser and reads just these five keys
in the worker, so a sixth key costs no round trip and is ignored by workers without this package.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeGuard, cast

if TYPE_CHECKING:
    from z4j_fastapi.engines.arq.job_run import JobRun

CARRIER_KEY = "z4j"

#: Set for the length of one `enqueue_job`; what the pool's serialiser puts into the job.
outgoing: ContextVar[Mapping[str, str] | None] = ContextVar("z4j_arq_outgoing", default=None)

#: The job that runs in this context, set by `run_job` (each has an asyncio task of its own).
current_run: ContextVar[JobRun | None] = ContextVar("z4j_arq_run", default=None)


def is_stored(data: object) -> TypeGuard[dict[str, Any]]:
    """Whether `data` is the dict of a job or of a result."""
    return isinstance(data, dict) and "f" in data


def is_job(data: object) -> TypeGuard[dict[str, Any]]:
    """Whether `data` is a job's dict; those with `s` are results."""
    return is_stored(data) and "s" not in data


def carrying_serializer(original: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """A job serialiser that adds the outgoing carrier.

    Args:
        original: The pool's own serialiser; None for arq's default, pickle.
    """
    serialize = pickle.dumps if original is None else original
    strict = False

    def serialize_with_carrier(data: Any) -> bytes:
        nonlocal strict
        carrier = outgoing.get()
        if not carrier or strict or not is_job(data):
            return serialize(data)
        try:
            return serialize({**data, CARRIER_KEY: dict(carrier)})
        except Exception:  # noqa: BLE001 - a user's serialiser may raise anything
            # Either the arguments cannot be serialised: then the same error comes again, to the
            # caller. Or it refuses unknown keys: the job matters more than its lineage.
            raw = serialize(data)
            strict = True
            return raw

    return serialize_with_carrier


def observing_deserializer(original: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """A job deserialiser that shows the running job's dict to its `JobRun`.

    Args:
        original: The worker's own deserialiser; None for arq's default, pickle.
    """
    deserialize = pickle.loads if original is None else original

    def deserialize_and_observe(raw: bytes) -> Any:
        run = current_run.get()
        if run is None or run.message_seen:
            return deserialize(raw)
        # Only the first one in a job's context is its own; later ones are other jobs that its
        # body looks at.
        run.message_seen = True
        data = deserialize(raw)
        if is_job(data):
            run.message = data
        return data

    return deserialize_and_observe


def carrier_in(message: Mapping[str, Any] | None) -> Mapping[str, object] | None:
    """The carrier of a decoded job; None where there is none, or a damaged one."""
    carrier: Any = None if message is None else message.get(CARRIER_KEY)
    return cast("dict[str, object]", carrier) if isinstance(carrier, dict) else None
