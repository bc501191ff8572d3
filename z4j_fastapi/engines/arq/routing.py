"""Which attached adapter hears of what happens on which connection and queue.

One process may have several: two applications with different settings, a worker inside the web
process. The class-level hooks see everything in the process; the routes sort it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from z4j_fastapi.task_meta import meta_of

if TYPE_CHECKING:
    from z4j_fastapi.engines.arq.endpoint import Endpoint
    from z4j_fastapi.engines.base import Attachment, Guard
    from z4j_fastapi.task_meta import TaskMeta


class Subscriber(Protocol):
    """What the routes must know of an adapter."""

    @property
    def attachment(self) -> Attachment | None:
        """Where its events go; None while it is not attached."""
        ...

    @property
    def endpoint(self) -> Endpoint | None:
        """Its Redis database; None when it was given none."""
        ...

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The queues that it was told about; empty means any."""
        ...

    def learn(self, pool: Any, endpoint: Endpoint | None) -> None:
        """An enqueue was seen through `pool`, for the first time."""
        ...


class Routes:
    """The attached adapters of this process. Thread-safe; reading takes no lock."""

    __slots__ = ("_lock", "_unrouted", "metas", "subscribers", "version")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unrouted: set[tuple[Endpoint | None, str]] = set()
        self.subscribers: tuple[Subscriber, ...] = ()
        #: `z4j_meta` hints by function name, of functions that this process has seen; an enqueue
        #: knows the name alone.
        self.metas: dict[str, TaskMeta] = {}
        #: Rises with every change, so that answers of `find` can be remembered.
        self.version = 0

    def add(self, subscriber: Subscriber) -> None:
        """Let `subscriber` hear events. Idempotent."""
        with self._lock:
            if subscriber not in self.subscribers:
                self.subscribers = (*self.subscribers, subscriber)
            self._unrouted.clear()
            self.version += 1

    def remove(self, subscriber: Subscriber) -> None:
        """Let `subscriber` hear nothing more. Idempotent."""
        with self._lock:
            self.subscribers = tuple(one for one in self.subscribers if one is not subscriber)
            if not self.subscribers:
                self.metas = {}
            self.version += 1

    def changed(self) -> None:
        """A subscriber or a worker's owner changed: remembered answers are void."""
        with self._lock:
            self._unrouted.clear()
            self.version += 1

    def learn_meta(self, name: str, function: object) -> TaskMeta | None:
        """Remember and return the `z4j_meta` hints of `function`; None where it has none."""
        meta = meta_of(function, skip_parameters=1)  # callers do not give `ctx`
        if meta is not None:
            self.metas[name] = meta
        return meta

    def guard(self) -> Guard | None:
        """Any attached adapter's guard, for what runs before it is known whose it is."""
        for one in self.subscribers:
            if one.attachment is not None:
                return one.attachment.guard
        return None

    def find(self, endpoint: Endpoint | None, queue: str) -> tuple[Attachment, ...]:
        """Where to report what happens on `queue` of `endpoint`, the best match first.

        Args:
            endpoint: The Redis database; None where it cannot be told.
            queue: Name of the queue.
        Returns:
            One attachment a sink; empty when it is anybody's guess which of several adapters
            it belongs to, which is logged once.
        """
        there = self.subscribers
        if endpoint is None:
            here: Sequence[Subscriber] = ()
        else:
            here = [one for one in there if one.endpoint == endpoint]
        exact = [one for one in here if queue in one.queue_names]
        if exact:
            return _attachments(exact)
        open_to_any = [one for one in here if not one.queue_names]
        if open_to_any:
            return _attachments(open_to_any)
        for candidates in (here, there):
            found = _attachments(candidates)
            if len(found) == 1:
                return found
        self._warn_once(endpoint, queue)
        return ()

    def _warn_once(self, endpoint: Endpoint | None, queue: str) -> None:
        with self._lock:
            key = (endpoint, queue)
            if key in self._unrouted or len(self._unrouted) >= 1000:  # noqa: PLR2004 - bounded
                return
            self._unrouted.add(key)
        for attachment in _attachments(self.subscribers):
            attachment.logger.warning(
                "arq.unrouted",
                queue=queue,
                advice="several arq adapters and none knows this queue: name it in arq_queue_name",
            )


def _attachments(subscribers: Sequence[Subscriber]) -> tuple[Attachment, ...]:
    """The attachments of `subscribers`, each sink once."""
    found: dict[int, Attachment] = {}
    for one in subscribers:
        attachment = one.attachment
        if attachment is not None:
            found.setdefault(id(attachment.sink), attachment)
    return tuple(found.values())
