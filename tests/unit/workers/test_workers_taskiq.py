from __future__ import annotations

import asyncio
import importlib
import threading
from types import SimpleNamespace

import pytest
from support.taskiq_kit import InPlaceBroker, RecordingSink, attachment_to
from taskiq import InMemoryBroker, TaskiqEvents

from z4j_fastapi.engines import taskiq as package
from z4j_fastapi.engines.taskiq.adapter import TaskiqEngineAdapter
from z4j_fastapi.errors import ConfigError
from z4j_fastapi.workers import taskiq as workers


class FakeAgent:
    """Stands in for `current.ensure_runtime`: one runtime, leases that are counted."""

    def __init__(self):
        self.sink = RecordingSink()
        self.engines = {}
        self.config = SimpleNamespace(shutdown_timeout=5)
        self.roles = []
        self.threads = []
        self.released = []
        self.error = None

    def ensure(self, *, adapters, worker_role):
        if self.error is not None:
            raise self.error
        self.roles.append(worker_role)
        self.threads.append(threading.current_thread())
        for adapter in adapters:
            if adapter.name not in self.engines:
                adapter.attach(attachment_to(self.sink))
                self.engines[adapter.name] = adapter
        return SimpleNamespace(runtime=self, arelease=self.arelease)

    async def arelease(self, timeout=None):
        self.released.append((timeout, self.sink.kinds("")))
        for adapter in self.engines.values():
            adapter.detach()
        self.engines = {}


@pytest.fixture
def agent(monkeypatch):
    agent = FakeAgent()
    current = importlib.import_module("z4j_fastapi.current")
    monkeypatch.setattr(current, "ensure_runtime", agent.ensure)
    monkeypatch.setattr(workers, "_agents", workers._WorkerAgents())
    return agent


@pytest.fixture
def broker():
    broker = InPlaceBroker()

    @broker.task(task_name="work")
    async def work():
        return None

    return broker


async def one_task(broker):
    await broker.find_task("work").kiq()


def run_worker(broker, *, tasks=1):
    async def scenario():
        broker.is_worker_process = True
        await broker.startup()
        for _ in range(tasks):
            await one_task(broker)
        await broker.shutdown()

    asyncio.run(scenario())


def test_attach_when_called_again_then_the_first_adapter_and_nothing_new(broker, agent):
    first = workers.attach_to_broker(broker)
    handlers = [list(handlers) for handlers in broker.event_handlers.values()]
    second = workers.attach_to_broker(broker, adapter=TaskiqEngineAdapter())

    assert second is first
    assert [list(handlers) for handlers in broker.event_handlers.values()] == handlers


def test_attach_when_an_adapter_is_given_then_it_gets_the_broker(broker, agent):
    adapter = TaskiqEngineAdapter()

    assert workers.attach_to_broker(broker, adapter=adapter) is adapter
    assert adapter.brokers == (broker,)


def test_attach_when_it_is_no_broker_then_config_error(agent):
    with pytest.raises(ConfigError, match="is not a taskiq broker"):
        workers.attach_to_broker("redis://localhost")


def test_attach_when_the_package_is_asked_then_the_same_function():
    assert package.attach_to_broker is workers.attach_to_broker
    assert "attach_to_broker" in dir(package)
    with pytest.raises(AttributeError):
        package.nothing  # noqa: B018


def test_worker_when_it_starts_then_an_agent_of_role_task_off_the_loop(broker, agent):
    workers.attach_to_broker(broker)

    run_worker(broker)

    assert agent.roles == ["task"]
    assert agent.threads[0] is not threading.main_thread()


def test_worker_when_it_stops_then_offline_was_recorded_before_the_release(broker, agent):
    workers.attach_to_broker(broker)

    run_worker(broker)

    assert agent.released == [(4.0, ["worker.online", "worker.offline"])]
    kinds = agent.sink.kinds()
    assert kinds[0] == "worker.online"
    assert kinds[-1] == "worker.offline"
    assert kinds.count("task.succeeded") == 1


def test_worker_when_the_user_stops_with_a_last_task_then_it_is_reported(broker, agent):
    """A shutdown handler that was registered after ours still runs before ours."""
    workers.attach_to_broker(broker)

    async def last_words(state):
        await one_task(broker)

    broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, last_words)

    run_worker(broker, tasks=0)

    assert agent.sink.kinds().count("task.succeeded") == 1


def test_worker_when_a_task_still_runs_at_the_stop_then_it_failed_before_offline(agent):
    broker = InMemoryBroker()
    never = asyncio.Event()

    @broker.task(task_name="endless")
    async def endless():
        await never.wait()

    workers.attach_to_broker(broker)

    async def scenario():
        broker.is_worker_process = True
        await broker.startup()
        sent = await endless.kiq()
        while "task.started" not in agent.sink.kinds(sent.task_id):
            await asyncio.sleep(0)
        await broker.shutdown()
        return sent.task_id

    task_id = asyncio.run(scenario())

    assert agent.sink.one("task.failed", task_id).data["exception_type"] == "WorkerStopped"
    assert agent.sink.kinds()[-2:] == ["task.failed", "worker.offline"]


def test_web_when_only_attached_then_no_agent_and_nothing_on_the_broker(broker, agent):
    workers.attach_to_broker(broker)

    async def scenario():
        await broker.startup()
        await one_task(broker)
        await broker.shutdown()

    asyncio.run(scenario())

    assert agent.roles == []
    assert broker.middlewares == []


def test_web_when_a_runtime_listens_to_the_broker_then_each_event_once(broker, agent):
    workers.attach_to_broker(broker)
    lifespans = TaskiqEngineAdapter(brokers=[broker])
    agent.ensure(adapters=[lifespans], worker_role="web")

    run_worker(broker)  # a worker inside the web process

    assert agent.sink.kinds().count("task.started") == 1
    assert agent.sink.kinds().count("worker.online") == 1


def test_worker_when_the_runtime_has_an_adapter_for_other_brokers_then_it_takes_this_one(
    broker, agent
):
    workers.attach_to_broker(broker)
    others = TaskiqEngineAdapter(brokers=[InPlaceBroker()])
    agent.ensure(adapters=[others], worker_role="web")

    run_worker(broker)

    assert broker in others.brokers
    assert agent.sink.kinds().count("task.started") == 1


def test_worker_when_other_brokers_were_attached_then_their_enqueues_are_seen(broker, agent):
    other = InPlaceBroker()

    @other.task(task_name="elsewhere")
    async def elsewhere():
        return None

    @broker.task(task_name="forward")
    async def forward():
        await elsewhere.kiq()

    workers.attach_to_broker(broker)
    workers.attach_to_broker(other)

    async def scenario():
        broker.is_worker_process = True
        await broker.startup()
        await forward.kiq()
        await broker.shutdown()

    asyncio.run(scenario())

    names = [
        event.data["task_name"] for event in agent.sink.events if event.kind.value == "task.sent"
    ]
    assert sorted(names) == ["elsewhere", "forward"]


def test_worker_when_the_configuration_is_wrong_then_its_start_fails(broker, agent):
    agent.error = ConfigError("token: missing")
    workers.attach_to_broker(broker)

    with pytest.raises(ConfigError, match="token: missing"):
        run_worker(broker)


def test_worker_when_started_again_in_the_same_process_then_a_new_lease(broker, agent):
    workers.attach_to_broker(broker)

    async def scenario():
        broker.is_worker_process = True
        for _ in range(2):
            await broker.startup()
            await one_task(broker)
            for handler in broker.event_handlers[TaskiqEvents.WORKER_SHUTDOWN]:
                await handler(broker.state)

    asyncio.run(scenario())

    assert agent.roles == ["task", "task"]
    assert agent.sink.kinds("").count("worker.online") == 2
