"""What a test asks for: which calls fail, and where a process dies. And what it may ask about: who was called."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from sagacore.fences.calls import Handler
from sagacore.fences.holding import Holding
from sagacore.fences.work import Work
from sagacore.steps import Action, Compensation, Step

CallKind: TypeAlias = Literal["action", "compensation"]


class Place(NamedTuple):
    """A handler, by its step's title."""

    title: str
    kind: CallKind


@dataclass
class _Rule:
    error: Exception
    times: int | None


@dataclass
class Failures:
    """What a handler has raised since the sandbox was opened: how often, and the last of it."""

    count: int
    last: BaseException


class Script:
    """What is to go wrong, and what has happened."""

    def __init__(self) -> None:
        self.calls: Final[list[tuple[str, CallKind]]] = []
        """Step and kind of every handler that was called, in order."""
        self.failures: Final[dict[Place, Failures]] = {}
        self._rules: dict[Place, list[_Rule]] = collections.defaultdict(list)
        self._before: collections.Counter[Place] = collections.Counter()
        self._after: collections.Counter[Place] = collections.Counter()

    def fail(self, place: Place, error: Exception, times: int | None) -> None:
        """The next `times` calls raise, or all. What is asked for later comes after, or instead of an endless one."""
        kept = [rule for rule in self._rules[place] if rule.times is not None]
        self._rules[place] = [*kept, _Rule(error, times)]

    def crash_before(self, place: Place) -> None:
        """One process dies when it is about to call this handler."""
        self._before[place] += 1

    def crash_after(self, place: Place) -> None:
        """One process dies when this handler has run."""
        self._after[place] += 1

    def begin(self, place: Place, step_name: str) -> None:
        """A handler is called. Raises the error that the test wants."""
        self.calls.append((step_name, place.kind))
        rules = self._rules[place]
        while rules and rules[0].times == 0:
            rules.pop(0)
        if rules:
            rule = rules[0]
            if rule.times is not None:
                rule.times -= 1
            raise rule.error

    def dies_before(self, place: Place) -> bool:
        """A handler is about to be called: whether the process dies now."""
        return _take(self._before, place)

    def dies_after(self, place: Place) -> bool:
        """A handler has run, and where it is transactional its effect is committed: whether the process dies now."""
        return _take(self._after, place)

    def note(self, place: Place, error: BaseException) -> None:
        """Remember what a handler raised."""
        count = self.failures[place].count if place in self.failures else 0
        self.failures[place] = Failures(count + 1, error)

    def asked_for(self, error: BaseException) -> bool:
        """Whether the test itself has raised this."""
        return any(rule.error is error for rules in self._rules.values() for rule in rules)


class ScriptedHandler(Handler):
    """A handler that is called as the script says."""

    def __init__(self, step: Step[Any, Any], implementation: Action | Compensation, script: Script) -> None:
        super().__init__(step, implementation)
        self.place: Final = Place(step.title, "compensation" if self.is_undo else "action")
        self._script: Final = script

    def start(self, work: Work, db: Any = None, holding: Holding | None = None) -> Any:
        """Call the function, or raise what the script says."""
        if self.is_async:
            return self._awaited(work)
        self._script.begin(self.place, self.step_name)
        return super().start(work, db, holding)

    async def _awaited(self, work: Work) -> Any:
        self._script.begin(self.place, self.step_name)
        return await super().start(work)


def _take(counter: collections.Counter[Place], place: Place) -> bool:
    if counter[place] == 0:
        return False
    counter[place] -= 1
    return True
