"""The orders in which sagas declare to take things, and what `sagacore check` says of them."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from sagacore import Hold, Saga, Service, Step
from sagacore.cli import app
from sagacore.hold_order import Wait, check, cycles, symbolic, text
from sagacore.holds import Declared


class Line(Struct):
    sku: str
    quantity: int


class Order(Struct):
    customer: str
    lines: list[Line]


def step(name: str, declared: Declared) -> Step[Order, None]:
    service = Service(name.partition("_")[0])

    @service.action(name=name, holds=declared, compensation=False)
    def act(order: Order) -> None: ...

    return act


stock = step("stock_take", lambda order: [f"sku:{line.sku}" for line in order.lines])
credit = step("credit_take", lambda order: [f"customer:{order.customer}"])
EMPTY = Saga("empty", Order)


def named(name: str) -> Saga[Order, None]:
    return Saga(name, Order)


def test_holds_are_read_without_an_input() -> None:
    texts = symbolic(lambda order: [f"sku:{line.sku}" for line in sorted(order.lines)])
    assert texts == [Hold("sku:{lines[].sku}")]
    [pool] = symbolic(lambda order: [Hold.counted("pool", order.lines[0].quantity * 2, of=10)])
    assert (pool.resource, pool.kind) == ("pool", "pool")
    assert symbolic(lambda order: ["a:" + order.customer.lower() + "!"]) == [Hold("a:{customer.lower()}!")]


def test_one_order_everywhere_cannot_form_a_cycle() -> None:
    report = check([named("a").then(stock).then(credit), named("b").then(stock).then(credit)])
    assert (report.sagas, report.cycles, report.unread) == (("a", "b"), (), ())
    assert "cannot form a cycle" in text(report)


def test_opposite_orders_can_and_the_rarer_one_is_to_change() -> None:
    sagas = [named(name).then(stock).then(credit) for name in ("a", "b")]
    report = check([*sagas, named("c").then(credit).then(stock)])
    [cycle] = report.cycles
    assert cycle.kinds == ("stock.sku", "credit.customer")
    assert [wait.saga for wait in cycle.waits] == ["a", "b", "c"]
    assert [wait.saga for wait in cycle.against] == ["c"]
    assert "an order that cannot: stock.sku, then credit.customer" in text(report)
    assert "c: take stock.sku no later than credit.customer: stock.stock_take before credit.credit_take" in text(report)


def test_steps_side_by_side_come_in_both_orders() -> None:
    [cycle] = check([named("a").then(stock, credit)]).cycles
    assert {(wait.has, wait.asks) for wait in cycle.waits} == {
        ("stock.sku", "credit.customer"),
        ("credit.customer", "stock.sku"),
    }


def test_two_of_one_kind_in_two_steps_can_form_one() -> None:
    there = step("bank_to", lambda order: [f"account:{order.customer}"])
    here = step("bank_from", lambda order: [f"account:{order.lines}"])
    report = check([named("transfer").then(here).then(there)])
    assert [cycle.kinds for cycle in report.cycles] == [("bank.account",)]
    assert "take both bank.account in one step" in text(report)


def test_what_a_saga_has_already_is_not_waited_for() -> None:
    again = step("stock_again", lambda order: [f"sku:{line.sku}" for line in order.lines])
    assert check([named("a").then(stock).then(credit).then(again)]).cycles == ()


def test_a_shared_hold_that_becomes_exclusive_can_form_one() -> None:
    look = step("stock_look", lambda order: [Hold.shared(f"sku:{order.customer}")])
    change = step("stock_change", lambda order: [f"sku:{order.customer}"])
    assert [cycle.kinds for cycle in check([named("a").then(look).then(change)]).cycles] == [("stock.sku",)]


def test_what_all_share_is_never_waited_for() -> None:
    one = step("one_look", lambda order: [Hold.shared("a")])
    two = step("two_look", lambda order: [Hold.shared("b")])
    assert check([named("a").then(one).then(two), named("b").then(two).then(one)]).cycles == ()


def test_a_declaration_that_needs_an_input_is_named() -> None:
    odd = step("odd_take", lambda order: [{"x": "sku:1"}[order.customer]])
    report = check([named("a").then(odd)])
    assert report.unread[0].startswith("odd.odd_take: KeyError")
    assert "cannot be read without an input: odd.odd_take" in text(report)


KINDS = "abcd"
waits = st.builds(
    lambda saga, has, asks: Wait(saga, has, f"{saga}-{has}", asks, f"{saga}-{asks}"),
    st.sampled_from(("s", "t")),
    st.sampled_from(KINDS),
    st.sampled_from(KINDS),
)


def has_cycle(edges: set[tuple[str, str]]) -> bool:
    """Tried the simple way: there is an order of all kinds that every edge follows, or there is not."""
    orders = itertools.permutations(KINDS)
    return not any(all(order.index(has) < order.index(asks) for has, asks in edges) for order in orders)


@given(st.sets(waits, max_size=8))
def test_a_cycle_is_found_if_and_only_if_no_order_avoids_it(found: set[Wait]) -> None:
    cycles_found = cycles(found)
    assert bool(cycles_found) == has_cycle({(wait.has, wait.asks) for wait in found})
    against = {wait for cycle in cycles_found for wait in cycle.against}
    assert not has_cycle({(wait.has, wait.asks) for wait in found - against}), "the suggested order has a cycle"
    assert all(cycle.waits and cycle.against for cycle in cycles_found)


MODULE = """
from sagacore import Saga, Service
a, b = Service("a"), Service("b")

@a.action(holds=lambda n: [f"x:{n}"], compensation=False)
def one(n: int) -> None: ...

@b.action(holds=lambda n: [f"y:{n}"], compensation=False)
def two(n: int) -> None: ...

there = Saga("there", int).then(one).then(two)
back = Saga("back", int).then(two).then(one)
"""


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(app(["check", *words]))
    return int(ended.value.code or 0), capsys.readouterr().out


def test_the_command_checks_modules_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checked_sagas.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    status, said = run(capsys, "checked_sagas")
    assert status == 1
    assert "can form a cycle: a.x <-> b.y" in said
    status, said = run(capsys, "checked_sagas:there", "--json")
    assert (status, json.loads(said)["cycles"]) == (0, [])
