"""The whole run against the shop: lay, start, hurt, heal, stop, audit, report."""

import asyncio
import json
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console

from sagacore.demo.failure import DemoFailed
from sagacore.demo.ledger import Violation, audit
from sagacore.demo.shop.customers import CENTS_MAX, QUANTITY_MAX
from sagacore.demo.shop.tables import open_shop

from .events import Events, recoveries
from .injector import Injector
from .journal import Story, read_journal
from .options import ChaosOptions
from .placing import orders_below
from .result import Result, print_result
from .rhythm import plan_faults
from .shop import KINDS, TARGETS, Shop

FAILED: Final = 1
INTERRUPTED: Final = 128 + signal.SIGINT
TERMINATED: Final = 128 + signal.SIGTERM
START_S: Final = 30.0
"""The first order has ended after so long."""
HEAL_S: Final = 60.0
"""All has ended so long after faults and orders: a saga's deadline is 30 s, and what it then undoes takes no longer."""
SETTLE_S: Final = 1.0
"""What comes too late shall be seen."""
WATCH_S: Final = 0.05
RESTART_S: Final = 0.5
"""A process that ends by itself is started again at most so often."""
SPACE_S: Final = 5.0
"""So long after the disk was full, a broker may still end for want of space."""
NO_SPACE: Final = (2, 74)
"""What it ends with then: it cannot start, or its log has failed."""


def run(options: ChaosOptions) -> int:
    """Run the chaos and return its exit status: 0 if everything ended and the books are right."""
    console = Console(quiet=options.json)
    folder = _folder(options)
    keep = options.keep is not None
    try:
        result = asyncio.run(_run_in(folder, options, console))
        keep |= not result.passed
        print_result(result, console)
        print(json.dumps(result.as_json()))  # noqa: T201 (it is what the command is for)
        return 0 if result.passed else FAILED
    except DemoFailed as failed:
        keep = True
        console.quiet = False
        for text in (failed.tail, str(failed), f"hint: {failed.hint}"):
            console.print(text, highlight=False, markup=False, soft_wrap=True)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except asyncio.CancelledError:
        return TERMINATED
    finally:
        if keep:
            console.print(f"stores and logs are in {folder}", highlight=False, soft_wrap=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


async def _run_in(folder: Path, options: ChaosOptions, console: Console) -> Result:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # as Ctrl-C: tidy up, then end
    count = int((options.seconds + HEAL_S + START_S) * options.rate) + 1
    open_shop(folder, pieces_per_sku=count * QUANTITY_MAX, cents_per_customer=count * CENTS_MAX)
    shop = Shop(folder, options)
    with shop.open():
        _say_what_is_left_out(shop, console)
        chaos = Chaos(shop, console)
        await chaos.run()
    story = read_journal(folder / "told.jsonl")
    violations = await asyncio.to_thread(audit, folder, orders_below(story.placed, options.seed), story.told)
    return _result(shop, chaos, story, violations)


def _result(shop: Shop, chaos: "Chaos", story: Story, violations: list[Violation]) -> Result:
    events = chaos.events
    return Result(
        seed=shop.options.seed,
        seconds=chaos.seconds,
        events=events,
        started=story.placed,
        completed=story.completed,
        compensated=len(story.told) - story.completed,
        not_ended=story.placed - len(story.told),
        violations=[*chaos.violations, *story.violations, *violations],
        recoveries=recoveries(events.ends, story.orders_s),
        healed_s=chaos.healed_s,
        waiting_max=story.waiting_max,
        refused_while_full=sum(story.refused_between(*span) for span in events.full_s),
        ended_while_full=sum(begin_s <= end_s < to_s for begin_s, to_s in events.full_s for _, end_s in story.orders_s),
        left_out={str(fault): why for fault, why in shop.left_out.items()},
        namespaces=shop.lan is not None,
    )


class Chaos:
    """The hurting and the healing."""

    def __init__(self, shop: Shop, console: Console) -> None:
        self.events = Events()
        self.violations: list[Violation] = []
        self.seconds = 0.0
        self.healed_s = 0.0
        self._shop = shop
        self._console = console
        self._began_s = time.monotonic()
        self._injector = Injector(shop, self.events, self._tell, lan=shop.lan, disk=shop.disk, pages=shop.pages)

    async def run(self) -> None:
        """Start everything, make all faults, and wait until all has ended. Raises DemoFailed, OSError of the tools."""
        options, shop = self._shop.options, self._shop
        shop.start()
        await self._first_order()
        self._began_s = time.monotonic()
        plan = plan_faults(options.seed, options.seconds, KINDS, shop.faults, TARGETS)
        watching = asyncio.create_task(self._watch())
        try:
            await self._injector.run(plan)
            await asyncio.sleep(max(0.0, self._began_s + options.seconds - time.monotonic()))
            self.seconds = time.monotonic() - self._began_s
            self._tell("healing: no more faults, no more orders")
            shop.finish()
            await self._until_all_ended(time.monotonic())
            await asyncio.sleep(SETTLE_S)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _first_order(self) -> None:
        give_up_s = time.monotonic() + START_S
        while not read_journal(self._shop.folder / "told.jsonl").told:
            for name, status, tail in self._shop.died():
                raise DemoFailed(f"{name} ended with status {status} at its start", hint="see above", tail=tail)
            if time.monotonic() > give_up_s:
                raise DemoFailed(
                    f"no order has ended in {START_S:.0f} s", hint=f"see the logs in {self._shop.folder / 'logs'}"
                )
            await asyncio.sleep(0.1)

    async def _until_all_ended(self, began_s: float) -> None:
        while self._shop.status("client") != 0:
            if time.monotonic() > began_s + HEAL_S:
                text = f"not all had ended after {HEAL_S:.0f} s"
                self.violations.append(Violation("not-ended", "healing", text))
                break
            await asyncio.sleep(WATCH_S)
        self.healed_s = time.monotonic() - began_s

    async def _watch(self) -> None:
        """No process may end by itself, but a broker that finds no space: whoever runs it starts it again."""
        while True:
            await asyncio.sleep(WATCH_S)
            for died in list(self._shop.died()):
                if self._injector.is_stopping(died.name) or (died.name == "client" and died.status == 0):
                    continue
                if died.name == "broker" and died.status in NO_SPACE and self._is_short_of_space():
                    self.events.brokers_out_of_space += 1
                else:
                    self.violations.append(Violation("died", died.name, f"status {died.status}: {died.tail[-300:]}"))
                self._tell(f"{died.name} ended by itself with status {died.status}; started again")
                self._shop.start_again(died.name)
                await asyncio.sleep(RESTART_S)

    def _is_short_of_space(self) -> bool:
        return self._injector.is_full or any(time.monotonic() < to_s + SPACE_S for _, to_s in self.events.full_s)

    def _tell(self, text: str) -> None:
        self._console.print(f"{time.monotonic() - self._began_s:7.1f} s  {text}", highlight=False, markup=False)


def _say_what_is_left_out(shop: Shop, console: Console) -> None:
    network = "network namespaces" if shop.lan else "loopback"
    console.print(f"the shop runs on {network}, in {shop.folder}, seed {shop.options.seed}", highlight=False)
    for fault, why in shop.left_out.items():
        console.print(f"not made here: {fault} ({why})", style="yellow", highlight=False, markup=False)
    if shop.lan and not shop.lan.has_netem and "delay" in shop.faults:
        console.print("delay: this kernel has no netem, so lines are made narrow instead", style="yellow")


def _folder(options: ChaosOptions) -> Path:
    if options.keep is None:
        return Path(tempfile.mkdtemp(prefix="sagacore-chaos-"))
    options.keep.mkdir(parents=True, exist_ok=False)
    return options.keep.absolute()
