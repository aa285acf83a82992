"""The comparison: every peer's best level of each workload, beside sagacore's in the same run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.load import IN_FLIGHT, Load
from bench.plant import OrderBook, running

from .installed import NotInstalled, version_of
from .measure import Level, Setting, measure
from .settings import PEERS, SETTINGS

GOALS = {"sync": 250, "memory": 100}
"""So many times a peer's sagas a second sagacore is to do, always synced itself, by the durability of the peer."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Sagas a second, completed and compensated: the best of several levels, each with the level's in-flight."""

    success_per_s: float
    rollback_per_s: float
    in_flight: int
    rollback_in_flight: int
    cpu_us_per_saga: Mapping[str, float]

    def as_json(self) -> dict[str, object]:
        """The figures that every system has."""
        return {
            "success_per_s": round(self.success_per_s, 1),
            "rollback_per_s": round(self.rollback_per_s, 1),
            "in_flight": self.in_flight,
            "rollback_in_flight": self.rollback_in_flight,
            "cpu_us_per_saga": {role: round(used, 1) for role, used in self.cpu_us_per_saga.items()},
        }


async def peers(console: Console, *, only: Sequence[str], seconds: float) -> dict[str, object]:
    """Measure sagacore and then the peers, each row for so many seconds, print the table and return the figures.

    A peer that is missing, or fails, has a row that says so; the others are measured all the same. Raises `ValueError`
    if `only` names something that is no peer.
    """
    if unknown := set(only) - set(PEERS):
        raise ValueError(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    ours = await _sagacore(seconds)
    rows: list[dict[str, object]] = []
    for setting in SETTINGS:
        if only and setting.peer not in only:
            continue
        console.print(f"{setting.peer}, {setting.name}, {setting.durability}")
        try:
            rates = best(_told(console, measure(setting, seconds=seconds)))
            rows.append(compared(setting, version_of(setting.peer), rates, ours))
        except NotInstalled as missing:
            rows.append(_without(console, setting, "missing", missing))
        except (RuntimeError, TimeoutError) as failed:
            rows.append(_without(console, setting, "failed", failed))
    console.print(_table(rows, ours))
    promises = {"durability": "sync", "visibility": "relaxed", "fences": "memory"}
    return {"peers": rows, "sagacore": {**promises, **ours.as_json()}}


async def _sagacore(seconds: float) -> Rates:
    """What sagacore does just before, on the same machine, with everything synced."""
    load, levels = Load(OrderBook(), seconds), []
    async with running(durability="sync", visibility="relaxed") as plant:
        for rejected in (False, True):
            for in_flight in IN_FLIGHT:
                shown = await load.sagas(plant, in_flight, float(rejected))
                rate, used = shown.sagas_per_s, shown.cpu_us_per_saga
                levels.append(Level(rejected, in_flight, shown.sagas, rate, shown.p50_ms, shown.p99_ms, used))
    return best(levels)


def best(levels: Iterable[Level]) -> Rates:
    """The highest rate of each workload. Raises `ValueError` if one of them was not measured."""
    rows = list(levels)
    success = max((row for row in rows if not row.rejected), key=lambda row: row.sagas_per_s)
    rollback = max((row for row in rows if row.rejected), key=lambda row: row.sagas_per_s)
    return Rates(
        success.sagas_per_s, rollback.sagas_per_s, success.in_flight, rollback.in_flight, success.cpu_us_per_saga
    )


def compared(setting: Setting, version: str, rates: Rates, ours: Rates) -> dict[str, object]:
    """One row: what a peer did, how many times as much sagacore did, and whether that reaches its goal."""
    success = ours.success_per_s / rates.success_per_s
    rollback = ours.rollback_per_s / rates.rollback_per_s
    goal = GOALS[setting.durability]
    return {
        "peer": setting.peer,
        "version": version,
        "setting": setting.name,
        "durability": setting.durability,
        **rates.as_json(),
        "ratio": {"success": round(success, 1), "rollback": round(rollback, 1)},
        "goal": goal,
        "reached": min(success, rollback) >= goal,
    }


def _without(console: Console, setting: Setting, what: str, error: Exception) -> dict[str, object]:
    console.print(f"  {what}: {error}", markup=False)
    return {"peer": setting.peer, "setting": setting.name, "durability": setting.durability, what: str(error)}


def _told(console: Console, levels: Iterable[Level]) -> Iterable[Level]:
    for level in levels:
        workload = "rejected" if level.rejected else "completed"
        figures = f"{level.sagas_per_s:9.1f} sagas/s, p50 {level.p50_ms:.0f} ms, p99 {level.p99_ms:.0f} ms"
        console.print(f"  {workload:9} {level.in_flight:4} in flight: {figures}")
        yield level


def _table(rows: Iterable[Mapping[str, object]], ours: Rates) -> Table:
    table = Table(title="the order saga, in this run: sagas/s, and how many times as many sagacore does")
    for column in ("system", "setting", "durability"):
        table.add_column(column)
    for column in ("success/s", "rollback/s", "CPU us", "success x", "rollback x", "goal"):
        table.add_column(column, justify="right")
    used = f"{sum(ours.cpu_us_per_saga.values()):,.0f}"
    table.add_row(
        *("sagacore", "four services", "sync", f"{ours.success_per_s:,.0f}", f"{ours.rollback_per_s:,.0f}", used),
        style="bold",
    )
    for row in rows:
        match row:
            case {"ratio": {"success": success, "rollback": rollback}, "cpu_us_per_saga": dict(cpu)}:
                rates = (f"{row['success_per_s']:,}", f"{row['rollback_per_s']:,}", f"{sum(cpu.values()):,.0f}")
                names = (str(row["peer"]), str(row["setting"]), str(row["durability"]))
                table.add_row(*names, *rates, str(success), str(rollback), str(row["goal"]))
            case _:
                what = "missing" if "missing" in row else "failed"
                table.add_row(str(row["peer"]), str(row["setting"]), str(row["durability"]), what)
    return table
