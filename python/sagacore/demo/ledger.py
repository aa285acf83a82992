"""The audit: reads the services' own books after the run and tells what must not be.

Every order is completed with all four effects or compensated with none; no effect is there twice, nothing is undone
twice or without having been done; no money and no piece is gained or lost. The books are read, never repaired.
"""

import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .shop.contracts import Order
from .shop.customers import rejected_by
from .shop.gateway import SHOP_ACCOUNT

Rule = Literal[
    "unknown-order",
    "applied-twice",
    "undone-twice",
    "undone-without-effect",
    "effect-missing",
    "effect-left-over",
    "effect-wrong",
    "completed-though-rejected",
    "rejected-without-reason",
    "told-twice",
    "outcome-changed",
    "lost",
    "not-ended",
    "died",
    "check-failed",
    "money-not-conserved",
    "stock-not-conserved",
]


class Violation(NamedTuple):
    """Something in the books that must not be. `subject` is an order's id, an account or a sku."""

    rule: Rule
    subject: str
    text: str


class Told(NamedTuple):
    """What the client was told of an order. `rejected_step` is the step that rejected it, if that is why it ended."""

    completed: bool
    rejected_step: str | None = None


@dataclass(slots=True)
class Effect:
    """What one service did for one order: how often, how often it took it back, and whether it did what was asked."""

    done: int = 0
    undone: int = 0
    as_ordered: bool = True


@dataclass(slots=True)
class Books:
    """What stands in the stores of the four services."""

    effects: dict[str, dict[str, Effect]] = field(default_factory=dict)
    """Of each step, of each order."""
    imbalances: list[Violation] = field(default_factory=list)
    """Sums that do not fit, whatever the orders are."""


def audit(folder: Path, orders: Iterable[Order], told: Mapping[str, Told]) -> list[Violation]:
    """Check the stores in `folder` against the orders placed and what the client was told of those that ended.

    An order that is not in `told` has not ended: whether its effects are complete is not judged. Raises
    `sqlite3.Error` if a store cannot be read.
    """
    placed = {order.order_id: order for order in orders}
    books = read_books(folder, placed)
    violations = [*books.imbalances]
    for step, effects in books.effects.items():
        for order_id, effect in effects.items():
            violations += _judge_effect(step, order_id, effect, known=order_id in placed)
    for order_id, outcome in told.items():
        violations += _judge_outcome(placed[order_id], outcome, books)
    return violations


def read_books(folder: Path, placed: Mapping[str, Order]) -> Books:
    """Read all four stores. Raises `sqlite3.Error` if one cannot be read."""
    books = Books()
    books.effects["create"] = _read_orders(folder / "orders.db", placed)
    books.effects["charge"], imbalances = _read_gateway(folder / "gateway.db", placed)
    books.imbalances += imbalances
    books.effects["reserve"], imbalances = _read_inventory(folder / "inventory.db", placed)
    books.imbalances += imbalances
    books.effects["schedule"] = _read_shipping(folder / "shipping.db", placed)
    return books


def _judge_effect(step: str, order_id: str, effect: Effect, *, known: bool) -> Iterator[Violation]:
    counts = f"{step} was done {effect.done} times and undone {effect.undone} times"
    if not known:
        yield Violation("unknown-order", order_id, f"{counts}, but nobody placed this order")
    if effect.done > 1:
        yield Violation("applied-twice", order_id, counts)
    if effect.undone > 1:
        yield Violation("undone-twice", order_id, counts)
    if effect.undone > effect.done:
        yield Violation("undone-without-effect", order_id, counts)
    if not effect.as_ordered:
        yield Violation("effect-wrong", order_id, f"{step} was done, but not what was ordered")


def _judge_outcome(order: Order, outcome: Told, books: Books) -> Iterator[Violation]:
    reasons = rejected_by(order)
    if outcome.completed and reasons:
        text = f"completed, but {' and '.join(reasons)} had to reject it"
        yield Violation("completed-though-rejected", order.order_id, text)
    if outcome.rejected_step is not None and outcome.rejected_step not in reasons:
        text = f"{outcome.rejected_step} rejected it, but had no reason to"
        yield Violation("rejected-without-reason", order.order_id, text)
    for step, effects in books.effects.items():
        effect = effects.get(order.order_id)
        stands = effect is not None and effect.done > effect.undone
        if outcome.completed and not stands:
            yield Violation("effect-missing", order.order_id, f"completed, but {step} has left no effect")
        if not outcome.completed and stands:
            yield Violation("effect-left-over", order.order_id, f"compensated, but the effect of {step} stands")


def _read_orders(path: Path, placed: Mapping[str, Order]) -> dict[str, Effect]:
    effects: defaultdict[str, Effect] = defaultdict(Effect)
    rows = "select order_id, customer, sku, quantity, cents, cancelled from orders"
    for order_id, customer, sku, quantity, cents, cancelled in _rows(path, rows):
        effect = effects[order_id]
        effect.done += 1
        effect.undone += cancelled
        effect.as_ordered &= placed.get(order_id) in (None, Order(order_id, customer, sku, quantity, cents))
    return effects


def _read_gateway(path: Path, placed: Mapping[str, Order]) -> tuple[dict[str, Effect], list[Violation]]:
    effects: defaultdict[str, Effect] = defaultdict(Effect)
    flow_cents: defaultdict[str, int] = defaultdict(int)
    for order_id, payer, payee, cents in _rows(path, "select order_id, payer, payee, cents from postings"):
        flow_cents[payer] -= cents
        flow_cents[payee] += cents
        refund = payer == SHOP_ACCOUNT
        effect = effects[order_id]
        effect.undone += refund
        effect.done += not refund
        order = placed.get(order_id)
        if order is not None:
            effect.as_ordered &= (order.customer, order.cents) == (payee if refund else payer, cents)
    imbalances = []
    total_cents = 0
    for name, cents, opening_cents in _rows(path, "select name, cents, opening_cents from accounts"):
        total_cents += cents - opening_cents
        expected_cents = opening_cents + flow_cents.pop(name, 0)
        if cents != expected_cents:
            text = f"has {cents} cents, but opening and postings make {expected_cents}"
            imbalances.append(Violation("money-not-conserved", name, text))
    for name, cents in flow_cents.items():
        imbalances.append(Violation("money-not-conserved", name, f"{cents} cents were posted to no account"))
    if total_cents != 0:
        imbalances.append(Violation("money-not-conserved", "all accounts", f"the total changed by {total_cents} cents"))
    return effects, imbalances


def _read_inventory(path: Path, placed: Mapping[str, Order]) -> tuple[dict[str, Effect], list[Violation]]:
    effects: defaultdict[str, Effect] = defaultdict(Effect)
    standing: defaultdict[str, int] = defaultdict(int)
    for order_id, sku, quantity, released in _rows(path, "select order_id, sku, quantity, released from reservations"):
        standing[sku] += quantity * (1 - released)
        effect = effects[order_id]
        effect.done += 1
        effect.undone += released
        order = placed.get(order_id)
        effect.as_ordered &= order is None or (order.sku, order.quantity) == (sku, quantity)
    imbalances = []
    for sku, free, reserved, opening in _rows(path, "select sku, free, reserved, opening from stock"):
        expected = standing.pop(sku, 0)
        if (free, reserved) != (opening - expected, expected):
            text = f"{free} free and {reserved} reserved of {opening}, but reservations make {expected}"
            imbalances.append(Violation("stock-not-conserved", sku, text))
        elif free < 0:
            imbalances.append(Violation("stock-not-conserved", sku, f"{-free} more were reserved than there were"))
    for sku, pieces in ((sku, pieces) for sku, pieces in standing.items() if pieces):
        imbalances.append(Violation("stock-not-conserved", sku, f"{pieces} pieces are reserved of nothing"))
    return effects, imbalances


def _read_shipping(path: Path, placed: Mapping[str, Order]) -> dict[str, Effect]:
    effects: defaultdict[str, Effect] = defaultdict(Effect)
    for order_id, sku, quantity in _rows(path, "select order_id, sku, quantity from shipments"):
        effect = effects[order_id]
        effect.done += 1
        order = placed.get(order_id)
        effect.as_ordered &= order is None or (order.sku, order.quantity) == (sku, quantity)
    return effects


def _rows(path: Path, query: str) -> Iterator[tuple[Any, ...]]:
    # Opened for reading and writing, because a store whose writer was killed has to replay its journal first.
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=20)) as books:
        yield from books.execute(query)
