"""A service: the steps that one team's processes do."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, Protocol, TypeVar, overload

from sagacore import signatures
from sagacore.errors import DefinitionError
from sagacore.holds import Declared, Waiting
from sagacore.limits import RESULT_BYTES_DEFAULT
from sagacore.signatures import MISSING
from sagacore.steps import TIMEOUT_S_DEFAULT, Options, Retry, Step, check_name, check_waiting

In = TypeVar("In")
Out = TypeVar("Out")


class ActionDecorator(Protocol):
    """What `@service.action(...)` puts above a function: it becomes a step of the function's own types."""

    @overload
    def __call__(self, function: Callable[Concatenate[In, ...], Coroutine[Any, Any, Out]], /) -> Step[In, Out]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[In, ...], Out], /) -> Step[In, Out]: ...


class Service:
    """A named set of steps. `sagacore service module:object` runs it as a process, as often as it is started.

    `waiting` says what `ctx.hold` does when another saga is in the way. "detect": wait, and where sagas wait for each
    other, the youngest of them is compensated and started anew. "wound-wait": wait for older sagas, and have younger
    ones compensated and started anew. "fail": do not wait, raise `Held`. Raises DefinitionError for what cannot be.
    """

    def __init__(self, name: str, *, waiting: Waiting = "detect") -> None:
        self.name = check_name(name, "service")
        self.waiting = check_waiting(waiting)
        self._steps: dict[str, Step[Any, Any]] = {}

    @property
    def steps(self) -> list[Step[Any, Any]]:
        """The steps in the order in which they were declared."""
        return list(self._steps.values())

    @overload
    def step(
        self,
        name: str,
        *,
        input: type[In],
        output: type[Out],
        needs: Sequence[Any] = ...,
        result_bytes: int = ...,
        compensation: bool = ...,
    ) -> Step[In, Out]: ...
    @overload
    def step(
        self,
        name: str,
        *,
        input: type[In],
        output: None = ...,
        needs: Sequence[Any] = ...,
        result_bytes: int = ...,
        compensation: bool = ...,
    ) -> Step[In, None]: ...
    def step(
        self,
        name: str,
        *,
        input: type[Any],
        output: type[Any] | None = None,
        needs: Sequence[Any] = (),
        result_bytes: int = RESULT_BYTES_DEFAULT,
        compensation: bool = True,
    ) -> Step[Any, Any]:
        """Declare a step without implementing it: what teams share.

        `needs` are the types of the earlier results that it asks for, `result_bytes` the most that its own result may
        take, and `compensation=False` says that there is nothing to take back, or that it only stands past a pivot.
        Raises DefinitionError or PayloadError for what cannot be.
        """
        declared: type[Any] = type(None) if output is None else output
        return self._add(
            Step(
                name,
                self.name,
                input=input,
                output=declared,
                needs=needs,
                result_bytes=result_bytes,
                compensation=compensation,
                waiting=self.waiting,
            )
        )

    @overload
    def action(self, function: Callable[Concatenate[In, ...], Coroutine[Any, Any, Out]], /) -> Step[In, Out]: ...
    @overload
    def action(self, function: Callable[Concatenate[In, ...], Out], /) -> Step[In, Out]: ...
    @overload
    def action(
        self,
        function: None = None,
        /,
        *,
        name: str | None = ...,
        timeout: float = ...,
        retry: Retry = ...,
        external: bool | None = ...,
        holds: Declared | None = ...,
        result_bytes: int = ...,
        compensation: bool | None = ...,
    ) -> ActionDecorator: ...
    def action(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        timeout: float = TIMEOUT_S_DEFAULT,
        retry: Retry = Retry(),  # noqa: B008 - it is frozen
        external: bool | None = None,
        holds: Declared | None = None,
        result_bytes: int = RESULT_BYTES_DEFAULT,
        compensation: bool | None = None,
    ) -> Any:
        """Declare a step and implement it at once: `@inventory.action` above a function.

        The step is named after the function unless `name` is given, and its types are the function's annotations. The
        other options are those of `Service.step` and `Step.action`. Raises DefinitionError or PayloadError for what
        cannot be.
        """
        options = Options(timeout, retry, external, holds)

        def declare(function: Callable[..., Any]) -> Step[Any, Any]:
            signature = signatures.read(function)
            if signature.output is MISSING:
                raise DefinitionError(
                    "SAGA-E104",
                    f"{signatures.describe(function)} does not say what it returns",
                    "annotate it: later steps find results by type",
                )
            step: Step[Any, Any] = Step(
                getattr(function, "__name__", "") if name is None else name,
                self.name,
                input=signature.input,
                output=signature.output,
                needs=signature.asked,
                result_bytes=result_bytes,
                compensation=compensation,
                waiting=self.waiting,
            )
            step.implement(function, signature, options)
            return self._add(step)

        return declare if function is None else declare(function)

    def check(self) -> None:
        """Raise DefinitionError unless every step is implemented (SAGA-E105, SAGA-E108): called before it is served."""
        for step in self._steps.values():
            if step.implementation is None:
                raise DefinitionError(
                    "SAGA-E105",
                    f"step {step.title!r} has no action in this process",
                    f"import the module that implements it with @{step.name}.action, or serve that module",
                )
            if step.compensable and step.undo is None:
                raise DefinitionError(
                    "SAGA-E108",
                    f"step {step.title!r} has no compensation in this process",
                    f"write one with @{step.name}.compensation, or declare compensation=False",
                )

    def _add(self, step: Step[Any, Any]) -> Step[Any, Any]:
        if step.name in self._steps:
            raise DefinitionError(
                "SAGA-E109", f"service {self.name!r} has a step {step.name!r} already", "give one of them another name="
            )
        self._steps[step.name] = step
        return step

    def __repr__(self) -> str:
        return f"Service({self.name!r}, steps={list(self._steps)})"
