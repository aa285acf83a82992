"""What a run has shown: for a person, and as the JSON object of the last line."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from sagacore.demo.ledger import Violation

from .events import Events, Recovery

VIOLATIONS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run."""

    seed: int
    seconds: float
    events: Events
    started: int = 0
    completed: int = 0
    compensated: int = 0
    not_ended: int = 0
    violations: Sequence[Violation] = ()
    recoveries: Sequence[Recovery] = ()
    """From each fault's end to the end of something that began after it."""
    healed_s: float = 0.0
    """From the end of all faults and of new orders until everything had ended."""
    waiting_max: int = 0
    """Orders that waited for what others held, at a time."""
    refused_while_full: int = 0
    """Starts that the broker refused while its disk was full."""
    ended_while_full: int = 0
    """Sagas that ended in that time, all the same."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Faults that could not be made here, and why."""
    namespaces: bool = False

    @property
    def passed(self) -> bool:
        """Whether everything ended and nothing was wrong."""
        return not self.violations and self.not_ended == 0

    def recovery_by_fault(self) -> dict[str, dict[str, float]]:
        """The figures of each fault alone."""
        groups: dict[str, list[Recovery]] = {}
        for recovery in sorted(self.recoveries):
            groups.setdefault(recovery.fault, []).append(recovery)
        return {fault: figures_ms(group) for fault, group in groups.items()}

    def as_json(self) -> dict[str, object]:
        """The object that is printed on the last line."""
        events = self.events
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "faults": dict(sorted(events.faults.items())),
            "kills": dict(sorted(events.kills.items())),
            "started": self.started,
            "ended": self.completed + self.compensated,
            "completed": self.completed,
            "compensated": self.compensated,
            "not_ended": self.not_ended,
            "violations": len(self.violations),
            "recovery_ms": {**figures_ms(self.recoveries), "by_fault": self.recovery_by_fault()},
            "healed_s": round(self.healed_s, 2),
            "waiting_max": self.waiting_max,
            "unsynced_sectors_lost": events.sectors_lost,
            "full_disk": {
                "refused": self.refused_while_full,
                "ended": self.ended_while_full,
                "broker_stopped": events.brokers_out_of_space,
            },
            "left_out": dict(self.left_out),
            "namespaces": self.namespaces,
        }


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed; 0 for none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def figures_ms(recoveries: Sequence[Recovery]) -> dict[str, float]:
    """How many, half of them, and the longest, in milliseconds."""
    values = [recovery.ms for recovery in recoveries]
    return {"count": len(values), "p50": round(quantile(values, 0.5), 1), "max": round(max(values, default=0.0), 1)}


def print_result(result: Result, console: Console) -> None:
    """Print the figures and the verdict."""
    line = console.print
    line()
    line(f"faults      {_counts(result.events.faults)}", highlight=False)
    line(f"kills       {_counts(result.events.kills)}", highlight=False)
    ended = result.completed + result.compensated
    line(
        f"sagas       {result.started:,} started, {ended:,} ended: "
        f"{result.completed:,} completed, {result.compensated:,} compensated",
        highlight=False,
    )
    line(f"holds       {result.waiting_max:,} orders waited at a time, at most", highlight=False)
    figures = figures_ms(result.recoveries)
    line(f"recovery    p50 {figures['p50']:,.0f} ms, max {figures['max']:,.0f} ms after a fault's end", highlight=False)
    line(f"healing     everything had ended after {result.healed_s:.1f} s", highlight=False)
    for violation in result.violations[:VIOLATIONS_SHOWN]:
        line(f"{violation.rule}  {violation.subject}: {violation.text}", style="red", highlight=False, markup=False)
    if result.passed:
        line("0 violations", style="green", highlight=False)
    else:
        line(
            f"{len(result.violations):,} violations, {result.not_ended:,} not ended", style="bold red", highlight=False
        )


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"
