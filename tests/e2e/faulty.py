"""Services that behave as badly as a handler can: an order's `mode` says how."""

import asyncio
import sys

import msgspec

from sagacore import Rejected, Retry, Saga, Service


class Order(msgspec.Struct):
    """What is ordered, by a name that makes it unique."""

    mode: str
    name: str = ""


class Prepared(msgspec.Struct):
    """The first step's result."""

    text: str


class Acted(msgspec.Struct):
    """The second step's result."""

    text: str


class Unspeakable(Exception):
    """An error that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


ERRORS = {
    "base": BaseException("base"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "cancelled": asyncio.CancelledError(),
    "generator": GeneratorExit(),
    "unspeakable": Unspeakable(),
}
QUICK = Retry(tries=2, first_ms=1, last_ms=10)
first, second = Service("first"), Service("second")


@first.action(timeout=1, retry=QUICK)
def prepare(order: Order) -> Prepared:
    """Always succeed."""
    return Prepared(order.name)


@prepare.compensation(timeout=1, retry=QUICK)
def unprepare(order: Order, prepared: Prepared | None) -> None:
    """Never succeed, if the order says so."""
    if order.mode == "stuck":
        raise RuntimeError("no way back")


def misbehave(mode: str) -> Acted:
    """End in the way that the order asks for."""
    if mode in ERRORS:
        raise ERRORS[mode]
    if mode == "stuck":
        raise Rejected("no")
    if mode == "wrong":
        return sys  # type: ignore[return-value]
    return Acted("x" * (5_000 if mode == "large" else 1))


@second.action(timeout=1, retry=QUICK)
def act(order: Order, prepared: Prepared) -> Acted:
    """Misbehave in the call."""
    return misbehave(order.mode)


@act.compensation(timeout=1, retry=QUICK)
def unact(order: Order, acted: Acted | None) -> None:
    """Succeed."""


@second.action(timeout=0.2, retry=QUICK)
async def act_later(order: Order, prepared: Prepared) -> Acted:
    """Misbehave in the coroutine."""
    await asyncio.sleep(60 if order.mode == "never" else 0)
    return misbehave(order.mode)


@act_later.compensation(timeout=1, retry=QUICK)
async def unact_later(order: Order, acted: Acted | None) -> None:
    """Succeed."""


plain = Saga("plain", Order, deadline=20).then(prepare).then(act)
coroutine = Saga("coroutine", Order, deadline=20).then(prepare).then(act_later)
