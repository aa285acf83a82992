"""Sagas a second in a closed loop, beside what the bare pipeline does in the same run.

Four steps in a chain: all of them completed; rejected at the last step, which compensates three, two of them side by
side; and a share of each. The product and the bare pipeline are measured in turns, several times, so that what else
the machine does meets both. Of several runs the median counts, and of several numbers in flight the best. The
product's log has reached its working size before, as the bare pipeline's has from the start.
"""

from rich.console import Console

from .bare import pipeline
from .figures import Figures, best, median
from .load import IN_FLIGHT, Load
from .plant import Durability, OrderBook, Visibility, running
from .tables import BUDGET_US, budget_table, figures_table

SHARES = (0.1, 0.5)
"""Of orders that are rejected; none and all of them are measured at each number in flight."""


async def throughput(
    console: Console, *, durability: Durability, visibility: Visibility, row_s: float, rounds: int
) -> dict[str, object]:
    """Measure everything, print the tables and return the best row of each kind."""
    load = Load(OrderBook(), row_s)
    success, limit = [], []
    with pipeline.running(waits=visibility == "relaxed") as through:
        async with running(durability=durability, visibility=visibility) as plant:
            await load.warm_up(plant)
            for in_flight in IN_FLIGHT:
                pairs = [
                    (await load.sagas(plant, in_flight), await load.bare(through, in_flight)) for _ in range(rounds)
                ]
                success.append(median([sagas for sagas, _ in pairs]))
                limit.append(median([bare for _, bare in pairs]))
            rollback = [await load.sagas(plant, in_flight, 1.0) for in_flight in IN_FLIGHT]
            shares = {share: await load.sagas(plant, best(success).in_flight, share) for share in SHARES}
    stored = await _stored(load, durability, visibility)
    strict = await _strict(load, durability, (best(success).in_flight, best(rollback).in_flight))

    promises = f"durability {durability}, fences and effects in memory, visibility"
    relaxed_rows = [
        *(("completed", row) for row in success),
        *(("compensated", row) for row in rollback),
        *((f"{share:.0%} compensated", row) for share, row in shares.items()),
        *(("bare pipeline", row) for row in limit),
    ]
    console.print(figures_table(f"{promises} {visibility}", relaxed_rows))
    console.print(figures_table(f"{promises} strict", strict.items()))
    console.print(
        figures_table(f"durability {durability}, fences and effects in SQLite, visibility {visibility}", stored)
    )
    console.print(budget_table([("measured", best(success)), ("bare pipeline", best(limit))]))
    ratio = best(success).sagas_per_s / best(limit).sagas_per_s
    console.print(f"completed: {ratio:.2f} of the bare pipeline")
    return {
        "durability": durability,
        "visibility": visibility,
        "fences": "memory",
        "success": best(success).as_json(),
        "rollback": best(rollback).as_json(),
        "bare": {**best(limit).as_json(), "ratio": round(ratio, 3)},
        "failures": {f"{share:.0%}": row.as_json() for share, row in shares.items()},
        "everything_durable": {"fences": "sqlite", **best([row for _, row in stored]).as_json()},
        "strict": {name: row.as_json() for name, row in strict.items()},
        "budget_us_per_saga": BUDGET_US,
        "rows": [{"what": name, **row.as_json()} for name, row in relaxed_rows],
    }


async def _stored(load: Load, durability: Durability, visibility: Visibility) -> list[tuple[str, Figures]]:
    """With fences and effects that are stored and synced."""
    async with running(durability=durability, visibility=visibility, effects="sqlite") as plant:
        return [("completed", await load.sagas(plant, in_flight)) for in_flight in IN_FLIGHT]


async def _strict(load: Load, durability: Durability, in_flight: tuple[int, int]) -> dict[str, Figures]:
    async with running(durability=durability, visibility="strict") as plant:
        await load.warm_up(plant)
        return {
            "success": await load.sagas(plant, in_flight[0]),
            "rollback": await load.sagas(plant, in_flight[1], 1.0),
        }
