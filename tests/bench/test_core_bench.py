"""What Python pays for the cores: the table, frames, and the fence's rules."""

import struct

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from sagacore import _core

BATCH = 1_000


def headers(first: int, edges: tuple[int, ...]) -> bytes:
    """DONEs of these edges for a batch of sagas."""
    return b"".join(
        struct.pack("<IBBHQIHH", 128, 1, 3, 0, sequence, 1, 0, 0)
        + struct.pack("<QIHHQ", 9, 0, edge, 0, 1 << edge)
        + bytes(128 - 48)
        for sequence in range(first, first + BATCH)
        for edge in edges
    )


@pytest.mark.parametrize("slots", [1 << 12, 1 << 16])
def test_arrive_and_remove(benchmark: BenchmarkFixture, slots: int) -> None:
    """One arrival each for a thousand sagas, and their slots removed again."""
    table, arrivals = _core.SlotTable(slots), headers(1, (0,))

    def both() -> None:
        table.arrive(arrivals)
        table.remove(arrivals)

    benchmark(both)
    assert len(table) == 0


def test_lookup(benchmark: BenchmarkFixture) -> None:
    """A thousand slots found."""
    table, arrivals = _core.SlotTable(1 << 14), headers(1, (0,))
    table.arrive(arrivals)
    slots = benchmark(table.lookup, arrivals)
    assert len(slots) == 64 * BATCH


def test_fence_rules(benchmark: BenchmarkFixture) -> None:
    """One decision of the outcome register."""
    assert benchmark(_core.fence_on_run, 0) == 1
