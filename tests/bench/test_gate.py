"""The gate lets through what is as good as it was, and notices what is worse."""

import asyncio
from dataclasses import replace

import pytest

from bench.gate import MEMORY_GROWTH_MAX_BYTES, MESSAGES, MESSAGES_COMPENSATED, RATIO_FLOOR, Measured, compare, judge
from sagacore.demo.shop.saga import place_order_diamond

GOOD = Measured(
    ratios=[0.01, RATIO_FLOOR, 5.0],
    messages=MESSAGES,
    messages_compensated=MESSAGES_COMPENSATED,
    coordinator_growth_bytes=MEMORY_GROWTH_MAX_BYTES,
)


def test_what_is_good_enough_passes() -> None:
    assert judge(GOOD) == []


@pytest.mark.parametrize(
    ("worse", "said"),
    [
        (replace(GOOD, ratios=[RATIO_FLOOR - 0.001, 0.01, 5.0]), "bare pipeline"),
        (replace(GOOD, messages=MESSAGES + 0.001), "completed saga"),
        (replace(GOOD, messages_compensated=MESSAGES_COMPENSATED - 1), "compensated saga"),
        (replace(GOOD, coordinator_growth_bytes=MEMORY_GROWTH_MAX_BYTES + 1), "coordinator"),
    ],
)
def test_what_is_worse_is_named(worse: Measured, said: str) -> None:
    [problem] = judge(worse)
    assert said in problem


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_handler_that_burns_and_a_saga_that_says_more_are_noticed() -> None:
    burning = {"shipping": "tests.bench.burning_shop"}
    ratios, *messages = asyncio.run(compare(turns=3, turn_sagas=2_000, saga=place_order_diamond, modules=burning))
    problems = judge(replace(GOOD, ratios=ratios, messages=messages[0], messages_compensated=messages[1]))
    assert len(problems) == 3, (problems, ratios, messages)
