"""A service whose one step holds what its input says, and its fence, for the tests of holds."""

import sqlite3
from pathlib import Path

import msgspec

from sagacore import Context, Held, Hold, Service
from sagacore.fences import SqliteFence, Watermark
from sagacore.fences.calls import Call, Ended, Handler, Stage, Verdict
from sagacore.fences.work import Work
from sagacore.holds import Waiting

LOG, CLASS, CLASSES = 9, 5, 21


class Ask(msgspec.Struct, frozen=True):
    """What to hold, in order, and how the call ends."""

    holds: list[Hold]
    wait: bool = True
    catch: bool = False
    fail: bool = False


def saga(sequence: int) -> bytes:
    """The id of a saga; the sequence is its age too."""
    return sequence.to_bytes(8, "little") + bytes(8)


class Holders:
    """A process of the service `stock`, batch by batch, without a thread."""

    def __init__(self, path: Path, waiting: Waiting = "detect") -> None:
        stock = Service("stock", waiting=waiting)

        @stock.action
        def reserve(ask: Ask, ctx: Context) -> int:
            ctx.db.execute("insert into effects values (?)", (ctx.saga_id,))
            for hold in ask.holds:
                try:
                    ctx.hold(hold, wait=ask.wait)
                except Held:
                    if not ask.catch:
                        raise
            if ask.fail:
                raise ValueError("no")
            return 1

        @reserve.compensation
        def release(ask: Ask, result: int | None) -> None: ...

        @stock.action(holds=lambda ask: ask.holds)
        def declared(ask: Ask) -> None: ...

        @declared.compensation
        def redeclared(ask: Ask, result: None) -> None: ...

        assert release is reserve
        assert redeclared is declared
        handlers = [
            Handler(step, implementation)
            for step in (reserve, declared)
            for implementation in (step.implementation, step.undo)
            if implementation is not None
        ]
        names = ("reserve", "release", "declared", "redeclared")
        self.handlers = dict(zip(names, handlers, strict=True))
        self.fence = SqliteFence(str(path), clock=lambda: 1_000_000)
        self.fence.connect("stock")
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("create table if not exists effects (saga text)")

    def call(
        self,
        name: str,
        sequence: int,
        ask: Ask,
        *,
        attempt: int = 0,
        place: int = 0,
        phase: int = 0,
        deliveries: int = 0,
        freed: tuple[tuple[bytes, int], ...] = (),
        wounded: bool = False,
    ) -> Call:
        """A delivery, on its way to the fence."""
        handler = self.handlers[name]
        given = msgspec.msgpack.encode(ask)
        who = (0, handler.is_undo, 0, saga(sequence), attempt, deliveries, 0, f"{sequence}-{place}")
        work: Work = (*who, given, (), 64, (phase, LOG, CLASS), (place, sequence, freed, wounded))
        return Call(handler, work, Stage.WHOLE)

    def do(self, *calls: Call) -> list[Ended]:
        """Give calls to the fence, and say how they ended."""
        left = list(calls)
        while left:
            del left[: self.fence.batch(left)]
        ended = [call.ended for call in calls]
        assert all(ended)
        return [one for one in ended if one is not None]

    def run(self, sequence: int, *holds: Hold | str, name: str = "reserve", **options: object) -> Ended:
        """Let a saga hold something."""
        asked = [hold if isinstance(hold, Hold) else Hold(hold) for hold in holds]
        ask = Ask(asked, **{key: bool(options.pop(key)) for key in ("wait", "catch", "fail") if key in options})
        [ended] = self.do(self.call(name, sequence, ask, **options))  # type: ignore[arg-type]
        return ended

    def rows(self) -> list[tuple[str, int, int, int]]:
        """Resource, saga, place, and whether it is held; in order."""
        find = "select resource, sequence, place, granted from sagacore_hold order by resource, sequence, place"
        return list(self.db.execute(find))

    def effects(self) -> int:
        """How many calls have left their effect."""
        [(count,)] = self.db.execute("select count(*) from effects")
        return int(count)

    def end(self, mark: int, *exceptions: int) -> None:
        """All sagas below the mark have ended, save these."""
        marks = [mark if at == CLASS else 1 for at in range(CLASSES)]
        self.fence.forget(Watermark(LOG, 1, mark, marks, exceptions))

    def close(self) -> None:
        """Close the file."""
        self.db.close()
        self.fence.disconnect()


def blocked_by(ended: Ended) -> list[int]:
    """The sagas that a blocked call waits for."""
    assert ended[0] is Verdict.BLOCKED
    _, _, _, holders = msgspec.msgpack.decode(ended[1])
    return [int.from_bytes(holder[:8], "little") for holder, _, _ in holders]
