"""The way in: redact, render, append. Runs on the thread that recorded the event."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from datetime import timezone
from hashlib import sha256
from typing import TYPE_CHECKING

from z4j_fastapi.counters import LossCounters, LossReason
from z4j_fastapi.outbox.base import Outbox, RecordKind
from z4j_fastapi.protocol.canonical import canonical_bytes

if TYPE_CHECKING:
    from z4j_fastapi.engines.base import Guard
    from z4j_fastapi.events import Event
    from z4j_fastapi.redaction import Redactor

_MAX_TASK_ID = 200
_MAX_ENGINE = 40
_REMEMBERED_IDS = 10_000
_NO_TASK_ID = '""'
_REMEMBERED_TEXTS = 1_024


class Recorder:
    """The `EventSink` that engines report to.

    After the first event of an idle line it costs the caller one redaction, one rendering and one
    `write`; the agent's thread is woken only when it is parked.

    Args:
        redactor: Redacts, bounds and renders `data`.
        outbox: Where the bytes go before they are sent.
        counters: Losses by reason.
        guard: Contains whatever goes wrong; nothing reaches the host.
    """

    def __init__(
        self, *, redactor: Redactor, outbox: Outbox, counters: LossCounters, guard: Guard
    ) -> None:
        self._redactor = redactor
        self._outbox = outbox
        self._counters = counters
        self._guard = guard
        self._pid = os.getpid()
        self._texts: dict[str, str] = {}
        self._original_ids: OrderedDict[str, str] = OrderedDict()
        self.recorded = 0
        self.running = False
        #: True while the sender sleeps; then `wake` is called after an append.
        self.parked = False
        self.wake: Callable[[], object] = _nothing
        #: Called in a forked child before the first event is recorded there.
        self.on_fork: Callable[[], None] = _nothing

    def record(self, event: Event) -> None:
        """Redact, render and store `event` durably. Any thread; never raises, never waits.

        Args:
            event: What happened. Its `data` may be changed afterwards without effect.
        Spec: design.md sections 1, 2 and 6.
        """
        with self._guard("record"):
            if self._pid != os.getpid():
                with self._guard("record.fork"):
                    self.on_fork()
            if not self.running:
                self._counters.add(LossReason.NOT_RUNNING)
                return
            meta = event.meta
            if meta is not None and not meta.should_record(event.task_id, event.kind):
                return
            try:
                stored = self._outbox.append(RecordKind.EVENT, self.render(event))
            except Exception:  # whatever it was, the event is lost; the guard logs it
                self._counters.add(LossReason.INVALID)
                raise
            if not stored:
                return  # the outbox counted it
            self.recorded += 1
            if self.parked:
                self.parked = False  # one wake-up is enough, however many events follow
                self.wake()

    def render(self, event: Event) -> bytes:
        """Canonical JSON of one event, as it is stored, sent and signed.

        Key order is the sorted one, so the redacted `data` is spliced in, not rendered again.
        """
        rendered = self._redactor.render(event.data, meta=event.meta)
        if rendered.shortened:
            self._counters.add(LossReason.SHORTENED)
        occurred_at = event.occurred_at
        if occurred_at.tzinfo is None:
            occurred_at = occurred_at.replace(tzinfo=timezone.utc)
        task_id = event.task_id
        # One format and one encoding for all the small parts: each call costs half a microsecond.
        tail = (
            f',"engine":{self._text(event.engine[:_MAX_ENGINE])},"id":"{event.id}",'
            f'"kind":"{event.kind.value}","occurred_at":"{occurred_at.isoformat()}",'
            f'"task_id":{self._task_id(task_id) if task_id else _NO_TASK_ID}}}'
        )
        return b'{"data":%b%b' % (rendered.payload, tail.encode())

    def _text(self, text: str) -> str:
        """An engine's name as JSON, remembered."""
        found = self._texts.get(text)
        if found is None:
            if len(self._texts) >= _REMEMBERED_TEXTS:
                self._texts.clear()
            found = self._texts[text] = canonical_bytes(text).decode()
        return found

    def _task_id(self, task_id: str) -> str:
        """The id on the wire: itself, unless the brain would redact it (redaction.md 1)."""
        shown = self._redactor.safe_identifier(task_id)
        if len(shown) > _MAX_TASK_ID:
            shown = f"id-{sha256(task_id.encode('utf-8', 'replace')).hexdigest()[:32]}"
        if shown != task_id:
            self._original_ids.pop(shown, None)  # to the end: many threads, so in two atomic steps
            self._original_ids[shown] = task_id
            if len(self._original_ids) > _REMEMBERED_IDS:
                self._original_ids.popitem(last=False)
        return canonical_bytes(shown).decode()

    def original_task_id(self, shown: str) -> str:
        """The engine's own id for one that a command names; itself unless it was replaced."""
        return self._original_ids.get(shown, shown)

    def adopt_process(self) -> None:
        """Belong to the current process from now on."""
        self._pid = os.getpid()

    def forked(self) -> None:
        """In a forked child: forget the parent's sender; the next record calls `on_fork`."""
        self._pid = -1
        self.recorded = 0
        self.running = False
        self.parked = False
        self.wake = _nothing


def _nothing() -> None:
    """Stands in for a callback that is not set."""
