"""What a measurement of sagas, or of orders through the bare pipeline, has shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from .usage import CpuMeter


@dataclass(frozen=True, slots=True)
class Figures:
    """What one closed loop has shown."""

    in_flight: int
    sagas: int
    sagas_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_saga: dict[str, float]
    messages_per_saga: float | None = None
    """Between coordinators and services, as the broker counts them. None for the bare pipeline, as the next one."""
    log_bytes_per_saga: float | None = None

    @classmethod
    def of(cls, latencies_ms: Sequence[float], *, in_flight: int, elapsed_s: float, cpu: CpuMeter) -> Self:
        """From the latencies of all sagas, and a meter that was made before the first."""
        sagas = len(latencies_ms)
        return cls(
            in_flight=in_flight,
            sagas=sagas,
            sagas_per_s=sagas / elapsed_s,
            p50_ms=share_of(latencies_ms, 0.5),
            p99_ms=share_of(latencies_ms, 0.99),
            cpu_us_per_saga=cpu.us_per_saga(sagas),
        )

    def with_counts(self, *, messages: int, log_bytes: int) -> Self:
        """The same with what the broker has counted meanwhile."""
        return replace(self, messages_per_saga=messages / self.sagas, log_bytes_per_saga=log_bytes / self.sagas)

    @property
    def cpu_us(self) -> float:
        """Microseconds a saga of all processes together."""
        return sum(self.cpu_us_per_saga.values())

    def as_json(self) -> dict[str, object]:
        """The figures that every row has, and those that were counted."""
        counted = {"messages_per_saga": self.messages_per_saga, "log_bytes_per_saga": self.log_bytes_per_saga}
        return {
            "sagas_per_s": round(self.sagas_per_s),
            "p50_ms": round(self.p50_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            "in_flight": self.in_flight,
            "cpu_us_per_saga": self.cpu_us_per_saga,
            **{name: round(count, 3) for name, count in counted.items() if count is not None},
        }


def median(rows: Sequence[Figures]) -> Figures:
    """The row with the median throughput: a row that was measured, not a mixture of several."""
    return sorted(rows, key=lambda row: row.sagas_per_s)[len(rows) // 2]


def best(rows: Sequence[Figures]) -> Figures:
    """The row with the highest throughput."""
    return max(rows, key=lambda row: row.sagas_per_s)


def share_of(values: Sequence[float], share: float) -> float:
    """The value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
