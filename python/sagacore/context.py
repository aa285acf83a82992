"""What a handler is told about the call that it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Protocol

from sagacore.errors import FenceError
from sagacore.holds import Hold, as_hold
from sagacore.identity import saga_id_text

if TYPE_CHECKING:
    import sqlite3


class Taker(Protocol):
    """What a call of an action holds, kept beside its outcome."""

    def take(self, hold: Hold, *, wait: bool) -> None:
        """See `Context.hold`."""


class Touched(Protocol):
    """What a call says that it touches, where that is recorded."""

    def note(self, kind: Literal["read", "write"], key: str) -> None:
        """See `Context.reads` and `Context.writes`."""


class Context:
    """One call of an action or a compensation. Ask for it with a parameter `ctx: Context`.

    A context is made for every call, so it keeps what came off the wire and makes texts only when they are asked for.
    """

    __slots__ = (
        "_db",
        "_external",
        "_saga",
        "_taker",
        "_touched",
        "attempt",
        "deadline_ms",
        "idempotency_key",
        "step",
        "tries",
    )

    def __init__(
        self,
        saga: bytes,
        step: str,
        idempotency_key: str,
        *,
        attempt: int = 1,
        tries: int = 1,
        deadline_ms: int = 0,
        external: bool = False,
        db: sqlite3.Connection | None = None,
        taker: Taker | None = None,
        touched: Touched | None = None,
    ) -> None:
        self._saga = saga
        self._external = external
        self._db = db
        self._taker = taker
        self._touched = touched
        self.step: Final = step
        """The step's name."""
        self.idempotency_key: Final = idempotency_key
        """The same text each time that this step is called for this saga: give it to whatever is called outside."""
        self.attempt: Final = attempt
        """Which attempt of the saga this is."""
        self.tries: Final = tries
        """How often this call was made, this time included."""
        self.deadline_ms: Final = deadline_ms
        """When the saga must have ended, in milliseconds of `time.monotonic`; 0 where it has no deadline any more."""

    @property
    def saga_id(self) -> str:
        """The saga's id, as people and tools write it."""
        return saga_id_text(self._saga)

    @property
    def db(self) -> sqlite3.Connection:
        """The service's database, inside the transaction that also stores the step's outcome.

        Raises FenceError: SAGA-E403 in an external action, SAGA-E402 where fences are in memory.
        """
        if self._external:
            raise FenceError(
                "SAGA-E403",
                f"step {self.step!r} is external, so it has no transaction: its outcome is stored when it has returned",
                "make it a plain def without external=True, or open a connection of your own and use idempotency_key",
            )
        if self._db is None:
            raise FenceError(
                "SAGA-E402",
                f"step {self.step!r} asked for ctx.db, but the service's fences are in memory",
                "start the service with --fence sqlite:PATH",
            )
        return self._db

    def hold(self, what: str | Hold, *, wait: bool = True) -> None:
        """Hold something until the saga has ended, or this step was undone: `ctx.hold("sku:42")`.

        A text is for one saga at a time; `Hold.shared` and `Hold.counted` make other holds. What a call holds is
        committed with its effect and its outcome. Where another saga is in the way, the call ends here, nothing of it
        stays, and it is made again, from its beginning, when that saga is through. With `wait=False`, and where the
        service says `waiting="fail"`, it raises `Held` instead, which is a rejection unless it is caught. What its own
        saga holds already is never in the way.

        Raises FenceError in an external action (SAGA-E408), in a compensation (SAGA-E409), past the pivot (SAGA-E407)
        and for more than 64 holds in one call (SAGA-E411), and UsageError (SAGA-E410) for what cannot be held.
        """
        if self._external:
            raise FenceError(
                "SAGA-E408",
                f"step {self.step!r} is external, so it has no transaction that a hold could be in",
                "let a plain step before it hold: what is held stays until the saga has ended",
            )
        if self._taker is None:
            raise FenceError(
                "SAGA-E409",
                f"the compensation of step {self.step!r} wants to hold something, and it must never wait",
                "what the step itself holds is still held while it is compensated",
            )
        self._taker.take(as_hold(what), wait=wait)

    def reads(self, key: str) -> None:
        """Say that what this call writes depends on what it reads here, for `sagacore isolation`.

        It does nothing unless the process records accesses.
        """
        if self._touched is not None:
            self._touched.note("read", key)

    def writes(self, key: str) -> None:
        """Say that this call changes something, for `sagacore isolation`.

        It does nothing unless the process records accesses.
        """
        if self._touched is not None:
            self._touched.note("write", key)

    def __repr__(self) -> str:
        return f"saga={self.saga_id} step={self.step} attempt={self.attempt} tries={self.tries}"
