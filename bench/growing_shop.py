"""Services and sagas of any number and length, and the process that runs several services: `ENDPOINT NAME...`.

All steps do nothing, so that what grows is the engine's.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from sagacore import Saga, Service
from sagacore.demo.shop.contracts import Order
from sagacore.processes.run import run
from sagacore.processes.service import ServiceOptions, ServiceProcess
from sagacore.steps import Step

CHAIN_SERVICES = 4
"""A chain goes round these, whatever its length."""
STEPS_MAX = 64
SERVICES_MAX = 64


class Done(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A step was there."""

    number: int


DONE = Done(1)
services = [Service(f"service-{number}") for number in range(SERVICES_MAX)]


def _declare(service: Service, name: str) -> Step[Order, Done]:
    step = service.step(name, input=Order, output=Done, needs=[], result_bytes=16)

    @step.action
    def _(order: Order) -> Done:
        return DONE

    @step.compensation
    def _(order: Order, done: Done | None) -> None:
        pass

    return step


steps = [
    [
        _declare(service, f"step-{place}-{number}")
        for number in range(STEPS_MAX // CHAIN_SERVICES if place < CHAIN_SERVICES else 1)
    ]
    for place, service in enumerate(services)
]
"""By service."""


def chain(length: int, name: str = "chain", first_service: int = 0) -> Saga[Order, Any]:
    """A saga of so many steps, which go round four services."""
    saga: Saga[Order, Any] = Saga(f"{name}-{length}", Order, deadline=600, input_bytes=96)
    for place in range(length):
        saga = saga.then(steps[first_service + place % CHAIN_SERVICES][place // CHAIN_SERVICES])
    return saga


def main(endpoint: str, names: Sequence[str]) -> int:
    """Serve these services until the process is asked to end."""

    async def serve(stop: asyncio.Event) -> int:
        processes = [
            ServiceProcess(service, ServiceOptions(endpoint=endpoint)) for service in services if service.name in names
        ]
        for process in processes:
            process.open()
        await asyncio.gather(*(process.serve(stop) for process in processes))
        for process in processes:
            await process.close()
        return 0

    return run(serve, names[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
