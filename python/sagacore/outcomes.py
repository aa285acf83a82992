"""How a saga ends, and how far it is while it runs."""

from __future__ import annotations

from typing import Generic, Literal, TypeAlias, TypeVar

import msgspec

R_co = TypeVar("R_co", covariant=True)

Cause: TypeAlias = Literal["rejected", "gave-up", "deadline", "cancelled", "delivery-limit", "victim"]
"""Why a saga was aborted: a business no, too many failures, time, a person, a message that nobody answered, or sagas
that it waited for in a circle: it gave way too often, or was cancelled while it did."""

State: TypeAlias = Literal["unknown", "running", "deciding", "completed", "compensating", "compensated", "stuck"]
"""How far a saga is. Deciding: its pivot runs, so it can no longer be cancelled. Stuck: a person should look at it."""


class Completed(msgspec.Struct, Generic[R_co], frozen=True):
    """Every step has taken effect. `result` is the last step's, or those that the saga returns, by step name."""

    result: R_co


class Compensated(msgspec.Struct, frozen=True):
    """No step has an effect any more, save those in `skipped`.

    `step` is the step that was rejected or given up (None where no step caused it), `reason` its text, `cause` the
    kind of cause, and `skipped` names the steps whose compensation an operator skipped.
    """

    step: str | None
    reason: str
    cause: Cause = "rejected"
    skipped: tuple[str, ...] = ()


Outcome: TypeAlias = Completed[R_co] | Compensated
"""How a saga ended: match it with `case Completed(result=...)` and `case Compensated(reason=...)`."""


class Ended(msgspec.Struct, Generic[R_co], frozen=True):
    """One saga of `start_many` has ended: its key, its outcome, and the milliseconds from its start to its end."""

    key: str
    outcome: Completed[R_co] | Compensated
    latency_ms: float


class Status(msgspec.Struct, frozen=True):
    """How far a saga is. `steps` names the steps that may be running now; `saga_id` is empty where it is unknown."""

    state: State
    steps: tuple[str, ...] = ()
    saga_id: str = ""
