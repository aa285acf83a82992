"""The order saga on Temporal: a workflow whose steps are activities of four services, or local to its own worker.

Run `python -m bench.peers.temporal namespace`, `workflows`, `service NAME`, `in-process` or `drive ...` in the peers'
environment; `PEER_TEMPORAL` is the server's address, and `PEER_WORKFLOW` the workflow that is driven.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import uvloop
from google.protobuf.duration_pb2 import Duration
from temporalio import activity, workflow
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.worker import PollerBehaviorSimpleMaximum, UnsandboxedWorkflowRunner, Worker

from bench.peers.load import drive
from bench.peers.shop import STEPS, Ledger, Order, Outcome, Rejected

NAMESPACE = "shop"
WORKFLOWS = "workflows"
"""The task queue of the workflows; each service's activities have one with its name."""
TIMEOUT = timedelta(seconds=60)
POLLERS = PollerBehaviorSimpleMaximum(maximum=20)
AT_ONCE = 500
RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=100))

ledgers = {step: Ledger() for step in STEPS}


def _activities(step: str) -> tuple[Callable[[Order], Awaitable[int]], Callable[[Order], Awaitable[None]]]:
    @activity.defn(name=step)
    async def do(order: Order) -> int:
        try:
            return STEPS[step][1](ledgers[step], order)
        except Rejected as error:
            raise ApplicationError(str(error), type="Rejected", non_retryable=True) from error

    @activity.defn(name=f"undo-{step}")
    async def undo(order: Order) -> None:
        ledgers[step].undo(order)

    return do, undo


ACTIVITIES = {step: _activities(step) for step in STEPS}

Run = Callable[[str, str, Order], Awaitable[Any]]


async def _saga(run: Run, order: Order) -> Outcome:
    """The steps in their order; if one says no, what was done is compensated, side by side where nothing depends."""
    done: list[str] = []
    try:
        number = 0
        for step in STEPS:
            number = await run(step, step, order)
            done.append(step)
        return Outcome(parcel=number, undone=[])
    except FailureError:  # ActivityError, or from a local activity its cause itself
        await asyncio.gather(*(run(step, f"undo-{step}", order) for step in done if step != "create"))
        if "create" in done:
            await run("create", "undo-create", order)
        return Outcome(parcel=0, undone=done)


@workflow.defn
class OverServices:
    """Each step is an activity that the service's own worker runs."""

    @workflow.run
    async def run(self, order: Order) -> Outcome:
        async def run(step: str, name: str, order: Order) -> Any:
            return await workflow.execute_activity(
                name, order, task_queue=STEPS[step][0], start_to_close_timeout=TIMEOUT, retry_policy=RETRY
            )

        return await _saga(run, order)


@workflow.defn
class InProcess:
    """Each step is a local activity: it runs in the workflow's worker, and is noted with the workflow task."""

    @workflow.run
    async def run(self, order: Order) -> Outcome:
        async def run(step: str, name: str, order: Order) -> Any:
            _ = step
            return await workflow.execute_local_activity(
                name, order, start_to_close_timeout=TIMEOUT, retry_policy=RETRY
            )

        return await _saga(run, order)


async def work(queue: str, *, workflows: Sequence[type] = (), activities: Sequence[Callable[..., Any]] = ()) -> None:
    """Run a worker for ever."""
    logging.getLogger("temporalio.activity").setLevel(logging.ERROR)  # it would print each rejection with its stack
    worker = Worker(
        await _connect(),
        task_queue=queue,
        workflows=workflows,
        activities=activities,
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=5_000,
        max_concurrent_workflow_tasks=AT_ONCE,
        max_concurrent_activities=AT_ONCE,
        max_concurrent_local_activities=AT_ONCE,
        workflow_task_poller_behavior=POLLERS,
        activity_task_poller_behavior=POLLERS,
    )
    await worker.run()


async def _connect() -> Client:
    return await Client.connect(os.environ["PEER_TEMPORAL"], namespace=NAMESPACE)


async def make_namespace() -> None:
    """Make the namespace, and wait until the server knows it."""
    client = await Client.connect(os.environ["PEER_TEMPORAL"])
    retention = Duration(seconds=86_400)
    request = RegisterNamespaceRequest(namespace=NAMESPACE, workflow_execution_retention_period=retention)
    await client.workflow_service.register_namespace(request)
    known = await _connect()
    while True:
        try:
            await known.count_workflows()
            return
        except Exception:  # noqa: BLE001 (the server's caches have not seen it yet, and say so in several ways)
            await asyncio.sleep(0.5)


async def measure(arguments: Sequence[str]) -> None:
    """Place orders as a client, each a workflow with the order's id."""
    client = await _connect()
    name = os.environ["PEER_WORKFLOW"]

    async def place(order: Order) -> Outcome:
        outcome: Outcome = await client.execute_workflow(
            name, order, id=order["order_id"], task_queue=WORKFLOWS, result_type=Outcome
        )
        return outcome

    await drive(place, arguments)


async def main(role: str, *arguments: str) -> None:
    """Play the role that the command line names."""
    match role, arguments:
        case "namespace", ():
            await make_namespace()
        case "workflows", ():
            await work(WORKFLOWS, workflows=[OverServices])
        case "service", (name,):
            await work(
                name, activities=[a for step, both in ACTIVITIES.items() if STEPS[step][0] == name for a in both]
            )
        case "in-process", ():
            await work(WORKFLOWS, workflows=[InProcess], activities=[a for both in ACTIVITIES.values() for a in both])
        case "drive", _:
            await measure(arguments)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
