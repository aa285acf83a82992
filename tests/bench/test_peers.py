"""The comparison with peers, without any peer: what is counted, what is judged, and what is said of a missing one."""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from bench.peers import report, shop
from bench.peers.cpu import used_s
from bench.peers.installed import FOLDER_VARIABLE, NotInstalled, python, version_of
from bench.peers.load import Window, drive
from bench.peers.measure import Durability, Level, Setting, parsed
from bench.peers.report import GOALS, Rates, best, compared
from bench.peers.settings import PEERS, SETTINGS

OURS = Rates(50_000.0, 25_000.0, 4_096, 2_048, {"broker": 10.0})
TOLD = [
    '{"mark": "begin"}\n',
    '{"mark": "end"}\n',
    '{"rejected": false, "in_flight": 16, "sagas": 200, "sagas_per_s": 40.0, "p50_ms": 1.5, "p99_ms": 2.5}\n',
]


def level(rate: float, in_flight: int, *, rejected: bool = False) -> Level:
    return Level(rejected, in_flight, 100, rate, 1.0, 2.0, {"client": in_flight / 2})


def setting(durability: Durability) -> Setting:
    return Setting("dbos", "four services", durability, (16,), "bench.peers.dbos", lambda *_: {})


def row(durability: Durability, success: float, rollback: float) -> dict[str, object]:
    return compared(setting(durability), "1.0", Rates(success, rollback, 16, 64, {"client": 1.0}), OURS)


def test_cpu_is_what_was_used_between_the_marks() -> None:
    clocks_s = iter([{"client": 1.0, "postgres": 5.0}, {"client": 1.5, "postgres": 5.1}])
    assert list(parsed(iter(TOLD), lambda: next(clocks_s))) == [
        Level(
            rejected=False,
            in_flight=16,
            sagas=200,
            sagas_per_s=40.0,
            p50_ms=1.5,
            p99_ms=2.5,
            cpu_us_per_saga={"client": 2_500.0, "postgres": 500.0},
        )
    ]


def test_the_best_level_of_each_workload_is_taken() -> None:
    levels = [level(10, 16), level(30, 64), level(20, 256), level(9, 16, rejected=True), level(8, 64, rejected=True)]
    assert best(levels) == Rates(30, 9, 64, 16, {"client": 32.0})


def test_a_workload_that_was_not_measured_is_no_zero() -> None:
    with pytest.raises(ValueError, match="empty"):
        best([level(10, 16)])


@pytest.mark.parametrize(
    ("durability", "success", "rollback", "reached"),
    [
        ("sync", 200.0, 100.0, True),
        ("sync", 201.0, 100.0, False),
        ("sync", 200.0, 101.0, False),
        ("memory", 500.0, 250.0, True),
        ("memory", 501.0, 250.0, False),
    ],
)
def test_a_goal_is_reached_by_both_workloads_or_not(
    durability: Durability, success: float, rollback: float, *, reached: bool
) -> None:
    judged = row(durability, success, rollback)
    assert judged["goal"] == GOALS[durability]
    assert judged["reached"] is reached


def test_the_ratio_is_ours_to_theirs() -> None:
    assert row("sync", 100.0, 10.0)["ratio"] == {"success": 500.0, "rollback": 2_500.0}


def test_counting_begins_after_the_warm_up_and_one_round_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    window = Window(2, now_s=0.0, warm_up_s=1.0, seconds=2.0)
    ends_s = (0.5, 1.1, 1.5, 2.0, 3.2, 9.0)
    for now_s in ends_s:
        window.ended(now_s - 0.25, now_s)
    # It begins with the second end, which is the first one after a second: 1.5, 2.0 and 3.2 count.
    assert window.over
    assert window.latencies_ms.tolist() == [250.0] * 3
    assert window.elapsed_s == pytest.approx(2.1)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"mark": "begin"}, {"mark": "end"}]


def test_a_wave_counts_whole(capsys: pytest.CaptureFixture[str]) -> None:
    window = Window(3, now_s=0.0, warm_up_s=0.0, seconds=0.0)
    for now_s in (1.0, 1.1, 1.2, 4.0, 4.1):
        window.ended(0.0, now_s)
    assert window.elapsed_s == pytest.approx(2.9)
    assert capsys.readouterr().out.count("mark") == 1
    window.ended(0.0, 4.2)
    assert capsys.readouterr().out.count("mark") == 1
    assert window.elapsed_s == pytest.approx(3.0)


def run_loop(place_parcel: int, arguments: Sequence[str]) -> None:
    async def place(order: shop.Order) -> shop.Outcome:
        await asyncio.sleep(0.001)
        if order["quantity"] > shop.PARCEL_QUANTITY_MAX:
            return shop.Outcome(parcel=0, undone=["reserve", "charge", "create"])
        return shop.Outcome(parcel=place_parcel, undone=[])

    asyncio.run(drive(place, arguments))


LOOP = ("--in-flight", "2,4", "--seconds", "0.02", "--warm-up", "0.01")


def test_the_loop_tells_what_is_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    run_loop(7, LOOP)
    clocks_s = itertools.count()
    levels = list(parsed(iter(capsys.readouterr().out.splitlines()), lambda: {"client": float(next(clocks_s))}))
    assert [(shown.rejected, shown.in_flight) for shown in levels] == [(False, 2), (False, 4), (True, 2), (True, 4)]
    for shown in levels:
        assert 0 < shown.sagas_per_s <= 1_000 * shown.in_flight
        assert shown.cpu_us_per_saga == {"client": pytest.approx(1e6 / shown.sagas, abs=0.1)}


def test_a_saga_that_ends_otherwise_stops_the_measurement() -> None:
    with pytest.raises(ExceptionGroup) as failed:
        run_loop(0, LOOP)
    assert failed.group_contains(AssertionError, match="should be completed")


@pytest.mark.parametrize(
    "outcome",
    [shop.Outcome(parcel=1, undone=[]), shop.Outcome(parcel=0, undone=["charge", "create"])],
)
def test_a_rejected_saga_has_undone_all_three(outcome: shop.Outcome) -> None:
    with pytest.raises(AssertionError, match="should be rejected"):
        shop.checked(outcome, rejected=True)


def test_the_shop_rejects_what_is_too_heavy_and_nothing_else() -> None:
    for rejected in (False, True):
        for order in itertools.islice(shop.orders("order", rejected=rejected), 20):
            ledger = shop.Ledger()
            for step, (_, work) in shop.STEPS.items():
                if rejected and step == "schedule":
                    with pytest.raises(shop.Rejected):
                        work(ledger, order)
                else:
                    assert work(ledger, order) > 0


def test_an_order_is_no_larger_than_ours() -> None:
    order = next(shop.orders("s256-99999999", rejected=True))
    assert sum(len(str(value)) for value in order.values()) <= 96


def test_steps_may_be_repeated() -> None:
    ledger, order = shop.Ledger(), next(shop.orders("order", rejected=False))
    assert ledger.do(order) == ledger.do(order) == 1
    ledger.undo(order)
    ledger.undo(order)
    with pytest.raises(shop.Rejected):
        ledger.do(order)


def test_cpu_counts_what_a_process_has_started() -> None:
    burn = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    script = f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint()\ntime.sleep(60)"
    with subprocess.Popen((sys.executable, "-c", script), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        used = used_s({"child": [process.pid], "self": [os.getpid()], "nobody": []})
        process.kill()
    assert used["child"] >= 0.19
    assert used["self"] >= used["child"]
    assert used["nobody"] == 0


def test_every_peer_is_measured_synced_and_not() -> None:
    assert PEERS == ("rabbitmq", "restate", "dbos", "temporal")
    for peer in PEERS:
        assert {setting.durability for setting in SETTINGS if setting.peer == peer} == set(GOALS)


def test_a_missing_peer_is_said_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(NotInstalled, match="run bench/peers/install"):
        python()
    with pytest.raises(NotInstalled, match="run bench/peers/install"):
        version_of("temporal")

    async def ours(_: float) -> Rates:
        return OURS

    monkeypatch.setattr(report, "_sagacore", ours)
    began_s = time.monotonic()
    figures = asyncio.run(report.peers(Console(quiet=True), only=["restate"], seconds=1))
    assert time.monotonic() - began_s < 10
    rows = figures["peers"]
    assert isinstance(rows, list)
    assert len(rows) == 3
    assert all("run bench/peers/install" in shown["missing"] for shown in rows)


def test_a_peer_that_fails_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ours(_: float) -> Rates:
        return OURS

    def measured(setting: Setting, *, seconds: float) -> Iterator[Level]:
        if setting.durability == "memory":
            raise RuntimeError("it ended with status 9")
        yield from (level(seconds, 16), level(seconds, 16, rejected=True))

    monkeypatch.setattr(report, "_sagacore", ours)
    monkeypatch.setattr(report, "measure", measured)
    monkeypatch.setattr(report, "version_of", lambda _: "1.0")
    figures = asyncio.run(report.peers(Console(quiet=True), only=["rabbitmq"], seconds=50))
    rows = figures["peers"]
    assert isinstance(rows, list)
    synced, unsynced = rows
    assert synced["ratio"] == {"success": 1_000.0, "rollback": 500.0}
    assert unsynced["failed"] == "it ended with status 9"
    assert "ratio" not in unsynced


def test_a_peer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no such peer: camunda; there are rabbitmq, restate, dbos, temporal"):
        asyncio.run(report.peers(Console(quiet=True), only=["camunda"], seconds=1))


def test_versions_are_those_that_were_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "versions.json").write_text(json.dumps({"restate-server": "1.2", "restate-sdk": "3.4", "dbos": "5"}))
    assert version_of("restate") == "restate-server 1.2, restate-sdk 3.4"


def test_what_is_installed_is_pinned_with_hashes() -> None:
    folder = Path(report.__file__).parent
    locked = (folder / "requirements.txt").read_text()
    pinned = [line for line in locked.splitlines() if line and not line.startswith((" ", "#"))]
    assert all("==" in line and line.endswith("\\") for line in pinned)
    asked = (folder / "requirements.in").read_text().split()
    assert asked
    assert all(f"{requirement} " in locked for requirement in asked)
    assert "://" not in locked
