"""Places the orders, kills processes on the way, and notes how everything ended."""

import asyncio
import contextlib
import time
from array import array
from collections import Counter
from collections.abc import Sequence

from sagacore import Client, Compensated, Completed, Ended, Saga, SagacoreError

from .counters import Counters
from .failure import DemoFailed
from .fleet import Fleet
from .kills import Kill
from .ledger import Told, Violation
from .plant import role_of
from .progress import Show
from .shop.contracts import Order, Scheduled

STALL_S = 90.0
"""No order has ended for so long, which is three times a saga's deadline: nothing will."""
WATCH_S = 0.25
"""The processes are looked at, and the display is moved, this often."""
SAMPLE_S = 1.0
"""The broker's counters are read this often."""


class Placing:
    """One run through all orders."""

    def __init__(self, *, fleet: Fleet, client: Client, show: Show, kills: Sequence[Kill]) -> None:
        self.told: dict[str, Told] = {}
        self.completed = 0
        self.compensated: Counter[str] = Counter()
        self.latencies_ms = array("d")
        self.kills: Counter[str] = Counter()
        self.longest_pause_ms = 0.0
        self.elapsed_s = 0.0
        self.violations: list[Violation] = []
        self.counters = Counters()
        self._fleet = fleet
        self._client = client
        self._show = show
        self._kills_left = list(reversed(kills))
        self._started_s = self._last_ended_s = time.monotonic()

    async def place(self, saga: Saga[Order, Scheduled], orders: Sequence[Order], *, in_flight: int) -> None:
        """Place all orders and wait for them to end, or until nothing has ended for STALL_S.

        Raises `DemoFailed` if a process died by itself.
        """
        self._started_s = self._last_ended_s = time.monotonic()
        placing = asyncio.create_task(self._consume(saga, orders, in_flight))
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait((placing, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (placing, watching):
                task.cancel()
            results = await asyncio.gather(placing, watching, return_exceptions=True)
        self.elapsed_s = self._last_ended_s - self._started_s
        self._show_progress()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def sample(self) -> None:
        """Read the counters of broker and coordinators, if the broker answers."""
        with contextlib.suppress(SagacoreError, TimeoutError):
            self.counters.observe(await asyncio.wait_for(self._client.stats(), 5))

    async def _consume(self, saga: Saga[Order, Scheduled], orders: Sequence[Order], in_flight: int) -> None:
        ended_orders = self._client.start_many(saga, orders, in_flight=in_flight, key=_key)
        async for ended in ended_orders:
            self._note(ended)
            while self._kills_left and len(self.told) >= self._kills_left[-1].after_ended:
                await self._kill(self._kills_left.pop().process)

    def _note(self, ended: Ended[Scheduled]) -> None:
        now_s = time.monotonic()
        if self.kills:
            self.longest_pause_ms = max(self.longest_pause_ms, (now_s - self._last_ended_s) * 1_000)
        self._last_ended_s = now_s
        if ended.key in self.told:
            self.violations.append(Violation("told-twice", ended.key, "the client was told twice how it ended"))
            return
        self.latencies_ms.append(ended.latency_ms)
        match ended.outcome:
            case Completed():
                self.completed += 1
                self.told[ended.key] = Told(completed=True)
            case Compensated() as outcome:
                self.compensated[in_words(outcome)] += 1
                rejected_step = outcome.step if outcome.cause == "rejected" else None
                self.told[ended.key] = Told(completed=False, rejected_step=rejected_step)

    async def _kill(self, name: str) -> None:
        await self.sample()  # what this process has counted dies with it
        pid = self._fleet.pid(name)
        self._fleet.kill_and_restart(name)
        self.kills[role_of(name)] += 1
        self._show.note(f"kill -9 of {name} (process {pid}) after {len(self.told):,} orders; started again")

    async def _watch(self) -> None:
        sampled_s = time.monotonic()
        while time.monotonic() - self._last_ended_s < STALL_S:
            await asyncio.sleep(WATCH_S)
            self._show_progress()
            for name, status, tail in self._fleet.died():
                raise DemoFailed(
                    f"{name} ended by itself, with status {status}",
                    hint="its last lines are above; nothing but the demo's own kills should end a process",
                    tail=tail,
                )
            if time.monotonic() - sampled_s > SAMPLE_S:
                sampled_s = time.monotonic()
                await self.sample()
        self._show.note(f"no order has ended for {STALL_S:.0f} s: giving up on the rest")

    def _show_progress(self) -> None:
        self._show.update(completed=self.completed, compensated=self.compensated.total())


def in_words(outcome: Compensated) -> str:
    """Why an order was compensated, for the report."""
    step = outcome.step or "the saga"
    match outcome.cause:
        case "rejected":
            return f"{step} rejected it ({outcome.reason})"
        case "gave-up":
            return f"{step} gave up"
        case "deadline":
            return "its deadline passed"
        case "cancelled":
            return "it was cancelled"
        case "delivery-limit":
            return f"nobody answered for {step}"
        case "victim":
            return "it gave way to others that it waited for in a circle"


def _key(order: Order) -> str:
    return order.order_id
