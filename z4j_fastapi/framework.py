"""FastAPIFrameworkAdapter: the host framework in the words of the official agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from z4j_fastapi import correlation

if TYPE_CHECKING:
    from z4j_fastapi.engines.base import Guard

Hook = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryHints:
    """Where tasks might be found; FastAPI has no application registry."""

    app_paths: tuple[str, ...] = ()
    app_names: tuple[str, ...] = ()
    framework_name: str = "fastapi"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """The request that is running, from our own context variable."""

    user_id: str | None = None
    tenant_id: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict[str, str])


class FastAPIFrameworkAdapter:
    """Config, request context and start and stop hooks (config-and-cli.md section 7).

    Args:
        config: The agent's settings, handed back by `discover_config`.
        guard: Contains what a hook raises. Without one, as when a user builds the adapter by hand,
            a failing hook is logged by name.
    """

    name: ClassVar[str] = "fastapi"
    default_worker_role: ClassVar[str] = "web"

    def __init__(self, config: object, *, guard: Guard | None = None) -> None:
        self._config = config
        self._guard = guard
        self._startup: list[Hook] = []
        self._shutdown: list[Hook] = []
        self._started = False

    def discover_config(self) -> object:
        """The settings given to the constructor."""
        return self._config

    def discovery_hints(self) -> DiscoveryHints:
        """No paths, no names, framework `fastapi`."""
        return DiscoveryHints()

    def current_context(self) -> RequestContext | None:
        """The running request's ids, None outside a request and outside a task."""
        here = correlation.current()
        if here is None:
            return None
        # A task's carrier may be damaged: whatever has no second part has no trace id.
        _, _, rest = (here.traceparent or "").partition("-")
        trace_id = rest.partition("-")[0]
        return RequestContext(
            user_id=here.user_id,
            tenant_id=here.tenant_id,
            request_id=here.request_id[:100] if here.request_id else None,
            trace_id=trace_id[:100] if trace_id else None,
            extra={"traceparent": here.traceparent} if here.traceparent else {},
        )

    def current_user(self) -> str | None:
        """The running request's user id as the application set it, else None."""
        here = correlation.current()
        return here.user_id if here is not None else None

    def on_startup(self, hook: Hook) -> Hook:
        """Run `hook` when the agent has started; at once if it has. Usable as a decorator."""
        self._startup.append(hook)
        if self._started:
            self._run("startup", hook)
        return hook

    def on_shutdown(self, hook: Hook) -> Hook:
        """Run `hook` before the agent stops. Usable as a decorator."""
        self._shutdown.append(hook)
        return hook

    def fire_startup(self) -> None:
        """Run the startup hooks in order; one that raises does not stop the rest."""
        self._started = True
        for hook in list(self._startup):
            self._run("startup", hook)

    def fire_shutdown(self) -> None:
        """Run the shutdown hooks in order; one that raises does not stop the rest."""
        self._started = False
        for hook in list(self._shutdown):
            self._run("shutdown", hook)

    def register_admin_view(self, view: object) -> None:
        """Accepted and ignored: FastAPI has no admin."""

    def _run(self, when: str, hook: Hook) -> None:
        if self._guard is not None:
            with self._guard(f"framework.{when}"):
                hook()
            return
        try:
            hook()
        except Exception:  # a user's hook may raise anything; the others still run
            import logging  # noqa: PLC0415 - only on this path

            logging.getLogger("z4j_fastapi.framework").exception("%s hook failed", when)
