"""What is shown while orders are placed: a live line on a terminal, plain lines elsewhere."""

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

PLAIN_LINE_S = 2.0
"""Where output is no terminal, a line is printed this often."""


class Show(Protocol):
    """Shows how far a run is."""

    def update(self, *, completed: int, compensated: int) -> None:
        """So many orders have ended by now."""

    def note(self, text: str) -> None:
        """Something happened that is worth a line."""

    def close(self) -> None:
        """The run has ended."""


def show_on(console: Console, orders: int) -> Show:
    """The display that fits the console."""
    return LiveShow(console, orders) if console.is_terminal else PlainShow(console, orders)


class LiveShow:
    """A bar that moves, with the notes above it."""

    def __init__(self, console: Console, orders: int) -> None:
        self._progress = Progress(
            TextColumn("[bold]orders"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("[green]{task.fields[completed_orders]:,} completed"),
            TextColumn("[yellow]{task.fields[compensated_orders]:,} compensated"),
            TextColumn("{task.fields[rate]:,.0f}/s"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._progress.add_task("orders", total=orders, completed_orders=0, compensated_orders=0, rate=0.0)
        self._started_s = time.monotonic()
        self._progress.start()

    def update(self, *, completed: int, compensated: int) -> None:
        """Move the bar."""
        ended = completed + compensated
        rate = ended / max(0.001, time.monotonic() - self._started_s)
        self._progress.update(
            self._task, completed=ended, completed_orders=completed, compensated_orders=compensated, rate=rate
        )

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, style="dim")

    def close(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


class PlainShow:
    """A line now and then."""

    def __init__(self, console: Console, orders: int) -> None:
        self._console = console
        self._orders = orders
        self._started_s = self._printed_s = time.monotonic()

    def update(self, *, completed: int, compensated: int) -> None:
        """Print a line, if the last one is old enough or all orders have ended."""
        now_s = time.monotonic()
        ended = completed + compensated
        if now_s - self._printed_s < PLAIN_LINE_S and ended < self._orders:
            return
        self._printed_s = now_s
        rate = ended / max(0.001, now_s - self._started_s)
        outcomes = f"{completed:,} completed, {compensated:,} compensated"
        self.note(f"{ended:,} of {self._orders:,} orders ended ({outcomes}), {rate:,.0f}/s")

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing is left to be tidied up."""
