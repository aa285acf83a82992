"""What a run has shown, as figures and as the JSON object of `--json`."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from .ledger import Violation
from .options import DemoOptions


@dataclass(frozen=True, slots=True)
class CoordinatorFigures:
    """The coordinators of a run. Evictions and spills are the sum over all of them, memory is that of the largest."""

    slots: int = 0
    table_bytes: int = 0
    evictions: int = 0
    spills: int = 0
    rss_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run of the demo."""

    options: DemoOptions
    completed: int
    compensated: Counter[str]
    """Compensated orders, by cause in words."""
    violations: list[Violation]
    elapsed_s: float
    latencies_ms: Sequence[float]
    messages: int | None
    """Accepted between coordinators and services; None if no broker could be asked."""
    plan_messages: int
    kills: Counter[str] = field(default_factory=Counter)
    """Kills by kind of process."""
    longest_pause_ms: float = 0.0
    """The longest time after a kill in which no order ended."""
    coordinator: CoordinatorFigures = CoordinatorFigures()

    @property
    def ended(self) -> int:
        """Orders of which the client was told how they ended."""
        return self.completed + self.compensated.total()

    @property
    def not_ended(self) -> int:
        """Orders that were placed, or still to be placed, and have no outcome."""
        return self.options.orders - self.ended

    @property
    def sagas_per_s(self) -> float:
        """Orders ended in a second, over the whole run."""
        return self.ended / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def messages_per_saga(self) -> float | None:
        """Messages that an order has cost, failures included. Exact where no broker was killed."""
        return self.messages / self.ended if self.messages is not None and self.ended else None

    @property
    def passed(self) -> bool:
        """Whether every order ended and the books are right."""
        return self.not_ended == 0 and not self.violations

    def latency_ms(self, share: float) -> float:
        """The latency that this share of the orders did not exceed: 0.5 is the median."""
        if not self.latencies_ms:
            return 0.0
        ordered = sorted(self.latencies_ms)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    def as_json(self) -> dict[str, object]:
        """The object that `--json` prints."""
        return {
            "orders": self.options.orders,
            "completed": self.completed,
            "compensated": self.compensated.total(),
            "stuck": self.not_ended,
            "violations": len(self.violations),
            "sagas_per_s": round(self.sagas_per_s, 1),
            "latency_ms": {"p50": round(self.latency_ms(0.5), 3), "p99": round(self.latency_ms(0.99), 3)},
            "messages_per_saga": self.messages_per_saga,
            "plan_messages": self.plan_messages,
            "kills": self.kills.total(),
            "coordinator": {
                "slots": self.coordinator.slots,
                "table_bytes": self.coordinator.table_bytes,
                "evictions": self.coordinator.evictions,
                "spills": self.coordinator.spills,
                "rss_bytes": self.coordinator.rss_bytes,
            },
        }
