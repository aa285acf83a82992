"""Has something become worse? Three things that hold on any machine, however busy it is.

Throughput as a share of the bare pipeline's, which meets the same machine at the same time; messages a saga, which are
the plan's to the last one; and the coordinator's memory, which does not depend on how many sagas are in flight.
"""

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from sagacore import Saga
from sagacore.demo.shop.contracts import Order, Scheduled
from sagacore.demo.shop.saga import place_order

from .bare import pipeline
from .closed_loop import closed_loop
from .memory import park
from .plant import OrderBook, Plant, running

RATIO_FLOOR = 0.25
"""The least share of the bare pipeline's throughput, as the median of all turns: half of what a machine shows that has
ten other processes at work. To be raised with the product's speed."""
MESSAGES = place_order.plan.messages
MESSAGES_COMPENSATED = 11
"""Four RUNs, one abort and six messages to undo three steps, as `sagacore graph` counts them."""
MEMORY_GROWTH_MAX_BYTES = 1 << 20

TURNS = 7
TURN_SAGAS = 15_000
COMPENSATED_SAGAS = 1_000
IN_FLIGHT = 4_096
FEW, MANY = 1_000, 100_000
"""Sagas in flight between which the coordinator's memory is compared."""
SLOTS = 4_096
"""Fewer than sagas in flight: the coordinator has to spill."""
SETTLE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the gate has measured."""

    ratios: Sequence[float]
    messages: float
    messages_compensated: float
    coordinator_growth_bytes: int

    @property
    def ratio(self) -> float:
        """The median share of the bare pipeline's throughput."""
        return statistics.median(self.ratios)


def judge(measured: Measured) -> list[str]:
    """What is worse than it may be, a line each; none if all is well."""
    problems = []
    if measured.ratio < RATIO_FLOOR:
        problems.append(f"throughput is {measured.ratio:.3f} of the bare pipeline's, the floor is {RATIO_FLOOR}")
    if measured.messages != MESSAGES:
        problems.append(f"a completed saga takes {measured.messages:g} messages, its plan {MESSAGES}")
    if measured.messages_compensated != MESSAGES_COMPENSATED:
        problems.append(
            f"a compensated saga takes {measured.messages_compensated:g} messages, its plan {MESSAGES_COMPENSATED}"
        )
    if measured.coordinator_growth_bytes > MEMORY_GROWTH_MAX_BYTES:
        problems.append(
            f"the coordinator takes {measured.coordinator_growth_bytes:,} bytes more with {MANY:,} sagas in flight "
            f"than with {FEW:,}, and may take {MEMORY_GROWTH_MAX_BYTES:,}"
        )
    return problems


async def gate(console: Console) -> dict[str, object]:
    """Measure, print what was found and return it, with the problems."""
    few, many = await park("forward", (FEW, MANY), durability="os", slots=SLOTS, settle_s=SETTLE_S)
    ratios, messages, messages_compensated = await compare(turns=TURNS, turn_sagas=TURN_SAGAS)
    measured = Measured(
        ratios=ratios,
        messages=messages,
        messages_compensated=messages_compensated,
        coordinator_growth_bytes=many.coordinator_bytes - few.coordinator_bytes,
    )
    problems = judge(measured)
    console.print(
        f"throughput: {measured.ratio:.3f} of the bare pipeline's (at least {RATIO_FLOOR}; "
        f"{min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} turns)"
    )
    console.print(f"messages: {messages:g} a completed saga, {messages_compensated:g} a compensated one")
    console.print(
        f"coordinator: {measured.coordinator_growth_bytes:,} bytes more with {MANY:,} sagas than with {FEW:,}"
    )
    for problem in problems:
        console.print(f"[bold red]worse:[/] {problem}")
    return {
        "ratio": round(measured.ratio, 3),
        "ratio_floor": RATIO_FLOOR,
        "ratios": [round(ratio, 3) for ratio in ratios],
        "messages_per_saga": messages,
        "messages_per_compensated_saga": messages_compensated,
        "coordinator": {"rss_growth_bytes": measured.coordinator_growth_bytes},
        "problems": problems,
    }


async def compare(
    *,
    turns: int,
    turn_sagas: int,
    saga: Saga[Order, Scheduled] = place_order,
    modules: Mapping[str, str] | None = None,
) -> tuple[list[float], float, float]:
    """A saga's throughput as a share of the bare pipeline's, turn by turn, and its messages completed and compensated.

    `modules` names other implementations of the services.
    """
    book = OrderBook()
    with pipeline.running(waits=True) as limit:
        async with running(durability="sync", visibility="relaxed", modules=modules or {}) as plant:
            await _rate(plant, saga, book, turn_sagas // 4)
            ratios = []
            for _ in range(turns):
                bare = await asyncio.to_thread(limit.measure, book.take(turn_sagas), in_flight=IN_FLIGHT)
                ratios.append(await _rate(plant, saga, book, turn_sagas) / bare.sagas_per_s)
            completed = await closed_loop(plant, saga, book.take(COMPENSATED_SAGAS), in_flight=COMPENSATED_SAGAS)
            rejected = book.take(COMPENSATED_SAGAS, rejected=1.0)
            undone = await closed_loop(
                plant, saga, rejected, in_flight=COMPENSATED_SAGAS, compensated=COMPENSATED_SAGAS
            )
    assert completed.messages_per_saga is not None
    assert undone.messages_per_saga is not None
    return ratios, completed.messages_per_saga, undone.messages_per_saga


async def _rate(plant: Plant, saga: Saga[Order, Scheduled], book: OrderBook, sagas: int) -> float:
    return (await closed_loop(plant, saga, book.take(sagas), in_flight=IN_FLIGHT)).sagas_per_s
