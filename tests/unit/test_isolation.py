"""Lost updates and dirty reads: the analysis beside a naive one, and what processes record for it."""

import asyncio
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from sagacore import Context, Rejected, Saga, Sandbox, Service, UsageError
from sagacore.cli import app
from sagacore.isolation import Access, AccessFile, Anomaly, Recorder, anomalies, read, text


def accesses(*told: str) -> list[Access]:
    """`a r x`: saga a reads x. `a u`: its step is undone. In order."""
    kinds = {"r": "read", "w": "write", "u": "undo", "h": "hold"}
    found = []
    for at, one in enumerate(told):
        saga, kind, *key = one.split()
        found.append(Access(at, "stock", saga, 1, "take", kinds[kind], *key))  # type: ignore[arg-type]
    return found


def seen(*told: str) -> list[tuple[str, str, str, str]]:
    return [(one.kind, one.key, one.first, one.second) for one in anomalies(accesses(*told))]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (["a r x", "b w x", "a w x"], [("lost update", "x", "b", "a")]),
        (["a r x", "b w x", "a r x", "a w x"], []),
        (["b w x", "a w x"], []),
        (["a r x", "b w x", "b u", "a w x"], []),
        (["a r x", "b w y", "a w x"], []),
        (["a w x", "b r x", "a u"], [("dirty read", "x", "a", "b")]),
        (["a w x", "a u", "b r x"], []),
        (["a w x", "b r x"], []),
        (["a w x", "a u", "a w x", "b r x"], []),
        (["a w x", "b w x", "c r x", "a u"], []),
        (["b w x", "a w x", "a u", "c r x", "b u"], [("dirty read", "x", "b", "c")]),
    ],
)
def test_what_counts(told: list[str], expected: list[tuple[str, str, str, str]]) -> None:
    assert seen(*told) == expected


def test_a_pair_is_named_once_for_a_key_and_with_who_held_it() -> None:
    found = anomalies(accesses("a h x", "a r x", "b w x", "b w x", "a w x", "a r x", "b w x", "a w x"))
    assert found == [Anomaly("lost update", "stock", "x", "b", "take", "a", "take", ("a",))]
    said = text(found, 8)
    assert "lost update of stock x: saga a (take) overwrote what saga b (take) wrote" in said
    assert "only a held it" in said
    assert said.endswith("8 accesses, 1 anomalies")


def naive(ordered: list[Access]) -> set[tuple[str, str, str, str]]:
    """By the definitions, every pair and triple tried."""

    def undone(write: Access) -> float:
        undos = [one.at for one in ordered if one.kind == "undo" and (one.saga, one.step) == (write.saga, write.step)]
        first = min(undos, default=float("inf"))
        return first if first > write.at else float("inf")

    found = set()
    touched = [one for one in ordered if one.kind in ("read", "write")]
    for mine in touched:
        before = [one for one in touched if one.key == mine.key and one.at < mine.at]
        if mine.kind == "write":
            reads = [one.at for one in before if one.kind == "read" and one.saga == mine.saga]
            for other in before:
                is_between = bool(reads) and other.at > max(reads)
                if other.kind == "write" and other.saga != mine.saga and is_between and undone(other) > mine.at:
                    found.add(("lost update", mine.key, other.saga, mine.saga))
        else:
            standing = [one for one in before if one.kind == "write" and undone(one) > mine.at]
            if standing and standing[-1].saga != mine.saga and undone(standing[-1]) < float("inf"):
                found.add(("dirty read", mine.key, standing[-1].saga, mine.saga))
    return found


one_access = st.builds(
    lambda saga, step, kind, key: (saga, step, kind, "" if kind == "undo" else key),
    st.sampled_from("abc"),
    st.sampled_from(("s", "t")),
    st.sampled_from(("read", "read", "write", "write", "undo")),
    st.sampled_from("xy"),
)


@given(st.lists(one_access, max_size=14))
def test_the_analysis_agrees_with_the_definitions(told: list[tuple[str, str, str, str]]) -> None:
    ordered = [
        Access(at, "stock", saga, 1, step, kind, key)  # type: ignore[arg-type]
        for at, (saga, step, kind, key) in enumerate(told)
    ]
    found = {(one.kind, one.key, one.first, one.second) for one in anomalies(reversed(ordered))}
    assert found == naive(ordered)


def test_only_what_was_committed_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "stock.jsonl"
    file = AccessFile(path)
    recorder = Recorder("stock", itertools.count().__next__, file.write)
    for counts in (False, True):
        journal = recorder.begin(bytes(16), 1, "take", is_undo=False)
        journal.note("write", f"x{counts}")
        recorder.end(bytes(16), 1, "take", is_undo=False, counts=counts)
    recorder.end(bytes(16), 1, "take", is_undo=False, counts=True)
    recorder.begin(bytes(16), 1, "take", is_undo=True)
    recorder.end(bytes(16), 1, "take", is_undo=True, counts=True)
    file.close()
    assert [(one.kind, one.key) for one in read([path])] == [("write", "xTrue"), ("undo", "")]


class Order(Struct):
    buyer: int


def shop(*, careful: bool) -> tuple[Saga[Order, None], list[int]]:
    """Looks at the stock, waits for something, and writes what it made of what it saw."""
    stock = Service("stock")
    free = [10]

    @stock.action
    def look(order: Order, ctx: Context) -> int:
        if careful:
            ctx.hold("sku:1")
        ctx.reads("sku:1")
        return free[0]

    @look.compensation
    def forget(order: Order, seen: int | None) -> None: ...

    @stock.action(compensation=False)
    async def think(order: Order) -> str:
        await asyncio.sleep(0)
        return ""

    @stock.action
    def take(order: Order, seen: int, ctx: Context) -> None:
        ctx.writes("sku:1")
        free[0] = seen - 1

    @take.compensation
    def put_back(order: Order, nothing: None, ctx: Context) -> None: ...

    @stock.action(compensation=False)
    def pay(order: Order) -> None:
        if order.buyer < 0:
            raise Rejected("no money")

    return Saga("buy", Order).then(look).then(think).then(take).then(pay, pivot=True), free


def test_a_sandbox_sees_a_lost_update() -> None:
    buy, free = shop(careful=False)

    async def main() -> None:
        async with Sandbox(buy, isolation=True) as box:
            await asyncio.gather(box.run(buy, Order(1)), box.run(buy, Order(2)))
            assert free == [9], "ten, less two, is nine: that is the anomaly"
            assert [one.kind for one in box.anomalies] == ["lost update"]
            assert (box.anomalies[0].first_step, box.anomalies[0].held_by) == ("take", ())

    asyncio.run(main())


def test_a_sandbox_records_only_when_asked() -> None:
    buy, _ = shop(careful=False)

    async def main() -> None:
        async with Sandbox(buy) as box:
            await box.run(buy, Order(1))
            with pytest.raises(UsageError, match="SAGA-E603"):
                _ = box.anomalies

    asyncio.run(main())


def test_the_command_reads_files_of_several_services(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = accesses("a r x", "b w x", "a w x")
    paths = [tmp_path / "one", tmp_path / "two"]
    for path, part in zip(paths, (told[::2], told[1::2]), strict=True):
        file = AccessFile(path)
        file.write(part)
        file.close()
    for words, expected in (([], "lost update of stock x"), (["--json"], '"kind":"lost update"')):
        with pytest.raises(SystemExit) as ended:
            raise SystemExit(app(["isolation", *map(str, paths), *words]))
        assert ended.value.code == 1
        assert expected in capsys.readouterr().out
    (tmp_path / "broken").write_text("{")
    with pytest.raises(UsageError, match="SAGA-E506"):
        read([tmp_path / "broken"])
    with pytest.raises(UsageError, match="SAGA-E506"):
        AccessFile(tmp_path / "no" / "folder")
