"""In which order sagas take what they declare to hold, and whether some of them could wait for each other in a circle.

A step gets all that it asks for or nothing, so the order within a step does not matter. Between steps it does: a saga
has what an earlier step holds while a later one waits, and steps side by side may come in either order. Resources are
told apart by their service and their kind, which is the text before the first ":".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sagacore.holds import Declared, Hold, Mode, as_hold
from sagacore.saga import Saga

Kind: TypeAlias = str
"""Service and kind: `stock.sku`."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A saga that has something of one kind may wait for something of another."""

    saga: str
    has: Kind
    has_step: str
    asks: Kind
    asks_step: str


@dataclass(frozen=True, slots=True)
class Cycle:
    """Kinds that sagas take in different orders."""

    kinds: tuple[Kind, ...]
    """In an order that cannot form a cycle, if every saga takes them so."""
    waits: tuple[Wait, ...]
    """What makes the cycle."""
    against: tuple[Wait, ...]
    """Those of them that would have to change for that order."""


@dataclass(frozen=True, slots=True)
class Report:
    """What `sagacore check` has found."""

    sagas: tuple[str, ...]
    cycles: tuple[Cycle, ...]
    unread: tuple[str, ...]
    """Steps whose declared holds cannot be told without an input, and why."""


class _Symbol:
    """Stands for some part of an input. Whatever is done with it, its text says where it is from."""

    def __init__(self, text: str, shown: str | None = None) -> None:
        self._text = text
        self._shown = f"{{{text}}}" if shown is None else shown

    def __getattr__(self, name: str) -> _Symbol:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Symbol(f"{self._text}.{name}" if self._text else name)

    def __getitem__(self, key: object) -> _Symbol:
        return _Symbol(f"{self._text}[{key}]")

    def __call__(self, *_: object, **__: object) -> _Symbol:
        return _Symbol(f"{self._text}()")

    def __iter__(self) -> Any:
        yield _Symbol(f"{self._text}[]")

    def __len__(self) -> int:
        return 1

    def __index__(self) -> int:
        return 1

    def __str__(self) -> str:
        return self._shown

    def __format__(self, spec: str) -> str:
        return str(self)

    def __le__(self, other: object) -> bool:
        return True

    __lt__ = __ge__ = __gt__ = __le__

    def __add__(self, other: object) -> _Symbol:
        return _Symbol(self._text, f"{self}{other}") if isinstance(other, str) else self

    def __radd__(self, other: object) -> _Symbol:
        return _Symbol(self._text, f"{other}{self}") if isinstance(other, str) else self

    def __mul__(self, other: object) -> _Symbol:
        return self

    __rmul__ = __sub__ = __rsub__ = __floordiv__ = __mod__ = __mul__


@dataclass(frozen=True, slots=True)
class _Asked:
    step: str
    kind: Kind
    resource: str
    is_shared: bool

    def is_in(self, held: Iterable[_Asked]) -> bool:
        """Whether who has these need not ask: a shared hold does not make an exclusive one."""
        return any(
            (has.kind, has.resource) == (self.kind, self.resource) and has.is_shared <= self.is_shared for has in held
        )


def check(sagas: Sequence[Saga[Any, Any]]) -> Report:
    """Find the orders in which sagas could wait for each other in a circle."""
    unread: list[str] = []
    waits: set[Wait] = set()
    asked = {saga.name: [_asked(step, unread) for step in saga.steps] for saga in sagas}
    contended = {one.kind for asks in asked.values() for step in asks for one in step if not one.is_shared}
    for saga in sagas:
        waits |= _waits(saga, asked[saga.name])
    between = [wait for wait in waits if {wait.has, wait.asks} <= contended]
    names = tuple(saga.name for saga in sagas)
    return Report(names, tuple(cycles(between)), tuple(dict.fromkeys(unread)))


def _asked(step: Any, unread: list[str]) -> list[_Asked]:
    declared = None if step.implementation is None else step.implementation.holds
    if declared is None:
        return []
    try:
        holds = symbolic(declared)
    except Exception as error:  # noqa: BLE001 (it is the user's code, and gets what is no input)
        unread.append(f"{step.title}: {type(error).__name__}: {error}")
        return []
    return [
        _Asked(step.title, f"{step.service}.{hold.kind}", hold.resource, hold.mode is Mode.SHARED) for hold in holds
    ]


def symbolic(declared: Declared) -> list[Hold]:
    """What an action declares to hold, with parts of the input by name: `sku:{lines[].sku}`. Raises what it raises."""
    return [as_hold(str(what) if isinstance(what, _Symbol) else what) for what in declared(_Symbol(""))]


def _waits(saga: Saga[Any, Any], asked: list[list[_Asked]]) -> set[Wait]:
    pairs = saga.may_follow
    always_after = [(later, earlier) for later, earlier in pairs if (earlier, later) not in pairs]
    # What its own saga has already is never waited for.
    has_already = {
        (later, asks) for later, earlier in always_after for asks in asked[later] if asks.is_in(asked[earlier])
    }
    return {
        Wait(saga.name, has.kind, has.step, asks.kind, asks.step)
        for later, earlier in pairs
        for has in asked[earlier]
        for asks in asked[later]
        if (later, asks) not in has_already and not asks.is_in([has])
    }


def cycles(waits: Iterable[Wait]) -> list[Cycle]:
    """The cycles among kinds, each with an order of its kinds that cannot form one."""
    found = []
    waits = sorted(waits, key=lambda wait: (wait.saga, wait.has_step, wait.asks_step, wait.has, wait.asks))
    for kinds in _components(waits):
        inside = tuple(wait for wait in waits if wait.has in kinds and wait.asks in kinds)
        if not inside:
            continue
        order = _order(kinds, inside)
        place = {kind: at for at, kind in enumerate(order)}
        against = tuple(wait for wait in inside if place[wait.has] >= place[wait.asks])
        found.append(Cycle(order, inside, against))
    return found


def _components(waits: Sequence[Wait]) -> list[frozenset[Kind]]:
    """Kinds that lead to each other, by first appearance; there are few, so it need not be quick."""
    leads_to: dict[Kind, set[Kind]] = {}
    for wait in waits:
        leads_to.setdefault(wait.has, set()).add(wait.asks)
        leads_to.setdefault(wait.asks, set())
    reaches = {kind: _reached(kind, leads_to) for kind in leads_to}
    found = [
        frozenset({kind} | {other for other in reaches[kind] if kind in reaches[other]}) for kind in sorted(leads_to)
    ]
    return list(dict.fromkeys(found))


def _reached(start: Kind, leads_to: dict[Kind, set[Kind]]) -> set[Kind]:
    found: set[Kind] = set()
    left = [start]
    while left:
        for after in leads_to[left.pop()] - found:
            found.add(after)
            left.append(after)
    return found


def _order(kinds: frozenset[Kind], waits: Sequence[Wait]) -> tuple[Kind, ...]:
    """An order that few sagas are against: what is asked for least after others comes first (Eades, Lin and Smyth)."""
    left = set(kinds)
    first: list[Kind] = []
    while left:
        between = [wait for wait in waits if wait.has in left and wait.asks in left and wait.has != wait.asks]

        def surplus(kind: Kind, between: Sequence[Wait] = between) -> int:
            return sum((wait.has == kind) - (wait.asks == kind) for wait in between)

        chosen = min(sorted(left), key=lambda kind: -surplus(kind))
        first.append(chosen)
        left.remove(chosen)
    return tuple(first)


def text(report: Report) -> str:
    """The report for people."""
    lines = []
    for cycle in report.cycles:
        ring = " <-> ".join(cycle.kinds) if len(cycle.kinds) > 1 else f"{cycle.kinds[0]} and another {cycle.kinds[0]}"
        lines.append(f"can form a cycle: {ring}")
        lines += [f"  {_wait_text(wait)}" for wait in cycle.waits]
        if len(cycle.kinds) > 1:
            lines.append(f"  an order that cannot: {', then '.join(cycle.kinds)}; it changes")
        else:
            lines.append("  one step that takes all of them cannot: it gets all or nothing; it changes")
        lines += [f"    {wait.saga}: {_change_text(wait)}" for wait in cycle.against]
    lines += [f"cannot be read without an input: {one}" for one in report.unread]
    checked = f"{len(report.sagas)} sagas" if len(report.sagas) != 1 else "1 saga"
    if not report.cycles:
        lines.append(f"{checked}: the holds that they declare cannot form a cycle; ctx.hold in handlers is not seen")
    else:
        lines.append(f"{checked}, {len(report.cycles)} possible cycles")
    return "\n".join(lines)


def _wait_text(wait: Wait) -> str:
    return f"{wait.saga}: has {wait.has} from {wait.has_step}, asks for {wait.asks} in {wait.asks_step}"


def _change_text(wait: Wait) -> str:
    if wait.has == wait.asks:
        return f"take both {wait.has} in one step, {wait.has_step} or {wait.asks_step}"
    return f"take {wait.asks} no later than {wait.has}: {wait.asks_step} before {wait.has_step}, or both in one step"
