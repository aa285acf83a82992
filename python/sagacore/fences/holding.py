"""What one call of an action holds, and what follows when another saga is in the way.

The fence keeps holds beside its rows, so that a hold, the effect and the outcome are committed together. Its
`HoldStore` says whether a hold can be had; this module does what follows, which is the same for every fence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

import msgspec

from sagacore.errors import FenceError
from sagacore.fences.work import Phase, Work
from sagacore.holds import Blocked, Declared, Held, Hold, Waiting, as_hold
from sagacore.isolation import Journal

Holder: TypeAlias = tuple[bytes, int, int]
"""Who is in the way: saga, attempt, and the number of its step."""

HOLDS_PER_CALL_MAX: Final = 64
_POLICIES: Final[dict[Waiting, int]] = {"detect": 0, "wound-wait": 1}
_encode = msgspec.msgpack.Encoder().encode


def holder(work: Work) -> Holder:
    """Who a call is for, as the broker is told."""
    return work[3], work[4], work[12][0]


class HoldStore(Protocol):
    """Where a fence keeps holds."""

    def take(self, hold: Hold, work: Work, *, waits: bool) -> Sequence[Holder]:
        """Take a hold for a call, or say who is in the way; the oldest 16 at most. `waits`: the call waits for them."""


class Holding:
    """The holds of one call."""

    __slots__ = ("_asked", "_policy", "_store", "_title", "_work", "blocked", "claim", "journal", "lost")

    def __init__(self, store: HoldStore, work: Work, title: str, policy: Waiting) -> None:
        self._store = store
        self._work = work
        self._title = title
        self._policy: Waiting = policy
        self._asked = 0
        self.blocked: bytes | None = None
        """What the broker is told where the call has to wait."""
        self.claim: Hold | None = None
        """What it waits for."""
        self.lost: bytes | None = None
        """Why its saga begins anew, where the call had to wait and must not any more."""
        self.journal: Journal | None = None
        """Where accesses are recorded: what is held is noted there."""

    @property
    def is_stopped(self) -> bool:
        """Whether the call has ended where it asked for something, whatever its handler made of that."""
        return self.blocked is not None or self.lost is not None

    @property
    def is_used(self) -> bool:
        """Whether anything was asked for."""
        return self._asked > 0

    def take(self, hold: Hold, *, wait: bool) -> None:
        """See `Context.hold`. Raises Blocked where the call has to wait, and again if the handler goes on."""
        if self.is_stopped:
            raise Blocked
        self._check()
        self._asked += 1
        waits = wait and self._policy != "fail"
        is_wounded = self._work[12][3]
        holders = self._store.take(hold, self._work, waits=waits and not is_wounded)
        if not holders:
            if self.journal is not None:
                self.journal.note("hold", hold.resource)
            return
        if not waits:
            raise Held(hold.resource)
        if is_wounded:
            self.lost = b"it gave way to an older saga"
            raise Blocked
        self.claim = hold
        self.blocked = _encode([_POLICIES[self._policy], int(hold.mode), hold.resource.encode(), holders])
        raise Blocked

    def take_all(self, declared: Declared, given: object) -> None:
        """Take what an action declares for an input."""
        for what in declared(given):
            self.take(as_hold(what), wait=True)

    def _check(self) -> None:
        if self._work[11][0] == Phase.PAST:
            raise FenceError(
                "SAGA-E407",
                f"step {self._title!r} stands past the pivot and wants to hold something",
                "what is past the pivot must succeed, so it never waits: let a step before it hold",
            )
        if self._asked == HOLDS_PER_CALL_MAX:
            raise FenceError(
                "SAGA-E411",
                f"one call of {self._title!r} wants to hold more than {HOLDS_PER_CALL_MAX} resources",
                "hold something that stands for all of them, or let several steps hold them",
            )
