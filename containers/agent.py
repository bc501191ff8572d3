"""AgentContainer: what an agent is made of, each part an overridable provider."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dependency_injector import containers, providers

from z4j_fastapi.clock import Clock, SystemClock
from z4j_fastapi.containers.dispatching import build_dispatcher
from z4j_fastapi.containers.engines import build_engines
from z4j_fastapi.containers.observability import build_observability
from z4j_fastapi.containers.outbox import build_journal, build_outbox, locate_storage
from z4j_fastapi.containers.runtime import build_framework, build_runtime
from z4j_fastapi.containers.settings import settings_from
from z4j_fastapi.containers.transport import build_transport
from z4j_fastapi.counters import LossCounters
from z4j_fastapi.redaction import Redactor
from z4j_fastapi.runtime.recorder import Recorder

if TYPE_CHECKING:
    from z4j_fastapi.containers.outbox import Storage
    from z4j_fastapi.engines.base import EngineAdapter
    from z4j_fastapi.framework import FastAPIFrameworkAdapter
    from z4j_fastapi.observability import Observability
    from z4j_fastapi.outbox.base import Outbox
    from z4j_fastapi.outbox.journal import CommandJournal
    from z4j_fastapi.runtime.agent import AgentRuntime
    from z4j_fastapi.runtime.dispatcher import Dispatcher
    from z4j_fastapi.settings import AgentSettings
    from z4j_fastapi.transport.base import Transport


class AgentContainer(containers.DeclarativeContainer):
    """One agent. `AgentContainer()` takes everything from the environment.

    Providers, in the order in which they depend on each other:

    - `overrides`: settings and engine handles by keyword, as given to `z4j_lifespan`
    - `adapters`: engine adapters made elsewhere, such as a worker's own
    - `host_loop`: the loop of the application's lifespan, where brokers live that it started
    - `default_role`: the worker role where the settings name none
    - `settings`: validated `AgentSettings`
    - `clock`, `counters`, `observability`, `redactor`: values and instruments
    - `storage`, `outbox`, `journal`: what is durable
    - `transport`: how to reach the brain
    - `engines`: adapters by handle, and `schedulers`, which is empty in this version
    - `recorder`, `dispatcher`: the way in and the way back
    - `framework`, `runtime`: the host's adapter, and the agent itself

    Example:
        container = AgentContainer()
        container.overrides.override({"agent_name": "shop-web"})
        app = FastAPI(lifespan=z4j_lifespan(container=container))
    """

    overrides: providers.Provider[Mapping[str, object]] = providers.Object({})
    adapters: providers.Provider[Sequence[EngineAdapter]] = providers.Object(())
    host_loop: providers.Provider[AbstractEventLoop | None] = providers.Object(None)
    default_role: providers.Provider[str] = providers.Object("web")

    settings: providers.Provider[AgentSettings] = providers.ThreadSafeSingleton(
        settings_from, overrides
    )
    clock: providers.Provider[Clock] = providers.ThreadSafeSingleton(SystemClock)
    counters: providers.Provider[LossCounters] = providers.ThreadSafeSingleton(LossCounters)
    observability: providers.Provider[Observability] = providers.ThreadSafeSingleton(
        build_observability,
        settings=settings,
        counters=counters,
        clock=clock,
    )
    redactor: providers.Provider[Redactor] = providers.ThreadSafeSingleton(
        Redactor,
        extra_key_patterns=settings.provided.redaction_extra_key_patterns,
        extra_value_patterns=settings.provided.redaction_extra_value_patterns,
        defaults_enabled=settings.provided.redaction_defaults_enabled,
        max_payload_bytes=settings.provided.max_payload_bytes,
        max_event_bytes=settings.provided.max_event_bytes,
    )
    storage: providers.Provider[Storage] = providers.ThreadSafeSingleton(
        locate_storage, settings=settings
    )
    outbox: providers.Provider[Outbox] = providers.ThreadSafeSingleton(
        build_outbox,
        settings=settings,
        storage=storage,
        counters=counters,
        clock=clock,
        observability=observability,
    )
    journal: providers.Provider[CommandJournal] = providers.ThreadSafeSingleton(
        build_journal,
        settings=settings,
        storage=storage,
        clock=clock,
        observability=observability,
    )
    transport: providers.Provider[Transport] = providers.ThreadSafeSingleton(
        build_transport, settings=settings
    )
    engines: providers.Provider[Sequence[EngineAdapter]] = providers.ThreadSafeSingleton(
        build_engines,
        settings=settings,
        overrides=overrides,
        adapters=adapters,
        host_loop=host_loop,
    )
    schedulers: providers.Provider[Sequence[object]] = providers.Object(())
    recorder: providers.Provider[Recorder] = providers.ThreadSafeSingleton(
        Recorder,
        redactor=redactor,
        outbox=outbox,
        counters=counters,
        guard=observability.provided.guard,
    )
    dispatcher: providers.Provider[Dispatcher] = providers.ThreadSafeSingleton(
        build_dispatcher,
        settings=settings,
        outbox=outbox,
        journal=journal,
        redactor=redactor,
        clock=clock,
        observability=observability,
        recorder=recorder,
    )
    framework: providers.Provider[FastAPIFrameworkAdapter] = providers.ThreadSafeSingleton(
        build_framework, settings=settings, observability=observability
    )
    # The parts are handed over as providers: a disabled agent builds none of them.
    runtime: providers.Provider[AgentRuntime] = providers.ThreadSafeSingleton(
        build_runtime,
        settings=settings,
        clock=clock,
        observability=observability,
        counters=counters,
        framework=framework,
        default_role=default_role,
        storage=storage.provider,
        outbox=outbox.provider,
        recorder=recorder.provider,
        transport=transport.provider,
        dispatcher=dispatcher.provider,
        engines=engines.provider,
    )
