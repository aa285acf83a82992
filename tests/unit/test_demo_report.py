"""The figures of a run, as a person and as a program read them."""

import io
import json
from collections import Counter

import pytest
from rich.console import Console

from sagacore import UsageError
from sagacore.demo.counters import Counters
from sagacore.demo.ledger import Violation
from sagacore.demo.options import DemoOptions
from sagacore.demo.progress import PlainShow, show_on
from sagacore.demo.report import print_report
from sagacore.demo.result import CoordinatorFigures, Result

FIGURES = CoordinatorFigures(slots=256, table_bytes=16_384, evictions=12_345, spills=678, rss_bytes=40 << 20)


def result(**changes: object) -> Result:
    fields: dict[str, object] = {
        "options": DemoOptions(orders=1_000),
        "completed": 900,
        "compensated": Counter({"charge rejected it (over the limit)": 60, "its deadline passed": 40}),
        "violations": [],
        "elapsed_s": 0.5,
        "latencies_ms": [float(n) for n in range(1, 1_001)],
        "messages": 5_300,
        "plan_messages": 5,
        "coordinator": FIGURES,
    }
    return Result(**{**fields, **changes})  # type: ignore[arg-type]


def rendered(shown: Result) -> str:
    console = Console(file=io.StringIO(), width=110)
    print_report(shown, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_good_run_is_told_in_words_and_figures() -> None:
    text = rendered(result())
    for words in (
        "900",
        "90.0%",
        "charge rejected it (over the limit)",
        "6.0%",
        "2,000 sagas a second",
        "p50 500.0 ms, p99 990.0 ms",
        "5.3 a saga, by the plan 5",
        "256 slots",
        "12,345 evictions, 678 spills",
        "40.0 MiB resident",
        "0 violations",
    ):
        assert words in text
    assert "not ended" not in text
    assert "kills" not in text


def test_violations_and_orders_that_have_not_ended_are_named() -> None:
    violations = [Violation("applied-twice", f"order-{n}", "charge was done 2 times") for n in range(25)]
    shown = result(violations=violations, completed=890)
    text = rendered(shown)
    assert not shown.passed
    assert "10 orders have not ended" in text
    assert "25 violations" in text
    assert "applied-twice  order-0: charge was done 2 times" in text
    assert "and 5 more" in text


def test_kills_are_counted_by_kind_and_the_count_of_messages_is_called_inexact() -> None:
    text = rendered(result(kills=Counter({"broker": 2, "orders": 1}), longest_pause_ms=812.4))
    assert "3 processes with kill -9, each started again: 2 broker, 1 orders" in text
    assert "812 ms" in text
    assert "about 5.3 a saga" in text


def test_the_json_object_has_the_promised_keys() -> None:
    shown = json.loads(json.dumps(result(kills=Counter({"orders": 3})).as_json()))
    assert shown == {
        "orders": 1_000,
        "completed": 900,
        "compensated": 100,
        "stuck": 0,
        "violations": 0,
        "sagas_per_s": 2_000.0,
        "latency_ms": {"p50": 500.0, "p99": 990.0},
        "messages_per_saga": 5.3,
        "plan_messages": 5,
        "kills": 3,
        "coordinator": {
            "slots": 256,
            "table_bytes": 16_384,
            "evictions": 12_345,
            "spills": 678,
            "rss_bytes": 40 << 20,
        },
    }


def test_a_run_in_which_nothing_ended_can_be_shown() -> None:
    shown = result(completed=0, compensated=Counter(), latencies_ms=[], elapsed_s=0.0, messages=None)
    assert shown.as_json()["messages_per_saga"] is None
    assert not shown.passed
    assert "1,000 orders have not ended" in rendered(shown)


@pytest.mark.parametrize(
    "wrong",
    [{"orders": 0}, {"reject": 1.5}, {"reject": -0.1}, {"kill": -1}, {"workers": 0}, {"slots": 8}, {"in_flight": 0}],
)
def test_options_that_cannot_be_run_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        DemoOptions(**wrong)  # type: ignore[arg-type]


def test_counters_add_up_over_restarts() -> None:
    counters = Counters()
    counters.observe(sample(boot=1, messages=100, evictions={77: 5}))
    counters.observe(sample(boot=1, messages=200, evictions={77: 7}))
    counters.observe(sample(boot=2, messages=50, evictions={88: 1}))
    assert counters.messages == 250
    assert counters.coordinator.evictions == 8 + 2 * 3
    assert counters.coordinator.spills == 250
    assert counters.coordinator.slots == 256


def test_where_no_broker_answered_nothing_is_counted() -> None:
    assert Counters().messages is None


def sample(*, boot: int, messages: int, evictions: dict[int, int]) -> dict[str, object]:
    table = {"slots": 256, "table_bytes": 16_384, "evictions_clean": 3, "rss_bytes": 1}
    coordinators = [{**table, "pid": pid, "evictions_dirty": dirty} for pid, dirty in evictions.items()]
    return {"boot_epoch": boot, "messages": messages, "spills": messages, "coordinators": coordinators}


def test_where_there_is_no_terminal_plain_lines_are_printed() -> None:
    console = Console(file=io.StringIO(), width=110)
    show = show_on(console, 10)
    assert isinstance(show, PlainShow)
    show.update(completed=3, compensated=1)
    show.note("kill -9 of broker")
    show.update(completed=8, compensated=2)
    show.close()
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "kill -9 of broker"
    assert lines[1].startswith("10 of 10 orders ended (8 completed, 2 compensated)")
    assert len(lines) == 2
