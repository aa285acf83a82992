"""The report at the end of a run, for a person."""

from collections import Counter

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .options import DemoOptions
from .result import CoordinatorFigures, Result

VIOLATIONS_SHOWN = 20


def print_report(result: Result, console: Console) -> None:
    """Print outcomes, figures and the audit's verdict."""
    console.print()
    console.print(Padding(_outcomes(result), (0, 2)))
    console.print(Padding(_figures(result), (1, 2)))
    console.print(_verdict(result))


def _outcomes(result: Result) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("how the orders ended")
    table.add_column("orders", justify="right")
    table.add_column("share", justify="right")
    table.add_row("completed", *_count(result.completed, result), style="green")
    for cause, orders in result.compensated.most_common():
        table.add_row(f"compensated: {cause}", *_count(orders, result), style="yellow")
    if result.not_ended:
        table.add_row("not ended", *_count(result.not_ended, result), style="bold red")
    return table


def _count(orders: int, result: Result) -> tuple[str, str]:
    return f"{orders:,}", f"{orders / result.options.orders:.1%}"


def _figures(result: Result) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("saga", _saga(result.options))
    table.add_row("speed", f"{result.sagas_per_s:,.0f} sagas a second, {result.elapsed_s:.1f} s in all")
    table.add_row("latency", f"p50 {result.latency_ms(0.5):,.1f} ms, p99 {result.latency_ms(0.99):,.1f} ms")
    table.add_row("messages", _messages(result))
    table.add_row("coordinator", _coordinator(result.coordinator, result.options.coordinators))
    if result.kills:
        table.add_row("kills", _kills(result.kills))
        table.add_row("recovery", f"the longest pause after a kill was {result.longest_pause_ms:,.0f} ms")
    return table


def _saga(options: DemoOptions) -> str:
    promises = f"durability {options.durability}, visibility {options.visibility}"
    return f"{options.shape}, {promises}, {options.in_flight:,} in flight"


def _messages(result: Result) -> str:
    if result.messages_per_saga is None:
        return f"not counted (the plan's figure is {result.plan_messages})"
    about = "about " if result.kills["broker"] else ""
    text = f"{about}{result.messages_per_saga:.4g} a saga, by the plan {result.plan_messages}"
    if result.compensated:
        text += " when nothing fails"
    if result.kills["broker"]:
        text += "; a broker counts from its start, and what a killed one counted last is lost"
    return text


def _coordinator(figures: CoordinatorFigures, coordinators: int) -> str:
    each = " each" if coordinators > 1 else ""
    table = f"{figures.slots:,} slots ({figures.table_bytes / 2**20:.3g} MiB){each}"
    work = f"{figures.evictions:,} evictions, {figures.spills:,} spills"
    return f"{table}, {work}, {figures.rss_bytes / 2**20:.1f} MiB resident{each and ' at most'}"


def _kills(kills: Counter[str]) -> str:
    parts = ", ".join(f"{count} {role}" for role, count in kills.items())
    return f"{kills.total()} processes with kill -9, each started again: {parts}"


def _verdict(result: Result) -> RenderableType:
    if result.passed:
        text = Text(f"The books of all four services are right: {result.ended:,} orders, 0 violations.", "green")
        return Panel(text, title="ledger check", title_align="left", border_style="green")
    lines: list[RenderableType] = []
    if result.not_ended:
        lines.append(Text(f"{result.not_ended:,} orders have not ended.", "bold red"))
    if result.violations:
        lines.append(Text(f"{len(result.violations):,} violations:", "bold red"))
        shown = result.violations[:VIOLATIONS_SHOWN]
        lines += [Text(f"{violation.rule}  {violation.subject}: {violation.text}") for violation in shown]
        hidden = len(result.violations) - VIOLATIONS_SHOWN
        if hidden > 0:
            lines.append(Text(f"... and {hidden:,} more"))
    else:
        lines.append(Text("What has ended is right in the books of all four services.", "green"))
    return Panel(Group(*lines), title="ledger check", title_align="left", border_style="red")
