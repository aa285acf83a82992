"""Figures as tables for a reader."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from .figures import Figures
from .usage import ROLES

BUDGET_US = {"client": 1.0, "broker": 6.0, "coordinator": 1.0, "services": 4 * 1.7}
"""CPU a saga that 100,000 sagas a second on two cores allow for, by role, before what saga logic costs."""
SAGA_LOGIC = 1.25
"""What saga logic may add to each."""
ALLOWED_US = {role: SAGA_LOGIC * used for role, used in BUDGET_US.items()}
"""The budget with it."""


def table(title: str, columns: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose first column is text and whose others are figures."""
    made = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place else "left")
    for row in rows:
        made.add_row(*row)
    return made


def figures_table(title: str, rows: Iterable[tuple[str, Figures]]) -> Table:
    """Rows of figures, each under its name."""
    columns = ("", "in flight", "sagas/s", "p50 ms", "p99 ms", "CPU us a saga:", *ROLES, "messages", "log bytes")
    return table(title, columns, [(name, *_cells(figures)) for name, figures in rows])


def budget_table(measured: Iterable[tuple[str, Figures]]) -> Table:
    """The CPU a saga that the goal allows for, beside what was measured."""
    rows = [("budget", ALLOWED_US), *((name, figures.cpu_us_per_saga) for name, figures in measured)]
    cells = [(name, *(f"{used[role]:.1f}" for role in ROLES), f"{sum(used.values()):.1f}") for name, used in rows]
    return table("CPU us a saga: budget and measured", ("", *ROLES, "all"), cells)


def _cells(figures: Figures) -> list[str]:
    counted = (figures.messages_per_saga, figures.log_bytes_per_saga)
    return [
        f"{figures.in_flight:,}",
        f"{figures.sagas_per_s:,.0f}",
        f"{figures.p50_ms:.2f}",
        f"{figures.p99_ms:.2f}",
        f"{figures.cpu_us:.1f}",
        *(f"{figures.cpu_us_per_saga[role]:.1f}" for role in ROLES),
        *("" if count is None else f"{count:,.2f}".removesuffix(".00") for count in counted),
    ]
