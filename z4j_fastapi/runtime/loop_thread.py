"""The agent's daemon thread with its own asyncio loop.

Neither a blocked host loop stops the agent, nor does the agent's work delay a request
(style.md 2, async). Nothing here waits on the caller's thread without a deadline.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs one coroutine to its end on a loop of its own.

    Args:
        name: Thread name.
        main: Makes the coroutine to run; called on the new thread.
    """

    def __init__(self, *, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._main = main
        self._loop = asyncio.new_event_loop()
        self._gate = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once.

        Raises:
            RuntimeError: The system gives no more threads.
        """
        try:
            self._thread.start()
        except RuntimeError:
            self._closing = True
            self._loop.close()
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            with self._gate:
                self._closing = True  # nothing is handed in from here on
            try:
                self._cancel_leftovers()
            finally:
                asyncio.set_event_loop(None)
                self._loop.close()

    def _cancel_leftovers(self) -> None:
        # What was handed in before has a callback queued: let it become a task first.
        self._loop.run_until_complete(asyncio.sleep(0))
        leftovers = asyncio.all_tasks(self._loop)
        for task in leftovers:
            task.cancel()
        if leftovers:
            self._loop.run_until_complete(asyncio.wait(leftovers, timeout=1.0))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())

    @property
    def on_thread(self) -> bool:
        """Whether the caller is this thread."""
        return threading.current_thread() is self._thread

    def call_soon(self, call: Callable[..., object], *args: Any) -> bool:
        """Run `call` on the loop soon. Any thread.

        Returns:
            False when the loop is gone: nothing will be called.
        """
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop was closed between a check and this call
            return False
        return True

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T] | None:
        """Run a coroutine on the loop; None when the loop is gone. Any other thread."""
        with self._gate:
            if not self._closing:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        return None

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the end; returns whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()
