from __future__ import annotations

import asyncio

import pytest
from support.taskiq_kit import Context, InPlaceBroker, RecordingSink, attachment_to
from taskiq import InMemoryBroker

from z4j_fastapi.engines.base import COMMAND_METHODS
from z4j_fastapi.engines.taskiq.adapter import TaskiqEngineAdapter
from z4j_fastapi.engines.taskiq.brokers import BrokerKind, kind_of
from z4j_fastapi.errors import CommandError, ConfigError
from z4j_fastapi.protocol.commands import BulkRetry, CancelTask, PurgeQueue, SubmitTask


def redis_like(name, **attributes):
    """A broker whose class looks like taskiq-redis's, which unit tests do not need."""
    cls = type(name, (InMemoryBroker,), {"__module__": "taskiq_redis.redis_broker"})
    broker = cls()
    broker.queue_name = "taskiq"
    broker.connection_pool = object()
    for key, value in attributes.items():
        setattr(broker, key, value)
    return broker


@pytest.mark.parametrize(
    ("names", "tokens"),
    [
        ([], ""),
        (["PubSubBroker"], "submit_task retry_task retry_by_reference_v1"),
        (
            ["ListQueueBroker"],
            "submit_task retry_task cancel_task purge_queue retry_by_reference_v1",
        ),
        (["RedisStreamBroker"], "submit_task retry_task cancel_task retry_by_reference_v1"),
        (
            ["RedisStreamBroker", "ListQueueBroker"],
            "submit_task retry_task cancel_task purge_queue retry_by_reference_v1",
        ),
    ],
)
def test_capabilities_when_brokers_are_of_a_kind_then_what_can_be_done(names, tokens):
    adapter = TaskiqEngineAdapter(brokers=[redis_like(name) for name in names])

    assert " ".join(adapter.capabilities()) == tokens


def test_capabilities_when_a_token_is_advertised_then_there_is_a_method_for_it():
    adapter = TaskiqEngineAdapter(broker=redis_like("ListQueueBroker"))
    advertised = set(adapter.capabilities()) - {"retry_by_reference_v1"}

    for action, (token, method) in COMMAND_METHODS.items():
        if token in advertised or action == "reconcile_task":
            assert callable(getattr(adapter, method)), action


def test_kind_when_a_user_subclasses_the_list_broker_then_still_a_list():
    broker = redis_like("ListQueueBroker")
    subclass = type("Mine", (type(broker),), {"__module__": "app.tasks"})
    mine = subclass()
    mine.connection_pool = object()

    assert kind_of(mine) is BrokerKind.LIST
    assert kind_of(InMemoryBroker()) is BrokerKind.OTHER
    assert kind_of(redis_like("ListQueueSentinelBroker")) is BrokerKind.OTHER


def test_brokers_when_given_twice_then_once():
    first, second = InMemoryBroker(), InMemoryBroker()
    adapter = TaskiqEngineAdapter(brokers=[first, second, first], broker=second)

    assert adapter.brokers == (first, second)


def test_constructor_when_it_is_no_broker_then_config_error_names_the_kwarg():
    with pytest.raises(ConfigError, match="taskiq_brokers: str is not a taskiq broker"):
        TaskiqEngineAdapter(brokers=["redis://localhost"])


def test_add_broker_when_attached_then_it_is_reported_too():
    sink = RecordingSink()
    adapter = TaskiqEngineAdapter()
    adapter.attach(attachment_to(sink))
    broker = InPlaceBroker()
    adapter.add_broker(broker, queue="named")

    @broker.task(task_name="late")
    async def late():
        return None

    async def scenario():
        await late.kiq()

    asyncio.run(scenario())
    assert sink.one("task.started").data["queue"] == "named"


def test_tasks_when_registered_then_name_module_queue_and_no_defaults():
    broker = redis_like("ListQueueBroker")
    adapter = TaskiqEngineAdapter(broker=broker)
    adapter.attach(attachment_to(RecordingSink()))

    @broker.task(task_name="billing:charge", queue_name="billing")
    async def charge(amount: int, *, token: str = "not-for-the-dashboard"):
        return amount

    @broker.task(task_name="plain")
    async def plain():
        return None

    found = {task.name: task for task in adapter.tasks()}
    adapter.detach()

    assert found["billing:charge"].queue == "billing"
    assert found["billing:charge"].module == __name__
    assert "amount" in found["billing:charge"].signature
    assert "not-for-the-dashboard" not in found["billing:charge"].signature
    assert found["plain"].queue == "taskiq"


def test_workers_when_this_process_executes_then_it_is_listed_under_its_event_name():
    sink = RecordingSink()
    broker = InPlaceBroker()
    adapter = TaskiqEngineAdapter(broker=broker)
    adapter.attach(attachment_to(sink))

    @broker.task(task_name="now")
    async def now():
        return dict(await adapter.workers())

    async def scenario():
        before = dict(await adapter.workers())
        sent = await now.kiq()
        return before, (await sent.wait_result(timeout=5)).return_value

    before, during = asyncio.run(scenario())

    assert before == {}
    name = sink.one("task.started").data["worker"]
    assert list(during) == [name]
    assert during[name].active == 1
    assert "now" in during[name].registered


def run_command(adapter, method, command, context=None):
    return asyncio.run(getattr(adapter, method)(command, context or Context()))


def test_commands_when_the_broker_cannot_be_asked_then_honest_failures():
    adapter = TaskiqEngineAdapter(broker=InMemoryBroker())

    with pytest.raises(CommandError, match="not_found"):
        run_command(adapter, "cancel_task", CancelTask(id="c", action="cancel_task", task_id="t"))
    with pytest.raises(CommandError, match="not_found"):
        run_command(adapter, "purge_queue", PurgeQueue(id="c", action="purge_queue", queue="q"))
    with pytest.raises(CommandError, match="unsupported"):
        run_command(adapter, "bulk_retry", BulkRetry(id="c", action="bulk_retry", task_ids=("t",)))


def test_submit_when_a_hook_fails_after_the_kick_then_indeterminate():
    from taskiq import TaskiqMiddleware

    class Late(TaskiqMiddleware):
        def post_send(self, message):
            raise RuntimeError("metrics are down")

    broker = InPlaceBroker()
    broker.add_middlewares(Late())
    adapter = TaskiqEngineAdapter(broker=broker)

    @broker.task(task_name="known")
    async def known():
        return None

    async def scenario():
        adapter.add_broker(broker, loop=asyncio.get_running_loop())
        command = SubmitTask(id="c", action="submit_task", task_name="known")
        with pytest.raises(CommandError, match="metrics are down") as failed:
            await adapter.submit_task(command, Context())
        return failed.value.indeterminate

    assert asyncio.run(scenario()) is True


def test_submit_when_the_connection_comes_back_then_sent_once():
    refused, sent = [], []

    class Flapping(InMemoryBroker):
        async def kick(self, message):
            if len(refused) < 2:
                refused.append(message.task_id)
                raise ConnectionRefusedError(111, "Connect call failed")
            sent.append(message.task_id)

    broker = Flapping()
    adapter = TaskiqEngineAdapter(broker=broker)

    @broker.task(task_name="known")
    async def known():
        return None

    async def scenario():
        adapter.add_broker(broker, loop=asyncio.get_running_loop())
        command = SubmitTask(id="c", action="submit_task", task_name="known")
        return (await adapter.submit_task(command, Context())).result["task_id"]

    task_id = asyncio.run(scenario())
    assert sent == [task_id]


def test_submit_when_a_connection_breaks_in_use_then_it_is_not_tried_again():
    kicks = []

    class Broken(InMemoryBroker):
        async def kick(self, message):
            kicks.append(message.task_id)
            raise ConnectionResetError("Connection closed by server")

    broker = Broken()
    adapter = TaskiqEngineAdapter(broker=broker)

    @broker.task(task_name="known")
    async def known():
        return None

    async def scenario():
        adapter.add_broker(broker, loop=asyncio.get_running_loop())
        command = SubmitTask(id="c", action="submit_task", task_name="known")
        with pytest.raises(CommandError) as failed:
            await adapter.submit_task(command, Context())
        return failed.value.indeterminate

    assert asyncio.run(scenario()) is True
    assert len(kicks) == 1
