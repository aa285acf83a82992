"""Errors with a code, a sentence that says what happened, and a hint that says what to do about it.

Every code stands in `CODES`, and with its cause and its cure in docs/errors.md. A code never changes its meaning.
"""

from __future__ import annotations

from typing import Final

CODES: Final[dict[str, str]] = {
    # Definition: services, steps, handlers and sagas, when they are written down.
    "SAGA-E101": "a parameter of a handler cannot be read",
    "SAGA-E102": "the first parameter of a handler is not the saga's input",
    "SAGA-E103": "an implementation is not what its contract says",
    "SAGA-E104": "an action does not say what it returns",
    "SAGA-E105": "a step of a service has no action",
    "SAGA-E106": "a step was given a second action or compensation",
    "SAGA-E107": "a compensation has the wrong parameters",
    "SAGA-E108": "a step that may have to be undone has no compensation",
    "SAGA-E109": "a service has two steps of one name",
    "SAGA-E110": "a name is not allowed",
    "SAGA-E111": "an option is out of range",
    "SAGA-E112": "a step needs a result that no earlier step gives",
    "SAGA-E113": "a step needs a result that several earlier steps give",
    "SAGA-E114": "a step takes another input than its saga",
    "SAGA-E115": "a saga has a step twice, or two steps of one name",
    "SAGA-E116": "a step that is referred to is not in the saga yet",
    "SAGA-E117": "a saga has too many steps",
    "SAGA-E118": "a saga has two pivots",
    "SAGA-E119": "a step stands beside the pivot",
    "SAGA-E120": "a saga has no steps",
    "SAGA-E121": "the plan compiler refuses the saga",
    "SAGA-E122": "a step that is declared to need no compensation has one",
    "SAGA-E123": "an external action declares holds",
    "SAGA-E124": "a step past the pivot declares holds",
    "SAGA-E125": "something is not a saga, or not a step",
    # Payloads: inputs and results.
    "SAGA-E201": "a type cannot be a payload",
    "SAGA-E202": "a value is not of its declared type",
    "SAGA-E203": "bytes are not a value of the declared type",
    "SAGA-E204": "a value is larger than declared",
    # Client: starting and following sagas.
    "SAGA-E301": "the broker does not answer",
    "SAGA-E302": "the broker takes no new saga now",
    "SAGA-E303": "the key was used with another saga or input",
    "SAGA-E304": "the outcome was not known in time",
    "SAGA-E305": "the broker does not know the saga",
    "SAGA-E306": "the client is not open",
    "SAGA-E307": "a key or an id of a saga is not allowed",
    "SAGA-E308": "the broker refuses the saga's plan",
    "SAGA-E309": "the broker takes no new saga of such a deadline now",
    # Services: fences and the context of a call.
    "SAGA-E401": "the service has another process, and one of them has its fences in memory",
    "SAGA-E402": "the service's fences are in memory: there is no database",
    "SAGA-E403": "an external action has no transaction",
    "SAGA-E404": "the fence's database cannot be opened",
    "SAGA-E405": "the fence's database belongs to another service or version",
    "SAGA-E406": "a handler tried to end the transaction that it is in",
    "SAGA-E407": "a step past the pivot cannot hold",
    "SAGA-E408": "an external action cannot hold",
    "SAGA-E409": "a compensation cannot hold",
    "SAGA-E410": "a hold is not allowed",
    "SAGA-E411": "a call holds too many resources",
    "SAGA-E412": "the table of holds in memory is full",
    # Protocol and processes.
    "SAGA-E501": "a peer broke the protocol",
    "SAGA-E502": "the broker speaks another version of the protocol",
    "SAGA-E503": "the object that a process should run is not there",
    "SAGA-E504": "the log cannot be opened",
    "SAGA-E505": "an endpoint cannot be used",
    "SAGA-E506": "a setting is missing or contradicts another",
    "SAGA-E507": "the process may open too few files",
    "SAGA-E508": "the brokers are not as the list of endpoints says",
    # Tests: the sandbox.
    "SAGA-E601": "a step cannot be called in the sandbox",
    "SAGA-E602": "a saga did not end in the sandbox's time",
    "SAGA-E603": "the sandbox is not open, or does not have what was asked for",
    "SAGA-E604": "the sandbox's database cannot commit",
}


class SagacoreError(Exception):
    """The base of all errors that sagacore raises itself.

    `code` is one of `CODES`, `message` says what happened and `hint` what to do about it; `str()` shows all three.
    """

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(code, message, hint)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.code} {self.message}\nhint: {self.hint}"


class DefinitionError(SagacoreError):
    """A service, a step or a saga is wired wrongly. Raised where it is written down, before anything runs."""


class PayloadError(SagacoreError):
    """An input or a result is of a type, or of a size, that was not declared."""


class BrokerUnavailable(SagacoreError, ConnectionError):
    """The broker did not answer within the time allowed. What was started may have begun: start it again by its key."""


class StartRefused(SagacoreError):
    """The broker began nothing: it is full, or it refuses the plan.

    `retryable` tells whether the same call may succeed later.
    """

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later."""
        return self.code in ("SAGA-E302", "SAGA-E309")


class KeyConflict(SagacoreError):
    """The key was used before with another saga or another input."""


class UnknownSaga(SagacoreError, LookupError):
    """The broker does not know the saga: it never began, or it ended too long ago."""


class OutcomeTimeout(SagacoreError, TimeoutError):
    """The saga did not end within the time that the caller was ready to wait. The saga goes on."""


class UsageError(SagacoreError):
    """A call that can never work: a closed client, a key that is too long, an object that is not there."""


class FenceError(SagacoreError):
    """The register of a service's effects is not there, or cannot do what was asked of it."""


class ProtocolError(SagacoreError):
    """A peer said what the protocol forbids, or speaks another version of it."""


class LogRefused(SagacoreError):
    """The broker's log is damaged, taken by another process, or of another version. Nothing was changed."""
