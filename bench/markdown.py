"""Results as a Markdown page: the goals beside what was measured, then each part."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from .contention import COLUMNS as CONTENTION_COLUMNS
from .contention import cells as contention_cells
from .tables import ALLOWED_US
from .usage import ROLES

Figures: TypeAlias = Mapping[str, Any]


def render(results: Mapping[str, Any]) -> str:
    """The page. Parts that were not measured are not there."""
    figures = {part: found["figures"] for part, found in results.items()}
    sections = [_goals(figures)]
    for part, write in WRITERS.items():
        if part in results:
            sections.append(f"## {part.capitalize()}\n\n{_about(results[part]['about'])}\n\n{write(figures[part])}")
    return "# Results\n\n" + "\n\n".join(sections) + "\n"


def _about(about: Figures) -> str:
    machine = about["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"`{about['command']}`, {about['date']}, {about['took_s']} s, on {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory_gib']} GiB, {machine['system']}, load average {machine['load_of_15_minutes']}; {versions}."
    )


def _goals(figures: Mapping[str, Figures]) -> str:
    rows: list[tuple[str, str, str]] = []
    if "throughput" in figures:
        found = figures["throughput"]
        success, rollback, limit = found["success"], found["rollback"], found["bare"]
        rows += [
            ("four steps, completed", "100,000 a second", f"{success['sagas_per_s']:,} a second"),
            ("beside the bare pipeline", "at least 0.8 of it", f"{limit['ratio']:.2f} of {limit['sagas_per_s']:,}"),
            ("rejected at the last step", "60,000 a second", f"{rollback['sagas_per_s']:,} a second"),
            ("all in SQLite, synced", "15,000 a second", f"{found['everything_durable']['sagas_per_s']:,} a second"),
            ("log of a completed saga", "under 2,048 bytes", f"{success['log_bytes_per_saga']:,.0f} bytes"),
        ]
    if "latency" in figures:
        found = figures["latency"]
        alone, half, undone = found["alone"], found["half_load"], found["compensation"]
        rows += [
            ("alone, p50", "at most 1.5 of the bare", f"{alone['p50_ms']:.2f} ms, {found['alone_to_bare']:.2f} of it"),
            ("at half load, p99", "under 10 ms", f"{half['p99_ms']:.1f} ms at {half['sagas_per_s']:,} a second"),
            ("compensated, p99", "under 10 ms", f"{undone['p99_ms']:.1f} ms at {undone['sagas_per_s']:,} a second"),
        ]
    for found in (figures[part] for part in ("memory", "memory-10m") if part in figures):
        grown, each = found["coordinator"]["rss_growth_bytes"], found["broker"]["bytes_per_saga"]
        rows += [
            (
                "coordinator's memory",
                "the same within 1 MiB",
                f"{grown / 2**20:+.2f} MiB to {found['in_flight_max']:,}",
            ),
            (
                f"broker's memory, {found['in_flight_max']:,} at a join",
                "at most 128 bytes a saga",
                f"{each} bytes a saga",
            ),
        ]
    for found in (figures[part] for part in ("parked", "parked-10m") if part in figures):
        each = found["broker"]["bytes_per_saga"]
        rows += [
            (
                f"broker's memory, {found['parked']:,} in a chain",
                "at most 128 bytes a saga",
                f"{each} bytes a saga",
            ),
            (f"beside {found['parked']:,} that wait", "at least 0.8 of none", f"{found['ratio']:.2f} of none"),
        ]
    return _table(("what", "goal", "measured"), rows)


def _throughput(figures: Figures) -> str:
    others = [{"what": f"{name}, strict", **row} for name, row in figures["strict"].items()]
    others.append({"what": "completed, SQLite", **figures["everything_durable"]})
    names = ("what", "in flight", "sagas/s", "p50 ms", "p99 ms", "messages", "log bytes", "CPU us", *ROLES)
    rows = [
        (
            row["what"],
            f"{row['in_flight']:,}",
            f"{row['sagas_per_s']:,}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['messages_per_saga']:g}" if "messages_per_saga" in row else "",
            f"{row['log_bytes_per_saga']:,.0f}" if "log_bytes_per_saga" in row else "",
            *_cpu(row["cpu_us_per_saga"]),
        )
        for row in (*figures["rows"], *others)
    ]
    rows.append(("budget for 100,000", "", "", "", "", "", "", *_cpu(ALLOWED_US)))
    return f"{_promises(figures)}\n\n{_table(names, rows)}"


def _profile(figures: Figures) -> str:
    tables = []
    for row in figures["rows"]:
        used, functions = row["cpu_us_per_saga"], row["broker_functions_us_per_saga"]
        areas = [(area, *(f"{used[role][area]:.2f}" for role in ROLES)) for area in used["broker"]]
        title = f"CPU us a saga, {row['what']} at {row['sagas_per_s']:,} a second"
        tables.append(_table((title, *ROLES), areas))
        of_broker = [(f"`{name}`", f"{each:.2f}") for name, each in functions.items()]
        tables.append(_table(("of the broker's cores, us a saga", row["what"]), of_broker))
    about = f"{figures['in_flight']:,} in flight. {_promises(figures)}"
    return "\n\n".join([about, *tables])


def _latency(figures: Figures) -> str:
    kinds = {name: row for name, row in figures.items() if isinstance(row, dict) and "p50_ms" in row}
    kinds |= {f"{name}, strict": row for name, row in figures["strict"].items()}
    rows = [
        (
            name.replace("_", " "),
            f"{row['sagas_per_s']:,}" if "sagas_per_s" in row else "one at a time",
            *(f"{row[share]:.2f}" for share in ("p50_ms", "p99_ms", "p999_ms", "slowest_ms")),
        )
        for name, row in kinds.items()
    ]
    return f"{_promises(figures)}\n\n{_table(('what', 'sagas/s', 'p50 ms', 'p99 ms', 'p99.9 ms', 'slowest ms'), rows)}"


def _memory(figures: Figures) -> str:
    return (
        f"Durability {figures['durability']}, {figures['slots']:,} slots, from 1,000 to {figures['in_flight_max']:,} "
        f"sagas in flight: the coordinator grew by {figures['coordinator']['rss_growth_bytes']:,} bytes in all, the "
        f"broker by {figures['broker']['bytes_per_saga']:,} bytes a saga, its log by "
        f"{figures['log_bytes_per_saga']:,} bytes a saga. {figures['spills']:,} slots were spilled."
    )


def _parked(figures: Figures) -> str:
    rows = [
        (name, f"{row['sagas_per_s']:,}", f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}", *_cpu(row["cpu_us_per_saga"]))
        for name, row in (("0", figures["none"]), (f"{figures['parked']:,}", figures["beside"]))
    ]
    return f"{_promises(figures)}\n\n{_table(('waiting', 'sagas/s', 'p50 ms', 'p99 ms', 'CPU us', *ROLES), rows)}"


def _growth(figures: Figures) -> str:
    rows = []
    for varied in ("steps", "definitions", "services"):
        for row in figures[varied]:
            said = f"{row[varied]:,} {varied}" + (f", {row['processes']} processes" if "processes" in row else "")
            step = f"{row['cpu_us_per_step']:.2f}"
            rows.append((said, f"{row['sagas_per_s']:,}", *_cpu(row["cpu_us_per_saga"]), step))
    return f"{_promises(figures)}\n\n{_table(('what', 'sagas/s', 'CPU us', *ROLES, 'CPU us a step'), rows)}"


def _contention(figures: Figures) -> str:
    about = (
        f"{figures['sagas']:,} sagas a row over {figures['things']:,} things, {figures['in_flight']} in flight; "
        f"durability {figures['durability']}, visibility relaxed, fences in SQLite."
    )
    return f"{about}\n\n{_table(CONTENTION_COLUMNS, map(contention_cells, figures['rows']))}"


def _peers(figures: Figures) -> str:
    rows = [
        (
            f"{row['peer']} {row['version']}",
            row["setting"],
            row["durability"],
            f"{row['success_per_s']:,}",
            f"{row['rollback_per_s']:,}",
            f"{row['ratio']['success']:,}",
            f"{row['ratio']['rollback']:,}",
            str(row["goal"]),
        )
        for row in figures["peers"]
        if "ratio" in row
    ]
    ours = figures["sagacore"]
    first = (
        "sagacore",
        "four services",
        "sync",
        f"{ours['success_per_s']:,}",
        f"{ours['rollback_per_s']:,}",
        "",
        "",
        "",
    )
    names = ("system", "setting", "durability", "completed/s", "compensated/s", "times", "times compensated", "goal")
    return _table(names, [first, *rows])


WRITERS: Mapping[str, Callable[[Figures], str]] = {
    "throughput": _throughput,
    "profile": _profile,
    "latency": _latency,
    "memory": _memory,
    "memory-10m": _memory,
    "parked": _parked,
    "parked-10m": _parked,
    "growth": _growth,
    "contention": _contention,
    "peers": _peers,
}


def _promises(figures: Figures) -> str:
    return (
        f"Durability {figures['durability']}, visibility {figures['visibility']} unless a row says strict, fences and "
        f"effects in memory."
    )


def _cpu(used: Mapping[str, float]) -> list[str]:
    return [f"{sum(used.values()):.1f}", *(f"{used[role]:.1f}" for role in ROLES)]


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
