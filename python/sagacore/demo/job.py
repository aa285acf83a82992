"""The whole run: set up, start, place, stop, audit, report."""

import asyncio
import contextlib
import json
import logging
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import uvloop
from rich.console import Console

from sagacore import Client, Saga, SagacoreError

from .contention import job as contention
from .contention.load import Figures
from .failure import DemoFailed
from .fleet import Fleet
from .kills import plan_kills
from .ledger import audit
from .options import DemoOptions
from .placing import Placing
from .plant import local_endpoint, ready, role_of, start_shop
from .progress import show_on
from .report import print_report
from .result import Result
from .shop.contracts import Order, Scheduled
from .shop.customers import CENTS_MAX, QUANTITY_MAX, incoming_orders
from .shop.saga import place_order, place_order_diamond
from .shop.tables import open_shop

FAILED = 1
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""The exit status of a run that was stopped, as shells have it."""
PATIENCE_S = 60.0
"""The client waits so long for a broker that is away: longer than any restart takes."""
SETTLE_S = 0.8
"""After the last outcome the processes go on for so long: what comes too late shall be seen, and counters arrive."""


def run(options: DemoOptions) -> int:
    """Run the demo and return its exit status: 0 if every order ended and the books are right."""
    console = Console()
    folder = _folder(options, console)
    if folder is None:
        return FAILED
    keep = options.keep is not None
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if options.contention:
                figures = runner.run(_contend_in(folder, options, console))
                keep |= not contention.passed(figures)
                contention.report(figures, console)
                if options.json:
                    console.file.write(json.dumps(contention.as_json(figures)) + "\n")
                return 0 if contention.passed(figures) else FAILED
            result = runner.run(_run_in(folder, options, console))
    except DemoFailed as failed:
        keep = True
        _print_failure(failed, console)
        console.print(f"stores and logs are in {folder}", highlight=False, soft_wrap=True)
        return FAILED
    except (KeyboardInterrupt, asyncio.CancelledError) as stopped:
        console.print("stopped before the end", style="yellow")
        return INTERRUPTED if isinstance(stopped, KeyboardInterrupt) else TERMINATED
    else:
        keep |= not result.passed
        print_report(result, console)
        if keep:
            console.print(f"stores and logs are in {folder}", highlight=False, soft_wrap=True)
        if options.json:
            console.file.write(json.dumps(result.as_json()) + "\n")
        return 0 if result.passed else FAILED
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _stop_on_signal() -> None:
    running = asyncio.current_task()
    if running is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)  # as Ctrl-C: tidy up, then end


async def _contend_in(folder: Path, options: DemoOptions, console: Console) -> Figures:
    _stop_on_signal()
    return await contention.contend(folder, options, console)


async def _run_in(folder: Path, options: DemoOptions, console: Console) -> Result:
    _stop_on_signal()
    orders = list(incoming_orders(options.orders, reject=options.reject, seed=options.seed))
    await asyncio.to_thread(
        open_shop,
        folder,
        pieces_per_sku=options.orders * QUANTITY_MAX,
        cents_per_customer=options.orders * CENTS_MAX,
    )
    saga = place_order if options.shape == "chain" else place_order_diamond
    console.print(f"placing {options.orders:,} orders with four services, in {folder}", highlight=False, soft_wrap=True)
    with local_endpoint(options.shards) as endpoint, Fleet(folder) as fleet, _own_log(fleet.logs / "client.log"):
        placing = await _place(saga, orders, options, fleet=fleet, endpoint=endpoint, console=console)
    violations = await asyncio.to_thread(audit, folder, orders, placing.told)
    return Result(
        options=options,
        completed=placing.completed,
        compensated=placing.compensated,
        violations=placing.violations + violations,
        elapsed_s=placing.elapsed_s,
        latencies_ms=placing.latencies_ms,
        messages=placing.counters.messages,
        plan_messages=saga.plan.messages,
        kills=placing.kills,
        longest_pause_ms=placing.longest_pause_ms,
        coordinator=placing.counters.coordinator,
    )


async def _place(
    saga: Saga[Order, Scheduled],
    orders: list[Order],
    options: DemoOptions,
    *,
    fleet: Fleet,
    endpoint: str,
    console: Console,
) -> Placing:
    roles = start_shop(
        fleet,
        endpoint,
        durability=options.durability,
        visibility=options.visibility,
        coordinators=options.coordinators,
        slots=options.slots,
        workers=options.workers,
    )
    if options.durability == "memory" and options.kill:
        console.print("the broker is not killed: with durability memory it promises to keep nothing", style="dim")
        roles = [role for role in roles if role_of(role[0]) != "broker"]
    kills = plan_kills(options.kill, options.orders, roles)
    try:
        async with Client(endpoint, timeout=PATIENCE_S) as client:
            await ready(client, fleet)
            with contextlib.closing(show_on(console, options.orders)) as show:
                placing = Placing(fleet=fleet, client=client, show=show, kills=kills)
                await placing.place(saga, orders, in_flight=options.in_flight)
            await asyncio.sleep(SETTLE_S)
            await placing.sample()
            return placing
    except SagacoreError as error:
        raise DemoFailed(error.message, hint=error.hint, tail=fleet.tail(fleet.names()[0])) from error


@contextlib.contextmanager
def _own_log(path: Path) -> Iterator[None]:
    """What the client in this process has to say goes to a file too, and not between the lines of the display."""
    log = logging.getLogger("sagacore")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s client %(levelname)s %(name)s: %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def _folder(options: DemoOptions, console: Console) -> Path | None:
    if options.keep is None:
        return Path(tempfile.mkdtemp(prefix="sagacore-demo-"))
    folder = options.keep.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        console.print(f"the folder {folder} is not empty", style="bold red", highlight=False, soft_wrap=True)
        console.print("hint: --keep takes a folder that is empty or not there yet, so that nothing is overwritten")
        return None
    return folder


def _print_failure(failed: DemoFailed, console: Console) -> None:
    if failed.tail:
        console.print(failed.tail, style="dim", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{failed}", style="bold red", highlight=False, markup=False, soft_wrap=True)
    console.print(f"hint: {failed.hint}", highlight=False, markup=False, soft_wrap=True)
