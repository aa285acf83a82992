"""What a handler asks for and gives back, read once from its annotations."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sagacore.context import Context
from sagacore.errors import DefinitionError

MISSING: Any = inspect.Parameter.empty
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a handler: the saga's input, then `asked` in their order, and perhaps a context among them.

    `context_at` is the context's place among the parameters after the input, `output` the type that is returned, or
    MISSING.
    """

    input: Any
    asked: tuple[Any, ...]
    context_at: int | None
    output: Any

    @property
    def wants_context(self) -> bool:
        """Whether the handler has a parameter `ctx: Context`."""
        return self.context_at is not None


def describe(function: Callable[..., Any]) -> str:
    """A handler as an error names it: its name and where it stands."""
    plain = _unwrapped(function)
    code = getattr(plain, "__code__", None)
    name = getattr(plain, "__qualname__", type(plain).__name__)
    return f"{name}()" if code is None else f"{name}() in {code.co_filename}:{code.co_firstlineno}"


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call of the handler must be awaited."""
    plain = _unwrapped(function)
    return inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(type(plain).__call__)


def read(function: Callable[..., Any]) -> Signature:
    """The signature of a handler. Raises DefinitionError (SAGA-E101) for parameters that cannot be filled."""
    hints = _hints(function)
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        raise DefinitionError(
            "SAGA-E102",
            f"{describe(function)} has no parameters",
            "the first one is the saga's input, annotated with its type",
        )
    types = [_type_of(function, parameter, hints) for parameter in parameters]
    places = [place for place, tp in enumerate(types[1:]) if tp is Context]
    if len(places) > 1:
        raise _unreadable(function, "two parameters are a Context", "one is enough")
    if types[0] is Context:
        raise DefinitionError(
            "SAGA-E102",
            f"{describe(function)} begins with the context",
            "the first parameter is the saga's input: put ctx after it",
        )
    asked = tuple(tp for tp in types[1:] if tp is not Context)
    output = hints.get("return", MISSING)
    return Signature(types[0], asked, places[0] if places else None, output)


def binder(
    function: Callable[..., Any], context_at: int | None, order: tuple[int, ...]
) -> Callable[[Any, tuple[Any, ...], Context], Any]:
    """A call `bind(input, results, context)` of the handler, with everything that can be known before it decided.

    `order[i]` is the place, among the results as they come, of the i-th result that the handler asks for.
    """
    if order != tuple(range(len(order))):
        return _binder_in_order(function, context_at, order)
    if context_at is None:
        if not order:
            return lambda given, _results, _context: function(given)
        return lambda given, results, _context: function(given, *results)
    if not order:
        return lambda given, _results, context: function(given, context)
    if context_at == len(order):
        return lambda given, results, context: function(given, *results, context)
    return lambda given, results, context: function(given, *results[:context_at], context, *results[context_at:])


def _binder_in_order(
    function: Callable[..., Any], context_at: int | None, order: tuple[int, ...]
) -> Callable[[Any, tuple[Any, ...], Context], Any]:
    def bind(given: Any, results: tuple[Any, ...], context: Context) -> Any:
        arguments: list[Any] = [results[place] for place in order]
        if context_at is not None:
            arguments.insert(context_at, context)
        return function(given, *arguments)

    return bind


def arranger(context_at: int | None, order: tuple[int, ...]) -> Callable[..., list[Sequence[Any]]]:
    """What `binder` does for one call, done for many.

    `arrange(inputs, results, contexts)` gives, for each parameter of the handler, what it gets in each call.
    """
    is_ordered = order == tuple(range(len(order)))

    def arrange(
        inputs: Sequence[Any], results: list[Sequence[Any]], contexts: Sequence[Context]
    ) -> list[Sequence[Any]]:
        columns = [inputs, *(results if is_ordered else [results[place] for place in order])]
        if context_at is not None:
            columns.insert(1 + context_at, contexts)
        return columns

    return arrange


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    plain = _unwrapped(function)
    # An object that can be called: its annotations are the method's.
    annotated = plain if inspect.isroutine(plain) else type(plain).__call__
    try:
        return typing.get_type_hints(annotated, include_extras=True)
    except NameError as error:
        raise _unreadable(
            function,
            f"the annotation {error.name!r} is not a name of its module",
            "define the type at the top of a module, and import it there without TYPE_CHECKING",
        ) from error


def _type_of(function: Callable[..., Any], parameter: inspect.Parameter, hints: dict[str, Any]) -> Any:
    if parameter.kind not in _POSITIONAL:
        raise _unreadable(
            function,
            f"{parameter.name!r} is not an ordinary parameter",
            "only the input, earlier results and ctx: Context are filled in, in that order",
        )
    tp = hints.get(parameter.name, MISSING)
    if tp is MISSING:
        raise _unreadable(
            function,
            f"{parameter.name!r} has no annotation",
            "annotate it: the input and earlier results are found by type, the context is ctx: Context",
        )
    return tp


def _unreadable(function: Callable[..., Any], why: str, hint: str) -> DefinitionError:
    return DefinitionError("SAGA-E101", f"{describe(function)}: {why}", hint)
