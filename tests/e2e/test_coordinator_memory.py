"""The coordinator takes the same memory whatever is in flight: `python -m bench memory` at a scale that tests allow."""

import asyncio

import pytest

from bench.memory import Direction, park

FEW, MANY = 1_000, 20_000
SLOTS = 256
SETTLE_S = 5.0
"""Enough for the first ones to be in the broker's log alone; the coordinator needs none."""
MIB = 1 << 20


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("direction", ["forward", "undoing"])
def test_coordinator_memory_does_not_grow_with_the_sagas_in_flight(direction: Direction) -> None:
    few, many = asyncio.run(park(direction, (FEW, MANY), durability="os", slots=SLOTS, settle_s=SETTLE_S))
    assert many.spills > 0
    assert abs(many.coordinator_bytes - few.coordinator_bytes) <= MIB
    assert many.in_log > few.in_log > 0
