"""What a step holds until its saga has ended or the step was undone: a seat, a customer's credit, some of a pool."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, TypeAlias

import msgspec

from sagacore.errors import UsageError
from sagacore.limits import RESOURCE_BYTES_MAX
from sagacore.rejection import Rejected

Waiting: TypeAlias = Literal["detect", "wound-wait", "fail"]
"""What the holds of a service do when another saga is in the way: see `Service`."""
HOLD_SIZE_MAX: Final = 2**31 - 1
"""The largest pool."""
WAITING: Final[tuple[Waiting, ...]] = ("detect", "wound-wait", "fail")


class Mode(enum.IntEnum):
    """Who may have the same resource at the same time, in the core's codes. They stand in databases: never changed."""

    EXCLUSIVE = 0
    SHARED = 1
    COUNTED = 2


class Hold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing to hold, by a text that names it within its service: `Hold("sku:42")`.

    `Hold("x")` is for one saga at a time, `Hold.shared("x")` for any number of sagas that all share it, and
    `Hold.counted("pool", 2, of=10)` takes 2 of a pool of 10. What stands before the first ":" is its kind, for
    `sagacore check`. Raises UsageError (SAGA-E410) for a text that is empty or too long, and for amounts that cannot
    be.
    """

    resource: str
    mode: Mode = Mode.EXCLUSIVE
    amount: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        try:
            is_named = 0 < len(self.resource.encode()) <= RESOURCE_BYTES_MAX
        except UnicodeEncodeError:
            is_named = False
        if not is_named:
            raise UsageError(
                "SAGA-E410",
                f"{self.resource[:50]!r} cannot be the name of a resource",
                f"a name has 1 to {RESOURCE_BYTES_MAX} bytes of text",
            )
        if not 1 <= self.amount <= self.of <= HOLD_SIZE_MAX:
            raise UsageError(
                "SAGA-E410",
                f"{self.amount} of {self.of} of {self.resource!r} cannot be held",
                f"1 <= amount <= of <= {HOLD_SIZE_MAX}",
            )

    @staticmethod
    def shared(resource: str) -> Hold:
        """Hold it together with any number of sagas that share it too. Raises UsageError (SAGA-E410)."""
        return Hold(resource, Mode.SHARED)

    @staticmethod
    def counted(resource: str, amount: int = 1, *, of: int) -> Hold:
        """Hold so many of a pool of `of`. Raises UsageError (SAGA-E410)."""
        return Hold(resource, Mode.COUNTED, amount, of)

    @property
    def kind(self) -> str:
        """The text before the first ":"."""
        return self.resource.partition(":")[0]


Declared: TypeAlias = Callable[[Any], Iterable[str | Hold]]
"""What an action holds, by the saga's input."""


class Held(Rejected):
    """Another saga holds what was asked for, and the call is not to wait.

    Nothing was taken: whoever catches it may do without. Otherwise it is a rejection like any other.
    """

    def __init__(self, resource: str) -> None:
        super().__init__(f"{resource} is held by another saga")
        self.resource = resource


class Blocked(BaseException):
    """Unwinds a handler whose saga has to wait. It is called again, from its beginning, when that may help."""


def as_hold(what: str | Hold) -> Hold:
    """A hold from how a user writes it. Raises UsageError (SAGA-E410)."""
    return what if isinstance(what, Hold) else Hold(what)
