"""An outcome is a closed union: matching its two cases leaves nothing over."""

from typing import assert_never, assert_type

from sagacore import Compensated, Completed, Ended, Outcome, State, Status
from tests.typing.shop import Charged


def tell(outcome: Outcome[Charged]) -> str:
    match outcome:
        case Completed(result=charged):
            assert_type(charged, Charged)
            return str(charged.cents)
        case Compensated(step=step, reason=reason, skipped=skipped):
            assert_type(step, str | None)
            assert_type(reason, str)
            assert_type(skipped, tuple[str, ...])
            return reason
        case _:
            assert_never(outcome)


def by_place(outcome: Outcome[Charged]) -> int:
    match outcome:
        case Completed(charged):
            return charged.cents
        case Compensated(_, reason):
            return len(reason)


def widened(outcome: Completed[int]) -> Completed[float]:
    return outcome


def of_many(ended: Ended[Charged]) -> Outcome[Charged]:
    assert_type(ended.key, str)
    assert_type(ended.latency_ms, float)
    return ended.outcome


def state_of(status: Status) -> State:
    assert_type(status.steps, tuple[str, ...])
    return status.state
