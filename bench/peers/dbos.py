"""The order saga on DBOS: a workflow in an application's process, its steps there too or behind HTTP services.

Run `python -m bench.peers.dbos application NUMBER PORT`, `service NAME PORT` or `drive ...` in the peers' environment.
`PEER_POSTGRES` is the database; `PEER_SERVICES`, if set, has the services' ports, in the order of the steps;
`PEER_APPLICATIONS` has the addresses where orders are placed.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import uvloop
from aiohttp import web
from dbos import DBOS, SetWorkflowID

from bench.peers.over_http import drive_over_http
from bench.peers.shop import SERVICES, STEPS, Ledger, Order, Outcome, Rejected

CONNECTIONS = 16
"""A process's connections to PostgreSQL, and its threads that use them."""
CONFLICT = 409

PORTS = dict(zip(STEPS, os.environ.get("PEER_SERVICES", "").split(), strict=False))
ledgers = {step: Ledger() for step in STEPS}
sessions: list[aiohttp.ClientSession] = []


async def _ask(step: str, what: str, order: Order) -> int:
    async with sessions[0].post(f"http://127.0.0.1:{PORTS[step]}/{what}", json=order) as response:
        if response.status == CONFLICT:
            raise Rejected(await response.text())
        response.raise_for_status()
        return int(await response.text())


async def _do(step: str, order: Order) -> int:
    return await _ask(step, "do", order) if PORTS else STEPS[step][1](ledgers[step], order)


async def _undo(step: str, order: Order) -> None:
    if PORTS:
        await _ask(step, "undo", order)
    else:
        ledgers[step].undo(order)


def _steps(step: str) -> tuple[Callable[[Order], Awaitable[int]], Callable[[Order], Awaitable[None]]]:
    @DBOS.step(name=step)
    async def do(order: Order) -> int:
        return await _do(step, order)

    @DBOS.step(name=f"undo {step}")
    async def undo(order: Order) -> None:
        await _undo(step, order)

    return do, undo


steps = {step: _steps(step) for step in STEPS}


@DBOS.workflow()
async def place_order(order: Order) -> Outcome:
    """The steps in their order; if one says no, the compensations of those that were done."""
    done: list[str] = []
    try:
        number = 0
        for step in STEPS:
            number = await steps[step][0](order)
            done.append(step)
        return Outcome(parcel=number, undone=[])
    except Rejected:
        for step in reversed(done):
            await steps[step][1](order)
        return Outcome(parcel=0, undone=done)


def application(number: str, port: str) -> None:
    """Run the workflows of one process; each has a number of its own, and a connection for each of its threads."""
    DBOS(
        config={
            "name": "shop",
            "executor_id": number,
            "application_version": "1",
            "system_database_url": os.environ["PEER_POSTGRES"],
            "sys_db_pool_size": CONNECTIONS,
            "db_engine_kwargs": {"pool_pre_ping": False},
            "log_level": "WARNING",
        }
    )
    DBOS.launch()

    async def start(_: web.Application) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CONNECTIONS))
        sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))

    async def place(request: web.Request) -> web.Response:
        order: Order = await request.json()
        with SetWorkflowID(order["order_id"]):
            return web.json_response(await place_order(order))

    app = web.Application()
    app.on_startup.append(start)
    app.add_routes([web.post("/place", place)])
    _run(app, port)


def serve(name: str, port: str) -> None:
    """Serve one service over HTTP."""
    step, ledger = SERVICES[name], Ledger()

    async def answer(request: web.Request) -> web.Response:
        try:
            return web.Response(text=str(STEPS[step][1](ledger, await request.json())))
        except Rejected as error:
            return web.Response(status=CONFLICT, text=str(error))

    async def compensate(request: web.Request) -> web.Response:
        ledger.undo(await request.json())
        return web.Response(text="0")

    app = web.Application()
    app.add_routes([web.post("/do", answer), web.post("/undo", compensate)])
    _run(app, port)


def _run(app: web.Application, port: str) -> None:
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None, loop=uvloop.new_event_loop())


def main(role: str, *arguments: str) -> None:
    """Play the role that the command line names."""
    match role:
        case "application":
            application(*arguments)
        case "service":
            serve(*arguments)
        case "drive":
            uvloop.run(drive_over_http(os.environ["PEER_APPLICATIONS"].split(), arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
