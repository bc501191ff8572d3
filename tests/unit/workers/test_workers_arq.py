"""`attach_to_worker_settings` with a runtime of the test's own in place of the process's."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker, create_worker, get_kwargs
from support.arq_engine import RecordingSink, attachment

from z4j_fastapi.engines import arq as engine
from z4j_fastapi.engines.arq.adapter import ArqEngineAdapter
from z4j_fastapi.engines.arq.capture import hooks
from z4j_fastapi.errors import ConfigError
from z4j_fastapi.workers.arq import attach_to_worker, attach_to_worker_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class FakeRuntimes(ModuleType):
    """Stands in for `z4j_fastapi.current`."""

    def __init__(self) -> None:
        super().__init__("z4j_fastapi.current")
        self.sink = RecordingSink()
        self.leases: list[FakeLease] = []
        self.threads: list[threading.Thread] = []
        self.error: Exception | None = None

    def ensure_runtime(
        self, *, adapters: Sequence[ArqEngineAdapter], worker_role: str = "task"
    ) -> FakeLease:
        assert worker_role == "task"
        self.threads.append(threading.current_thread())
        if self.error is not None:
            raise self.error
        for adapter in adapters:
            adapter.attach(attachment(self.sink))
        self.leases.append(FakeLease(adapters, self.sink))
        return self.leases[-1]


class FakeLease:
    def __init__(self, adapters: Sequence[ArqEngineAdapter], sink: RecordingSink) -> None:
        self.adapters = adapters
        self.sink = sink
        self.seen_at_release: list[str] | None = None

    async def arelease(self) -> None:
        self.seen_at_release = [event.kind.value for event in self.sink.events]
        for adapter in self.adapters:
            adapter.detach()


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRuntimes]:
    fake = FakeRuntimes()
    monkeypatch.setitem(sys.modules, "z4j_fastapi.current", fake)
    yield fake
    for lease in fake.leases:
        for adapter in lease.adapters:
            adapter.detach()


async def job(ctx: dict[str, Any]) -> None: ...


async def other(ctx: dict[str, Any]) -> None: ...


def settings_class(**more: Any) -> Any:
    values = {
        "functions": [job],
        "redis_settings": RedisSettings(host="192.0.2.1", port=7),
        "handle_signals": False,
        **more,
    }
    return type("WorkerSettings", (), values)


async def run(worker: Any) -> None:
    """The life of a worker without a Redis: its start, then its close."""
    worker.on_startup = stop_here
    worker._pool = FakePool()
    with contextlib.suppress(StopHere):
        await worker.main()
    await worker.close()


class StopHere(Exception):
    pass


async def stop_here(ctx: dict[str, Any]) -> None:
    raise StopHere


class FakePipeline:
    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *args: object) -> None: ...

    def info(self, section: str) -> None: ...

    def dbsize(self) -> None: ...

    async def execute(self) -> list[Any]:
        return [{}, {}, {}, 0]


class FakePool(ArqRedis):
    """Enough of a pool for a worker that never takes a job."""

    def pipeline(self, transaction: bool = True) -> FakePipeline:
        return FakePipeline()

    async def delete(self, *keys: str) -> None: ...

    async def close(self, *, close_connection_pool: bool) -> None: ...


def test_attach_when_a_settings_class_is_only_imported_then_no_agent_starts(
    runtimes: FakeRuntimes,
) -> None:
    async def scenario() -> None:
        settings = settings_class()
        attach_to_worker_settings(settings)
        create_worker(settings)  # makes a loop of its own where none runs
        assert runtimes.leases == []

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["class", "dict", "worker"])
def test_attach_when_a_worker_of_the_target_runs_then_its_agent_starts_and_stops_with_it(
    runtimes: FakeRuntimes, kind: str
) -> None:
    async def scenario() -> None:
        target: Any = settings_class()
        if kind == "dict":
            target = get_kwargs(target)
        if kind == "worker":
            target = worker = create_worker(target)
            assert attach_to_worker_settings(target) is target
        else:
            assert attach_to_worker_settings(target) is target
            worker = create_worker(target)
        assert runtimes.leases == []
        await run(worker)
        (lease,) = runtimes.leases
        assert lease.seen_at_release == ["worker.online", "worker.offline"]
        # File work: not on the worker's loop.
        assert runtimes.threads[0] is not threading.current_thread()

    asyncio.run(scenario())


def test_attach_when_called_again_then_nothing_changes(runtimes: FakeRuntimes) -> None:
    async def scenario() -> None:
        adapter = ArqEngineAdapter()
        settings = settings_class()
        attach_to_worker_settings(settings, adapter=adapter)
        mark = settings.ctx
        attach_to_worker_settings(settings, adapter=ArqEngineAdapter())
        assert settings.ctx is mark
        await run(create_worker(settings))
        (lease,) = runtimes.leases
        assert list(lease.adapters) == [adapter]

    asyncio.run(scenario())


def test_attach_when_the_worker_starts_then_the_adapter_takes_what_it_was_not_given(
    runtimes: FakeRuntimes,
) -> None:
    adapter = ArqEngineAdapter()
    assert adapter.capabilities() == ()
    assert adapter.endpoint is None

    def loads(raw: bytes) -> dict[str, Any]:
        raise AssertionError(raw)

    async def scenario() -> None:
        settings = settings_class(queue_name="mine", job_deserializer=loads, expires_extra_ms=5)
        attach_to_worker_settings(settings, adapter=adapter)
        worker = create_worker(settings)
        adapter.use_worker(worker)
        assert adapter.known_queues() == ("mine",)
        assert "retry_by_reference_v1" in adapter.capabilities()
        assert adapter.endpoint is not None
        assert adapter.endpoint.hosts == (("192.0.2.1", 7),)
        assert adapter.broker.codec.deserializer is loads
        assert adapter.broker.codec.expires_extra_ms == 5

    asyncio.run(scenario())


def test_attach_when_the_user_has_a_ctx_then_the_worker_gets_that_very_object(
    runtimes: FakeRuntimes,
) -> None:
    async def scenario() -> None:
        mine = {"db": object()}
        settings = settings_class(ctx=mine)
        attach_to_worker_settings(settings)
        assert create_worker(settings).ctx is mine
        assert dict(settings.ctx) == mine

        bare = settings_class()
        attach_to_worker_settings(bare)
        assert create_worker(bare).ctx == {}

    asyncio.run(scenario())


def test_attach_when_settings_are_passed_by_hand_then_the_worker_is_recognised(
    runtimes: FakeRuntimes,
) -> None:
    async def scenario() -> None:
        settings = settings_class()
        attach_to_worker_settings(settings)
        await run(
            Worker(
                functions=settings.functions,
                redis_settings=settings.redis_settings,
                handle_signals=False,
            )
        )
        assert len(runtimes.leases) == 1

    asyncio.run(scenario())


def test_attach_when_another_settings_class_runs_then_it_has_no_agent(
    runtimes: FakeRuntimes,
) -> None:
    async def scenario() -> None:
        shared = [job]
        attach_to_worker_settings(settings_class(functions=shared, queue_name="high"))
        await run(create_worker(settings_class(functions=shared, queue_name="low")))
        await run(create_worker(settings_class(functions=[other])))
        assert runtimes.leases == []

    asyncio.run(scenario())


def test_attach_when_several_workers_of_one_target_run_then_each_holds_a_lease(
    runtimes: FakeRuntimes,
) -> None:
    async def scenario() -> None:
        settings = settings_class()
        attach_to_worker_settings(settings)
        await asyncio.gather(run(create_worker(settings)), run(create_worker(settings)))
        assert len(runtimes.leases) == 2
        assert all(lease.seen_at_release is not None for lease in runtimes.leases)

    asyncio.run(scenario())


def test_attach_when_the_configuration_is_wrong_then_the_worker_does_not_start(
    runtimes: FakeRuntimes,
) -> None:
    async def scenario() -> None:
        settings = settings_class()
        attach_to_worker_settings(settings)
        runtimes.error = ConfigError("token: is missing")
        worker = create_worker(settings)
        with pytest.raises(ConfigError, match="token"):
            await worker.main()
        await worker.close()  # as Worker.run does

    asyncio.run(scenario())


def test_attach_when_the_worker_is_stopped_while_its_agent_starts_then_the_lease_is_released(
    runtimes: FakeRuntimes,
) -> None:
    async def scenario() -> None:
        entered, go_on = threading.Event(), threading.Event()
        ensure = runtimes.ensure_runtime

        def slowly(**arguments: Any) -> FakeLease:
            entered.set()
            assert go_on.wait(10)
            return ensure(**arguments)

        runtimes.ensure_runtime = slowly  # type: ignore[method-assign]
        settings = settings_class()
        attach_to_worker_settings(settings)
        worker = create_worker(settings)
        task = asyncio.create_task(worker.main())
        while not entered.is_set():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await worker.close()
        (lease,) = runtimes.leases
        assert lease.seen_at_release is not None

    asyncio.run(scenario())


def test_attach_when_the_target_is_something_else_then_it_says_what_it_wants() -> None:
    with pytest.raises(ConfigError, match="settings class, a settings dict or an arq Worker"):
        attach_to_worker_settings(42)


def test_attach_when_official_arguments_are_given_then_they_are_accepted(
    runtimes: FakeRuntimes,
) -> None:
    settings = settings_class()
    attach_to_worker(settings, capture=object(), adapter=None, queue=object(), loop=object())
    assert hooks.listener is not None


def test_signature_when_the_worker_class_is_wrapped_then_arq_still_reads_its_settings(
    runtimes: FakeRuntimes,
) -> None:
    attach_to_worker_settings(settings_class())
    parameters = inspect.signature(Worker).parameters
    assert {"functions", "queue_name", "cron_jobs", "redis_settings", "ctx"} <= set(parameters)


def test_names_when_taken_from_the_engine_package_then_they_are_the_same() -> None:
    assert engine.attach_to_worker_settings is attach_to_worker_settings
    assert engine.attach_to_worker is attach_to_worker_settings
    assert engine.ArqEngineAdapter is ArqEngineAdapter
    assert set(engine.__all__) <= set(dir(engine))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = engine.nonsense  # type: ignore[attr-defined]
