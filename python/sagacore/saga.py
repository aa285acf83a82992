"""A saga: which steps, in which order, and where the point of no return lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar, cast, overload

import msgspec

from sagacore import payloads
from sagacore.errors import DefinitionError, ProtocolError
from sagacore.limits import DEADLINE_MS_MAX, INPUT_BYTES_DEFAULT, SECTION_BYTES_MAX, STEPS_MAX
from sagacore.payloads import type_name
from sagacore.picture import Order, counted
from sagacore.steps import Step, check_name, check_range

if TYPE_CHECKING:
    from sagacore._core import Plan

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")

UndoOrder: TypeAlias = Literal["parallel", "chain"]

_FORMAT: Final = 1
_PIVOT: Final = 1
_COMPENSABLE: Final = 2


@dataclass(frozen=True, slots=True)
class _Node:
    """A step in its place: what it comes after, whose results it reads, and what is undone only after it."""

    step: Step[Any, Any]
    after: tuple[int, ...]
    reads: tuple[int, ...]
    undo_before: tuple[int, ...]
    ancestors: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Shape:
    """All that a saga says. Never changed: every call that adds to a saga makes a new one."""

    name: str
    input: Any
    deadline_ms: int
    undo: UndoOrder
    input_bytes: int
    nodes: tuple[_Node, ...] = ()
    pivot: int | None = None
    returns: tuple[int, ...] = ()
    is_named: bool = False


class Saga(Generic[In, Out]):
    """A saga is built by `then` and `step`, each of which gives a new saga and leaves the old one as it was.

    `deadline` is in seconds, from the start to the pivot, or to the end where there is none. `undo="parallel"` takes
    back side by side what may be; `"chain"` one step after the other, with fewer messages. `input_bytes` is the most
    that an input may take. Raises DefinitionError or PayloadError for what cannot be.
    """

    def __init__(
        self: Saga[In, None],
        name: str,
        input: type[In],
        *,
        deadline: float = 30.0,
        undo: UndoOrder = "parallel",
        input_bytes: int = INPUT_BYTES_DEFAULT,
    ) -> None:
        deadline_ms = check_range("deadline in milliseconds", round(deadline * 1000), 1, DEADLINE_MS_MAX)
        check_range("input_bytes", input_bytes, 1, SECTION_BYTES_MAX)
        if undo not in ("parallel", "chain"):
            raise DefinitionError("SAGA-E111", f"undo is {undo!r}", "it is 'parallel' or 'chain'")
        self._shape = _Shape(check_name(name, "saga"), input, deadline_ms, undo, input_bytes)
        self._input_codec = payloads.codec(input)

    @property
    def name(self) -> str:
        """The saga's name."""
        return self._shape.name

    @property
    def input(self) -> type[In]:
        """The type of what the saga is started with."""
        return cast("type[In]", self._shape.input)

    @property
    def deadline(self) -> float:
        """Seconds from the start to the pivot, or to the end where there is none."""
        return self._shape.deadline_ms / 1000

    @property
    def steps(self) -> tuple[Step[Any, Any], ...]:
        """The steps by their number: in the order in which they were added."""
        return tuple(node.step for node in self._shape.nodes)

    @property
    def may_follow(self) -> list[tuple[int, int]]:
        """Pairs of steps, by their numbers, of which the first may run when the second has: also side by side."""
        nodes = self._shape.nodes
        numbers = range(len(nodes))
        return [(a, b) for a in numbers for b in numbers if a != b and a not in nodes[b].ancestors]

    @overload
    def then(
        self,
        step: Step[In, Any],
        /,
        *more: Step[In, Any],
        pivot: bool = ...,
        undo_before: Sequence[Step[Any, Any]] = ...,
        returns: Sequence[Step[In, Any]],
    ) -> Saga[In, dict[str, Any]]: ...
    @overload
    def then(
        self, step: Step[In, T], /, *, pivot: bool = ..., undo_before: Sequence[Step[Any, Any]] = ...
    ) -> Saga[In, T]: ...
    @overload
    def then(
        self,
        step: Step[In, Any],
        other: Step[In, Any],
        /,
        *more: Step[In, Any],
        pivot: bool = ...,
        undo_before: Sequence[Step[Any, Any]] = ...,
    ) -> Saga[In, dict[str, Any]]: ...
    def then(
        self,
        step: Step[Any, Any],
        /,
        *more: Step[Any, Any],
        pivot: bool = False,
        undo_before: Sequence[Step[Any, Any]] = (),
        returns: Sequence[Step[Any, Any]] | None = None,
    ) -> Saga[In, Any]:
        """Add steps side by side, after all that nothing follows yet.

        `pivot=True` makes the one step the point of no return. `undo_before` names earlier steps that are to be undone
        only after these are. The saga's result is the last step's, or by step name those of several side by side, or
        of the steps named by `returns`. Raises DefinitionError for wrong wiring.
        """
        shape = self._shape
        _check_are_steps(shape, (step, *more))
        followed = {before for node in shape.nodes for before in node.after}
        after = tuple(number for number in range(len(shape.nodes)) if number not in followed)
        for one in (step, *more):
            shape = _added(shape, one, after, _numbers(shape, undo_before, f"undo_before of {one.title}"), pivot)
        last = range(len(self._shape.nodes), len(shape.nodes))
        return self._with(_returning(shape, tuple(last), returns))

    @overload
    def step(
        self,
        step: Step[In, Any],
        /,
        *,
        after: Sequence[Step[Any, Any]] = ...,
        pivot: bool = ...,
        undo_before: Sequence[Step[Any, Any]] = ...,
        returns: Sequence[Step[In, Any]],
    ) -> Saga[In, dict[str, Any]]: ...
    @overload
    def step(
        self,
        step: Step[In, T],
        /,
        *,
        after: Sequence[Step[Any, Any]] = ...,
        pivot: bool = ...,
        undo_before: Sequence[Step[Any, Any]] = ...,
    ) -> Saga[In, T]: ...
    def step(
        self,
        step: Step[Any, Any],
        /,
        *,
        after: Sequence[Step[Any, Any]] = (),
        pivot: bool = False,
        undo_before: Sequence[Step[Any, Any]] = (),
        returns: Sequence[Step[Any, Any]] | None = None,
    ) -> Saga[In, Any]:
        """Add one step after those named, or at the start: for graphs that are not made of groups.

        The other options are those of `then`; the saga's result is this step's. Raises DefinitionError for wrong
        wiring.
        """
        shape = self._shape
        _check_are_steps(shape, (step,))
        before = _numbers(shape, after, f"after of {step.title}")
        undone = _numbers(shape, undo_before, f"undo_before of {step.title}")
        shape = _added(shape, step, before, undone, pivot)
        return self._with(_returning(shape, (len(shape.nodes) - 1,), returns))

    @cached_property
    def definition(self) -> bytes:
        """The saga as the broker stores it: canonical MessagePack. Raises DefinitionError for what is missing."""
        shape = self._shape
        if not shape.nodes:
            raise DefinitionError("SAGA-E120", f"saga {shape.name!r} has no steps", "add them: .then(step)")
        undoable = _before_pivot(shape)
        steps = []
        for number, node in enumerate(shape.nodes):
            _check_undo(shape, number, undoable)
            _check_holds(shape, number, undoable)
            compensable = number in undoable and node.step.compensable
            flags = _PIVOT * (number == shape.pivot) | _COMPENSABLE * compensable
            names = (node.step.name, node.step.service, node.step.result_bytes, flags)
            steps.append([*names, node.after, node.reads, node.undo_before])
        head = (_FORMAT, shape.name, shape.input_bytes, shape.deadline_ms, int(shape.undo == "chain"))
        return msgspec.msgpack.encode([*head, shape.returns, steps])

    @cached_property
    def plan(self) -> Plan:
        """The compiled plan. Raises DefinitionError (SAGA-E121) where the compiler refuses the saga."""
        from sagacore import _core  # noqa: PLC0415 - a contract can be read without the extension

        try:
            return _core.compile_plan(self.definition)
        except ValueError as error:
            name, _, why = str(error).partition(": ")
            raise DefinitionError(
                "SAGA-E121",
                f"saga {self.name!r} cannot be compiled: {why or name}",
                f"{name} is the broken rule: docs/errors.md lists what each one asks for",
            ) from error

    def encode_input(self, value: In) -> bytes:
        """The input as bytes. Raises PayloadError for a value of another type (SAGA-E202) or too large (SAGA-E204).

        An input often comes from outside, and no step of a saga whose input cannot be read could be undone: so its
        fields are read.
        """
        data = self._input_codec.encode(value)
        self._input_codec.verify((data,))
        if len(data) > self._shape.input_bytes:
            payloads.check_size(data, self._shape.input_bytes, f"the input of saga {self.name!r}")
        return data

    def decode_result(self, sections: Mapping[int, bytes]) -> Out:
        """The saga's result, from the results of its steps by their numbers.

        Raises ProtocolError (SAGA-E501) where one is missing, PayloadError (SAGA-E203) where one is of another type.
        """
        shape = self._shape
        missing = [shape.nodes[number].step.name for number in shape.returns if number not in sections]
        if missing:
            raise ProtocolError(
                "SAGA-E501",
                f"the outcome of saga {self.name!r} came without the result of {', '.join(missing)}",
                "the client and the broker use different versions of sagacore, or the broker is at fault: report it",
            )
        if not shape.is_named:
            number = shape.returns[0]
            return cast("Out", shape.nodes[number].step.output_codec.decode(sections[number]))
        named = {
            shape.nodes[number].step.name: shape.nodes[number].step.output_codec.decode(sections[number])
            for number in shape.returns
        }
        return cast("Out", named)

    def encode_inputs(self, values: Sequence[In]) -> list[bytes]:
        """Do `encode_input` for many at once, which costs less. Raises for the first that is wrong."""
        data = self._input_codec.encode_all(values)
        self._input_codec.verify(data)
        if data and max(map(len, data)) > self._shape.input_bytes:
            return list(map(self.encode_input, values))
        return data

    def decode_results(self, sections: Sequence[Mapping[int, bytes]]) -> list[Out]:
        """Do `decode_result` for many at once, which costs less. Raises for the first that is wrong."""
        shape = self._shape
        number = shape.returns[0]
        if shape.is_named or not all(number in found for found in sections):
            return list(map(self.decode_result, sections))
        return shape.nodes[number].step.output_codec.decode_all([found[number] for found in sections])

    def describe(self) -> str:
        """A picture in text: the order forward, the order of compensation, and the messages that each takes."""
        shape = self._shape
        titles = [node.step.title + " (pivot)" * (number == shape.pivot) for number, node in enumerate(shape.nodes)]
        forward = Order({number: set(node.after) for number, node in enumerate(shape.nodes)})
        undo = self._undo_order()
        head = f"{self.name}({type_name(shape.input)}), deadline {shape.deadline_ms / 1000:g} s"
        lines = [head, "", f"forward: {counted(forward.messages, 'message')}", *forward.draw(titles), ""]
        if not undo.parents:
            return "\n".join([*lines, "compensation: nothing to undo"])
        cost = f"{counted(undo.messages, 'message')}, and 1 for the abort"
        return "\n".join([*lines, f"compensation when all is to be undone: {cost}", *undo.draw(titles)])

    def _undo_order(self) -> Order:
        shape = self._shape
        before: dict[int, set[int]] = {number: set() for number in range(len(shape.nodes))}
        for number, node in enumerate(shape.nodes):
            undone_later = range(number) if shape.undo == "chain" else (*node.reads, *node.undo_before)
            for other in undone_later:
                before[other].add(number)
        undoable = {number for number in _before_pivot(shape) if shape.nodes[number].step.compensable}
        return Order(before, undoable)

    def _with(self, shape: _Shape) -> Saga[In, Any]:
        saga: Saga[In, Any] = object.__new__(Saga)
        saga._shape = shape
        saga._input_codec = self._input_codec
        return saga

    def __repr__(self) -> str:
        return f"Saga({self.name!r}, {type_name(self._shape.input)}, steps={[step.name for step in self.steps]})"


def _added(
    shape: _Shape,
    step: Step[Any, Any],
    after: tuple[int, ...],
    undo_before: tuple[int, ...],
    pivot: bool,  # noqa: FBT001 - what the user wrote, passed on
) -> _Shape:
    number = len(shape.nodes)
    _check_step(shape, step)
    ancestors = frozenset(after).union(*(shape.nodes[before].ancestors for before in after))
    _check_pivot(shape, step, ancestors, pivot=pivot)
    reads = tuple(_reader(shape, step, ancestors, need) for need in step.needs)
    node = _Node(step, after, reads, undo_before, ancestors)
    return replace(shape, nodes=(*shape.nodes, node), pivot=number if pivot else shape.pivot)


def check_saga(saga: object) -> None:
    """Raise DefinitionError (SAGA-E125) for what is no saga, where one is to be started."""
    if not isinstance(saga, Saga):
        what = f"step {saga.title!r}" if isinstance(saga, Step) else repr(saga)
        raise DefinitionError(
            "SAGA-E125", f"{what} is no saga", "make one of it: Saga('name', Input, deadline=60).then(step)"
        )


def _check_are_steps(shape: _Shape, steps: Sequence[object]) -> None:
    for step in steps:
        if not isinstance(step, Step):
            raise DefinitionError(
                "SAGA-E125",
                f"{step!r} is no step, and saga {shape.name!r} is made of steps",
                "give what @service.action or service.step made, not a plain function or its name",
            )


def _check_step(shape: _Shape, step: Step[Any, Any]) -> None:
    if step.input != shape.input:
        raise DefinitionError(
            "SAGA-E114",
            f"step {step.title!r} takes {type_name(step.input)}, but saga {shape.name!r} {type_name(shape.input)}",
            "every step of a saga takes the saga's input; what earlier steps gave is asked for by further parameters",
        )
    for other in shape.nodes:
        if other.step.name == step.name:
            raise DefinitionError(
                "SAGA-E115",
                f"saga {shape.name!r} has a step {other.step.title!r} already, so {step.title!r} cannot join it",
                "a step occurs once in a saga, and no two have one name: give one of them another name=",
            )
    if len(shape.nodes) == STEPS_MAX:
        raise DefinitionError(
            "SAGA-E117",
            f"saga {shape.name!r} has more than {STEPS_MAX} steps",
            "let one step do more, or let the last step of one saga start another",
        )


def _check_pivot(shape: _Shape, step: Step[Any, Any], ancestors: frozenset[int], *, pivot: bool) -> None:
    if pivot and shape.pivot is not None:
        raise DefinitionError(
            "SAGA-E118",
            f"saga {shape.name!r} has the pivot {shape.nodes[shape.pivot].step.title!r}, so {step.title!r} is none",
            "a saga has one point of no return: what comes after it is retried until it succeeds",
        )
    beside = [] if shape.pivot is None or shape.pivot in ancestors else [shape.pivot]
    if pivot:
        beside = [number for number in range(len(shape.nodes)) if number not in ancestors]
    if beside:
        names = ", ".join(repr(shape.nodes[number].step.title) for number in beside)
        raise DefinitionError(
            "SAGA-E119",
            f"step {step.title!r} comes neither before nor after {names}, and one of them is the pivot",
            "every other step comes before the pivot or after it: order them with .then() or after=[...]",
        )


def _reader(shape: _Shape, step: Step[Any, Any], ancestors: frozenset[int], need: Any) -> int:
    """The number of the one earlier step that gives what is needed."""
    giving = [number for number, node in enumerate(shape.nodes) if node.step.output == need]
    earlier = [number for number in giving if number in ancestors]
    if len(earlier) == 1:
        return earlier[0]
    names = ", ".join(repr(shape.nodes[number].step.title) for number in earlier or giving)
    if earlier:
        raise DefinitionError(
            "SAGA-E113",
            f"step {step.title!r} needs {type_name(need)}, and {names} all return it",
            "let each return a type of its own, so that it is clear which one is meant",
        )
    raise DefinitionError(
        "SAGA-E112",
        f"step {step.title!r} needs {type_name(need)}, which no step before it returns",
        f"{names} returns it: put it before, with .then() or after=[...]"
        if names
        else "put the step that returns it before, or drop the parameter (only ctx: Context is not a result)",
    )


def _numbers(shape: _Shape, steps: Sequence[Step[Any, Any]], what: str) -> tuple[int, ...]:
    known = {id(node.step): number for number, node in enumerate(shape.nodes)}
    for step in steps:
        if id(step) not in known:
            raise DefinitionError(
                "SAGA-E116",
                f"{what} names {getattr(step, 'title', step)!r}, which saga {shape.name!r} does not have yet",
                "add that step first: only steps that were added earlier can be named",
            )
    return tuple(sorted({known[id(step)] for step in steps}))


def _returning(shape: _Shape, last: tuple[int, ...], returns: Sequence[Step[Any, Any]] | None) -> _Shape:
    if returns is None:
        return replace(shape, returns=last, is_named=len(last) > 1)
    return replace(shape, returns=_numbers(shape, returns, "returns"), is_named=True)


def _before_pivot(shape: _Shape) -> frozenset[int]:
    """The steps that an abort may have to undo."""
    return frozenset(range(len(shape.nodes))) if shape.pivot is None else shape.nodes[shape.pivot].ancestors


def _check_undo(shape: _Shape, number: int, undoable: frozenset[int]) -> None:
    step = shape.nodes[number].step
    wanted = step.declared_compensation is not False
    implemented = step.implementation is not None or step.declared_compensation is None
    if number in undoable and wanted and implemented and step.undo is None:
        raise DefinitionError(
            "SAGA-E108",
            f"step {step.title!r} of saga {shape.name!r} may have to be undone, and has no compensation",
            f"write one with @{step.name}.compensation, declare compensation=False if it has no effect, or put it past "
            "the pivot",
        )


def _check_holds(shape: _Shape, number: int, undoable: frozenset[int]) -> None:
    step = shape.nodes[number].step
    declares = step.implementation is not None and step.implementation.holds is not None
    if declares and number not in undoable and number != shape.pivot:
        raise DefinitionError(
            "SAGA-E124",
            f"step {step.title!r} of saga {shape.name!r} declares holds, and stands past the pivot",
            "what is past the pivot must succeed, so it never waits: let a step before it hold",
        )
