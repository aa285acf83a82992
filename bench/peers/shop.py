"""The order saga as every peer runs it: the steps and rules of `examples/shop`, with effects in memory.

It needs the standard library alone, because it runs in the peers' own environment. A service is asked for a step with
an order, and for its compensation; both may be repeated, and do nothing the second time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypedDict

PARCEL_QUANTITY_MAX = 10
CHARGE_CENTS_MAX = 100_000
SHELVES = 100
COMPENSATED = ("charge", "create", "reserve")
"""What a saga that is rejected at its last step has undone, in alphabetical order."""


class Order(TypedDict):
    """The input of the saga, at most 96 bytes."""

    order_id: str
    customer: str
    sku: str
    quantity: int
    cents: int


class Outcome(TypedDict):
    """How a saga ended: with the parcel's number, or without one and with the steps that were undone."""

    parcel: int
    undone: list[str]


class Rejected(Exception):
    """A business no: what was done is compensated."""


def orders(prefix: str, *, rejected: bool) -> Iterator[Order]:
    """Orders without end, each with an id of its own; those that are `rejected` are too heavy for a courier."""
    number = 0
    while True:
        yield Order(
            order_id=f"{prefix}-{number:07}",
            customer=f"customer-{number % 1_000:04}",
            sku=f"sku-{number % SHELVES:04}",
            quantity=1 + number % 3 + (PARCEL_QUANTITY_MAX if rejected else 0),
            cents=100 + number % 10_000,
        )
        number += 1


def checked(outcome: Outcome, *, rejected: bool) -> None:
    """Raise `AssertionError` if a saga ended otherwise than its order says: then no figure means anything."""
    right = sorted(outcome["undone"]) == list(COMPENSATED) if rejected else outcome["parcel"] > 0
    if not right:
        raise AssertionError(f"a saga that should be {'rejected' if rejected else 'completed'} ended with {outcome}")


@dataclass(slots=True)
class Ledger:
    """What one service has done, by order: the number that the step gave, and which orders are undone."""

    done: dict[str, int] = field(default_factory=dict)
    undone: set[str] = field(default_factory=set)

    def do(self, order: Order) -> int:
        """Do the step once: the same order gets the same number again. Nothing is done for one that is undone."""
        if order["order_id"] in self.undone:
            raise Rejected("undone before it was done")
        return self.done.setdefault(order["order_id"], len(self.done) + 1)

    def undo(self, order: Order) -> None:
        """Undo the step, whether or not it was done."""
        self.undone.add(order["order_id"])


Step = Callable[[Ledger, Order], int]


def _create(ledger: Ledger, order: Order) -> int:
    return ledger.do(order)


def _charge(ledger: Ledger, order: Order) -> int:
    if order["cents"] > CHARGE_CENTS_MAX:
        raise Rejected("over the limit")
    return ledger.do(order)


def _reserve(ledger: Ledger, order: Order) -> int:
    return ledger.do(order)


def _schedule(ledger: Ledger, order: Order) -> int:
    if order["quantity"] > PARCEL_QUANTITY_MAX:
        raise Rejected("too heavy for a courier")
    return ledger.do(order)


STEPS: dict[str, tuple[str, Step]] = {
    "create": ("orders", _create),
    "charge": ("payments", _charge),
    "reserve": ("inventory", _reserve),
    "schedule": ("shipping", _schedule),
}
"""The steps in the saga's order, each with its service."""

SERVICES = {service: step for step, (service, _) in STEPS.items()}
"""Each service's one step."""
