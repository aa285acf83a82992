"""Sagas over message passing: atomic hand-over between services, compensation in order, fixed memory.

A `Service` has steps, a `Saga` puts steps into an order, a `Client` starts sagas and learns their outcomes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sagacore.context import Context
from sagacore.errors import (
    BrokerUnavailable,
    DefinitionError,
    FenceError,
    KeyConflict,
    OutcomeTimeout,
    PayloadError,
    ProtocolError,
    SagacoreError,
    StartRefused,
    UnknownSaga,
    UsageError,
)
from sagacore.holds import Held, Hold
from sagacore.outcomes import Cause, Compensated, Completed, Ended, Outcome, State, Status
from sagacore.rejection import Rejected
from sagacore.saga import Saga
from sagacore.service import Service
from sagacore.steps import Retry, Step

if TYPE_CHECKING:
    from sagacore.client import Client, Handle
    from sagacore.sync_client import SyncClient, SyncHandle
    from sagacore.testing import Sandbox

__all__ = [
    "BrokerUnavailable",
    "Cause",
    "Client",
    "Compensated",
    "Completed",
    "Context",
    "DefinitionError",
    "Ended",
    "FenceError",
    "Handle",
    "Held",
    "Hold",
    "KeyConflict",
    "Outcome",
    "OutcomeTimeout",
    "PayloadError",
    "ProtocolError",
    "Rejected",
    "Retry",
    "Saga",
    "SagacoreError",
    "Sandbox",
    "Service",
    "StartRefused",
    "State",
    "Status",
    "Step",
    "SyncClient",
    "SyncHandle",
    "UnknownSaga",
    "UsageError",
]

# The client needs sockets and the extension; contracts and services' modules should be read without either.
_LATER = {
    "Client": "sagacore.client",
    "Handle": "sagacore.client",
    "Sandbox": "sagacore.testing",
    "SyncClient": "sagacore.sync_client",
    "SyncHandle": "sagacore.sync_client",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("sagacore._core").__version__
    if name not in _LATER:
        raise AttributeError(f"module 'sagacore' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
