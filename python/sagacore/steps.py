"""A step of a saga: its contract, the action that does it, and the compensation that takes it back."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Final, Generic, TypeAlias, TypeVar, overload

import msgspec

from sagacore import payloads, signatures
from sagacore.context import Context
from sagacore.errors import DefinitionError
from sagacore.holds import WAITING, Declared, Hold, Waiting
from sagacore.limits import DEADLINE_MS_MAX, NAME_BYTES_MAX, RESULT_BYTES_DEFAULT, RETRY_LATER_MS_MAX, SECTION_BYTES_MAX
from sagacore.payloads import type_name
from sagacore.signatures import MISSING, Signature

In = TypeVar("In")
Out = TypeVar("Out")

ActionFunction: TypeAlias = Callable[Concatenate[In, ...], Out | Awaitable[Out]]
"""An action: the saga's input, then earlier results by type, then perhaps `ctx: Context`; sync or async."""
CompensationFunction: TypeAlias = Callable[Concatenate[In, Out | None, ...], Awaitable[None] | None]
"""A compensation: the saga's input, the step's own result or None, then perhaps `ctx: Context`; sync or async."""

TIMEOUT_S_DEFAULT: Final = 10.0
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often an action is tried that fails with anything but Rejected, and how long it rests in between.

    The rest doubles from `first_ms` to `last_ms`. After `tries` the step is given up and the saga compensated. A
    compensation, and a step past the pivot, is never given up: there only the rests count.
    Raises DefinitionError (SAGA-E111) for figures that make no sense.
    """

    tries: int = 5
    first_ms: int = 50
    last_ms: int = 5_000

    def __post_init__(self) -> None:
        if self.tries < 1 or not 0 <= self.first_ms <= self.last_ms <= RETRY_LATER_MS_MAX:
            raise DefinitionError(
                "SAGA-E111",
                f"Retry(tries={self.tries}, first_ms={self.first_ms}, last_ms={self.last_ms}) makes no sense",
                f"tries is at least 1, and 0 <= first_ms <= last_ms <= {RETRY_LATER_MS_MAX}",
            )

    def delay_ms(self, tries: int) -> int:
        """The rest in milliseconds after so many failed tries."""
        return min(self.last_ms, self.first_ms << min(tries - 1, 32))


@dataclass(frozen=True, slots=True)
class Options:
    """How a handler is called: see `Step.action`. Raises DefinitionError (SAGA-E111) for a time out of range."""

    timeout: float = TIMEOUT_S_DEFAULT
    retry: Retry = Retry()  # noqa: RUF009 - it is frozen
    external: bool | None = None
    holds: Declared | None = None

    def __post_init__(self) -> None:
        check_range("timeout in milliseconds", round(self.timeout * 1000), 1, DEADLINE_MS_MAX)


@dataclass(frozen=True, slots=True)
class Action:
    """The implementation of a step, ready to be called without looking at it again.

    `bind(input, results, context)` calls the function with decoded values; the results stand in the order of the
    step's `needs`, whatever the function's own order is. What it gives is to be awaited where `is_async`. `arrange` is
    for many calls: see `signatures.arranger`. `holds(input)` is what it holds, taken before it is called.
    """

    function: Callable[..., Any]
    is_async: bool
    external: bool
    timeout_s: float
    retry: Retry
    wants_context: bool
    bind: Callable[[Any, tuple[Any, ...], Context], Any]
    arrange: Callable[..., list[Sequence[Any]]]
    input: payloads.Codec[Any]
    needs: tuple[payloads.Codec[Any], ...]
    output: payloads.Codec[Any]
    holds: Declared | None


@dataclass(frozen=True, slots=True)
class Compensation:
    """What takes a step back: `bind(input, result, context)`, with None for a result that may or may not be there."""

    function: Callable[..., Any]
    is_async: bool
    external: bool
    timeout_s: float
    retry: Retry
    wants_context: bool
    bind: Callable[[Any, Any, Context], Any]
    arrange: Callable[..., list[Sequence[Any]]]
    input: payloads.Codec[Any]
    result: payloads.Codec[Any]


class Step(Generic[In, Out]):
    """A step's contract: its name, its service, what it takes and gives. Made by `Service.step` or `Service.action`.

    `needs` are the types of the earlier results that it asks for, `implementation` and `undo` what was attached to it
    in this process. A contract alone is enough to define a saga and to start it.
    """

    def __init__(
        self,
        name: str,
        service: str,
        *,
        input: type[In],
        output: type[Out],
        needs: Sequence[Any] = (),
        result_bytes: int = RESULT_BYTES_DEFAULT,
        compensation: bool | None = None,
        waiting: Waiting = "detect",
    ) -> None:
        self.name: Final = check_name(name, "step")
        self.service: Final = service
        self.waiting: Final = check_waiting(waiting)
        self.input: Final[Any] = _normal(input)
        self.output: Final[Any] = _normal(output)
        self.needs: Final[tuple[Any, ...]] = tuple(needs)
        self.result_bytes: Final = check_range("result_bytes", result_bytes, 1, SECTION_BYTES_MAX)
        self.declared_compensation: Final = compensation
        self.implementation: Action | None = None
        self.undo: Compensation | None = None
        self.input_codec: Final[payloads.Codec[In]] = payloads.codec(self.input)
        self.output_codec: Final[payloads.Codec[Out]] = payloads.codec(self.output)
        self.need_codecs: Final = tuple(payloads.codec(need) for need in self.needs)
        if any(need in self.needs[:place] for place, need in enumerate(self.needs)):
            raise DefinitionError(
                "SAGA-E113", f"step {self.title!r} asks for one type twice", "wrap one of the two in a type of its own"
            )

    @property
    def title(self) -> str:
        """Service and step, as reports name it."""
        return f"{self.service}.{self.name}"

    @property
    def compensable(self) -> bool:
        """Whether the step can be taken back: as declared, or else as implemented."""
        return self.undo is not None if self.declared_compensation is None else self.declared_compensation

    @overload
    def action(self, function: ActionFunction[In, Out], /) -> Step[In, Out]: ...
    @overload
    def action(
        self,
        function: None = None,
        /,
        *,
        timeout: float = ...,
        retry: Retry = ...,
        external: bool | None = ...,
        holds: Callable[[In], Iterable[str | Hold]] | None = ...,
    ) -> Callable[[ActionFunction[In, Out]], Step[In, Out]]: ...
    def action(
        self,
        function: ActionFunction[In, Out] | None = None,
        /,
        *,
        timeout: float = TIMEOUT_S_DEFAULT,
        retry: Retry = Retry(),  # noqa: B008 - it is frozen
        external: bool | None = None,
        holds: Declared | None = None,
    ) -> Any:
        """Implement the step: `@charge.action` or `@charge.action(timeout=3)` above a function.

        `timeout` is in seconds. `external` says that the effect lies outside of the service's database; it is so for
        every async function. `holds` gives, by the saga's input, what is to be held before the function is called, in
        this order: see `Context.hold`. Raises DefinitionError where the function is not what the contract says.
        """
        options = Options(timeout, retry, external, holds)

        def implement(function: ActionFunction[In, Out]) -> Step[In, Out]:
            return self.implement(function, signatures.read(function), options)

        return implement if function is None else implement(function)

    @overload
    def compensation(self, function: CompensationFunction[In, Out], /) -> Step[In, Out]: ...
    @overload
    def compensation(
        self, function: None = None, /, *, timeout: float = ..., retry: Retry = ..., external: bool | None = ...
    ) -> Callable[[CompensationFunction[In, Out]], Step[In, Out]]: ...
    def compensation(
        self,
        function: CompensationFunction[In, Out] | None = None,
        /,
        *,
        timeout: float = TIMEOUT_S_DEFAULT,
        retry: Retry = Retry(),  # noqa: B008 - it is frozen
        external: bool | None = None,
    ) -> Any:
        """Say how the step is taken back: a function of the saga's input and the step's result, or None.

        None means that the action may or may not have happened: cancel it by `ctx.idempotency_key`. The options are
        those of `action`. Raises DefinitionError where the function has other parameters.
        """
        options = Options(timeout, retry, external)

        def attach(function: CompensationFunction[In, Out]) -> Step[In, Out]:
            return self._attach(function, options)

        return attach if function is None else attach(function)

    def implement(self, function: Callable[..., Any], signature: Signature, options: Options) -> Step[In, Out]:
        """Attach an action whose signature was read already. `action` is what users call."""
        if self.implementation is not None:
            raise _twice(self, "action", function)
        self._check_contract(function, signature)
        asynchronous = signatures.is_async(function)
        external = _external(function, asynchronous, options)
        if external and options.holds is not None:
            raise DefinitionError(
                "SAGA-E123",
                f"{signatures.describe(function)} is external, and declares holds",
                "let a plain step before it hold: what is held stays until the saga has ended",
            )
        order = tuple(self.needs.index(need) for need in signature.asked)
        self.implementation = Action(
            function=function,
            is_async=asynchronous,
            external=external,
            timeout_s=float(options.timeout),
            retry=options.retry,
            wants_context=signature.wants_context,
            bind=signatures.binder(function, signature.context_at, order),
            arrange=signatures.arranger(signature.context_at, order),
            input=self.input_codec,
            needs=self.need_codecs,
            output=self.output_codec,
            holds=options.holds,
        )
        return self

    def _check_contract(self, function: Callable[..., Any], signature: Signature) -> None:
        where = signatures.describe(function)
        if signature.output is MISSING:
            raise DefinitionError(
                "SAGA-E104", f"{where} does not say what it returns", "annotate it: later steps find results by type"
            )
        same_needs = len(signature.asked) == len(self.needs) and all(need in signature.asked for need in self.needs)
        for what, fits, found, wanted in (
            ("takes", signature.input == self.input, [signature.input], [self.input]),
            ("returns", signature.output == self.output, [signature.output], [self.output]),
            ("asks for", same_needs, signature.asked, self.needs),
        ):
            if not fits:
                raise DefinitionError(
                    "SAGA-E103",
                    f"{where} {what} {_list(found)}, but the contract of {self.title!r} says {_list(wanted)}",
                    "change the function, or the contract that the teams share (input=, output=, needs=)",
                )

    def _attach(self, function: Callable[..., Any], options: Options) -> Step[In, Out]:
        where = signatures.describe(function)
        if self.declared_compensation is False:
            raise DefinitionError(
                "SAGA-E122",
                f"{where} compensates {self.title!r}, which is declared compensation=False",
                "drop one of the two",
            )
        if self.undo is not None:
            raise _twice(self, "compensation", function)
        signature = signatures.read(function)
        self._check_compensation(where, signature)
        asynchronous = signatures.is_async(function)
        self.undo = Compensation(
            function=function,
            is_async=asynchronous,
            external=_external(function, asynchronous, options),
            timeout_s=float(options.timeout),
            retry=options.retry,
            wants_context=signature.wants_context,
            bind=function if signature.wants_context else lambda given, result, _context: function(given, result),
            arrange=signatures.arranger(signature.context_at, (0,)),
            input=self.input_codec,
            result=self.output_codec,
        )
        return self

    def _check_compensation(self, where: str, signature: Signature) -> None:
        wanted = (self.input, self.output | None)
        fits = (signature.input, *signature.asked) == wanted and signature.context_at in (None, 1)
        if not fits or signature.output not in (MISSING, None, type(None)):
            raise DefinitionError(
                "SAGA-E107",
                f"{where} cannot compensate {self.title!r}",
                f"its parameters are ({type_name(wanted[0])}, {type_name(wanted[1])}) and perhaps ctx: Context after "
                "them; it returns None",
            )

    def __repr__(self) -> str:
        return f"Step({self.title}: {type_name(self.input)} -> {type_name(self.output)})"


def check_name(name: str, what: str) -> str:
    """The name itself, or DefinitionError (SAGA-E110)."""
    if not _NAME.fullmatch(name) or len(name) > NAME_BYTES_MAX:
        raise DefinitionError(
            "SAGA-E110",
            f"{name!r} cannot be the name of a {what}",
            f"up to {NAME_BYTES_MAX} letters, digits, '_', '-' and '.', with a letter or a digit first; a function's "
            "own name is replaced with name=",
        )
    return name


def check_range(option: str, value: int, low: int, high: int) -> int:
    """The value itself, or DefinitionError (SAGA-E111)."""
    if not low <= value <= high:
        raise DefinitionError("SAGA-E111", f"{option} is {value}", f"it must be between {low} and {high}")
    return value


def check_waiting(waiting: Waiting) -> Waiting:
    """The policy itself, or DefinitionError (SAGA-E111)."""
    if waiting not in WAITING:
        raise DefinitionError("SAGA-E111", f"waiting is {waiting!r}", f"it is one of {', '.join(map(repr, WAITING))}")
    return waiting


def _list(types: Sequence[Any]) -> str:
    return ", ".join(map(type_name, types)) or "no result"


def _normal(tp: Any) -> Any:
    return type(None) if tp is None else tp


def _external(function: Callable[..., Any], asynchronous: bool, options: Options) -> bool:  # noqa: FBT001
    if asynchronous and options.external is False:
        raise DefinitionError(
            "SAGA-E111",
            f"{signatures.describe(function)} is async, and so external",
            "a transaction never waits for others: write a plain def, or leave external=False out",
        )
    return asynchronous if options.external is None else options.external


def _twice(step: Step[Any, Any], what: str, function: Callable[..., Any]) -> DefinitionError:
    return DefinitionError(
        "SAGA-E106",
        f"{signatures.describe(function)} is a second {what} of {step.title!r}",
        "a step has one: give the other one a step of its own",
    )
