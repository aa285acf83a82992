"""The order saga on Restate: a handler that calls the four services, or that runs their steps itself.

Run `python -m bench.peers.restate checkout PORT`, `service NAME PORT`, `in-process PORT` or `drive ...` in the peers'
environment; `PEER_INGRESS` is where sagas are started.
"""

import os
import sys
from collections.abc import Awaitable, Callable

import restate
import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from bench.peers.over_http import drive_over_http
from bench.peers.shop import STEPS, Ledger, Order, Outcome, Rejected

REJECTED = 409
ledgers = {service: Ledger() for service, _ in STEPS.values()}
services = {service: restate.Service(service) for service, _ in STEPS.values()}

Call = Callable[[restate.Context, str, Order], Awaitable[int]]


def _do(step: str, order: Order) -> int:
    service, work = STEPS[step]
    try:
        return work(ledgers[service], order)
    except Rejected as error:
        raise restate.TerminalError(str(error), status_code=REJECTED) from error


def _undo(step: str, order: Order) -> int:
    ledgers[STEPS[step][0]].undo(order)
    return 0


def _handlers(step: str) -> tuple[Callable[..., Awaitable[int]], Callable[..., Awaitable[int]]]:
    service = services[STEPS[step][0]]

    @service.handler("do")
    async def do(_: restate.Context, order: Order) -> int:
        return _do(step, order)

    @service.handler("undo")
    async def undo(_: restate.Context, order: Order) -> int:
        return _undo(step, order)

    return do, undo


handlers = {step: _handlers(step) for step in STEPS}


async def _saga(ctx: restate.Context, order: Order, do: Call, undo: Call) -> Outcome:
    """The saga as Restate's guide writes it: compensations are gathered before each step, and run if one says no."""
    done: list[str] = []
    try:
        number = 0
        for step in STEPS:
            number = await do(ctx, step, order)
            done.append(step)
        return Outcome(parcel=number, undone=[])
    except restate.TerminalError:
        side_by_side = [undo(ctx, step, order) for step in done if step != "create"]
        for undoing in side_by_side:
            await undoing
        if "create" in done:
            await undo(ctx, "create", order)
        return Outcome(parcel=0, undone=done)


checkout = restate.Service("checkout")


@checkout.handler("place")
async def place_over_services(ctx: restate.Context, order: Order) -> Outcome:
    """Each step is a call of the service that owns it."""
    return await _saga(
        ctx,
        order,
        lambda ctx, step, order: ctx.service_call(handlers[step][0], order),
        lambda ctx, step, order: ctx.service_call(handlers[step][1], order),
    )


in_process = restate.Service("checkout")


@in_process.handler("place")
async def place_in_process(ctx: restate.Context, order: Order) -> Outcome:
    """Each step is a side effect of this handler, noted in its journal."""
    return await _saga(
        ctx,
        order,
        lambda ctx, step, order: ctx.run_typed(step, lambda: _do(step, order)),
        lambda ctx, step, order: ctx.run_typed(f"undo {step}", lambda: _undo(step, order)),
    )


async def serve(service: restate.Service, port: str) -> None:
    """Serve one Restate service over HTTP/2."""
    app = restate.app(services=[service])
    server = Server(app, address="127.0.0.1", port=int(port), interface=Interfaces.ASGI, http=HTTPModes.http2)
    await server.serve()


async def main(role: str, *arguments: str) -> None:
    """Play the role that the command line names."""
    match role, arguments:
        case "checkout", (port,):
            await serve(checkout, port)
        case "in-process", (port,):
            await serve(in_process, port)
        case "service", (name, port):
            await serve(services[name], port)
        case "drive", _:
            await drive_over_http([f"{os.environ['PEER_INGRESS']}/checkout/place"], arguments)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
