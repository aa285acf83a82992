"""Draws the results: `python -m bench.plots`. It needs matplotlib, which `make bench` installs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import wrap
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from .report import RESULTS, load
from .tables import ALLOWED_US
from .usage import ROLES

GOAL_PER_S = 100_000
GOAL_MS = 10
STYLE = {
    "svg.hashsalt": "sagacore",  # the same figures give the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.alpha": 0.3,
}


def draw(results: Mapping[str, Any]) -> None:
    """Draw what there is."""
    figures = {part: found["figures"] for part, found in results.items()}
    for part, plot in (("throughput", _throughput), ("latency", _latency), ("growth", _growth), ("peers", _peers)):
        if part in figures:
            plot(figures[part])


def _throughput(figures: Mapping[str, Any]) -> None:
    with _saved("throughput", 2) as (rates, used):
        for what, label in (("bare pipeline", "bare"), ("completed", "completed"), ("compensated", "compensated")):
            rows = [row for row in figures["rows"] if row["what"] == what]
            rates.plot(
                [row["in_flight"] for row in rows], [row["sagas_per_s"] for row in rows], marker="o", label=label
            )
        rates.axhline(GOAL_PER_S, linestyle="--", linewidth=0.8, color="gray")
        rates.set(xlabel="sagas in flight", title="sagas a second", ylim=(0, None))
        _logarithmic(rates, sorted({row["in_flight"] for row in figures["rows"]}))
        rates.legend()
        bars = {
            "budget": ALLOWED_US,
            "completed": figures["success"]["cpu_us_per_saga"],
            "bare": figures["bare"]["cpu_us_per_saga"],
        }
        below = [0.0] * len(bars)
        for role in ROLES:
            heights = [bar[role] for bar in bars.values()]
            used.bar(list(bars), heights, bottom=below, label=role)
            below = [low + height for low, height in zip(below, heights, strict=True)]
        used.set(title="CPU us a saga")
        used.legend()


def _latency(figures: Mapping[str, Any]) -> None:
    kinds = {name: row for name, row in figures.items() if isinstance(row, dict) and "p50_ms" in row}
    kinds |= {f"{name}, strict": row for name, row in figures["strict"].items()}
    with _saved("latency", 1) as (axes,):
        _bars(axes, kinds, ("p50_ms", "p99_ms"))
        axes.axhline(GOAL_MS, linestyle="--", linewidth=0.8, color="gray")
        axes.set(yscale="log", title="milliseconds from start to outcome; compensation: from the rejection")
        axes.legend()


def _growth(figures: Mapping[str, Any]) -> None:
    with _saved("growth", 3) as panels:
        for axes, varied in zip(panels, ("steps", "definitions", "services"), strict=True):
            rows = [row for row in figures[varied] if row.get("processes", 4) == 4]
            axes.plot([row[varied] for row in rows], [sum(row["cpu_us_per_saga"].values()) for row in rows], marker="o")
            axes.set(title=f"CPU us a saga by {varied}", xlabel=varied, ylim=(0, None))
            if varied != "steps":
                _logarithmic(axes, [row[varied] for row in rows])


def _peers(figures: Mapping[str, Any]) -> None:
    rows = [row for row in figures["peers"] if "ratio" in row]
    # A bar has room for so many letters below it.
    named = {"\n".join([row["peer"], *wrap(row["setting"], 12), row["durability"]]): row for row in rows}
    with _saved("peers", 1) as (axes,):
        _bars(axes, {"sagacore\nsync": figures["sagacore"], **named}, ("success_per_s", "rollback_per_s"))
        axes.set(yscale="log", title="sagas a second, completed and compensated")


def _logarithmic(axes: Any, marks: Sequence[int]) -> None:
    """A logarithmic axis with these marks and no others."""
    axes.set_xscale("log")
    axes.set_xticks(marks, [f"{mark:,}" for mark in marks])
    axes.set_xticks([], minor=True)


def _bars(axes: Any, rows: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> None:
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        at = [number + place * width for number in range(len(rows))]
        axes.bar(at, [row[name] for row in rows.values()], width, label=name.removesuffix("_ms"))
    axes.set_xticks([number + 0.4 - width / 2 for number in range(len(rows))])
    axes.set_xticklabels([name.replace("_", "\n").replace(", ", "\n") for name in rows], fontsize=7)


@contextmanager
def _saved(name: str, panels: int) -> Iterator[Sequence[Any]]:
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, panels, figsize=(9, 3.4), squeeze=False, layout="constrained")
        yield axes[0]
        figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    draw(load())
