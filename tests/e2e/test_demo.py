"""The main job on real processes, small: orders placed, processes killed, books audited."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ORDERS = 300
DEMO = (sys.executable, "-m", "sagacore", "demo")
SMALL = (*DEMO, "--orders", str(ORDERS), "--in-flight", "100")

pytestmark = pytest.mark.timeout(120)


def run_demo(*options: str) -> dict[str, Any]:
    """Run the demo to its end and return its JSON object. Whatever was asked for, its books must be right."""
    done = subprocess.run([*SMALL, "--json", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert figures["orders"] == ORDERS
    assert figures["completed"] + figures["compensated"] == ORDERS
    assert figures["stuck"] == figures["violations"] == 0
    return figures


@pytest.mark.parametrize(("shape", "messages"), [("chain", 5), ("diamond", 7)])
def test_when_nothing_fails_a_saga_costs_what_its_plan_says(shape: str, messages: int) -> None:
    figures = run_demo("--shape", shape, "--reject", "0")
    assert figures["completed"] == ORDERS
    assert figures["plan_messages"] == messages
    assert figures["messages_per_saga"] == messages
    assert figures["kills"] == 0


@pytest.mark.parametrize("shape", ["chain", "diamond"])
def test_orders_that_are_rejected_are_compensated(shape: str) -> None:
    figures = run_demo("--shape", shape, "--reject", "0.2")
    assert 0.35 * ORDERS < figures["compensated"] < 0.65 * ORDERS
    assert figures["sagas_per_s"] > 0
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]


@pytest.mark.parametrize("shape", ["chain", "diamond"])
def test_nothing_is_lost_when_every_kind_of_process_is_killed(shape: str) -> None:
    assert run_demo("--shape", shape, "--reject", "0.1", "--kill", "6")["kills"] == 6


def test_a_table_that_is_far_too_small_spills_and_loses_nothing() -> None:
    figures = run_demo("--shape", "diamond", "--slots", "16", "--reject", "0.1")
    assert figures["coordinator"]["slots"] == 16
    assert figures["coordinator"]["table_bytes"] >= 16 * 64
    assert figures["coordinator"]["evictions"] > 0
    assert figures["coordinator"]["rss_bytes"] > 1 << 20


def test_several_coordinators_and_workers_share_the_work_and_survive_kills() -> None:
    options = ("--coordinators", "2", "--workers", "2", "--reject", "0.1", "--kill", "6", "--shape", "diamond")
    assert run_demo(*options)["kills"] == 6


def test_relaxed_visibility_loses_nothing_when_processes_are_killed() -> None:
    assert run_demo("--visibility", "relaxed", "--reject", "0.1", "--kill", "6")["kills"] == 6


@pytest.mark.parametrize("durability", ["os", "memory"])
def test_other_durabilities_work(durability: str) -> None:
    assert run_demo("--durability", durability, "--reject", "0")["completed"] == ORDERS


def test_what_is_kept_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    run_demo("--keep", str(folder))
    assert {path.name for path in folder.glob("*.db")} == {
        "gateway.db",
        "inventory.db",
        "orders.db",
        "payments.db",
        "shipping.db",
    }
    assert (folder / "logs" / "broker.log").exists()
    again = subprocess.run([*SMALL, "--keep", str(folder)], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "not empty" in again.stdout


def test_the_report_is_for_people() -> None:
    wide = {**os.environ, "COLUMNS": "150"}
    done = subprocess.run([*SMALL, "--kill", "1"], capture_output=True, text=True, check=False, env=wide)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "completed",
        "sagas a second",
        "p50",
        "a saga, by the plan 5",
        "slots",
        "kill -9 of broker",
        "0 viol",
    ):
        assert words in done.stdout


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_demo(end: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    demo = subprocess.Popen(
        [*DEMO, "--orders", "1000000", "--keep", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell starts what runs in the background with Ctrl-C ignored, and these tests may run so.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (it takes no lock)
    )
    try:
        children = wait_for_children(demo.pid, 6)
        demo.send_signal(end)
        assert demo.wait(20) == (-end if end == signal.SIGKILL else 128 + end)
    finally:
        demo.kill()
        demo.wait()
    give_up_s = time.monotonic() + 5
    while left := [pid for pid in children if is_running(pid, folder)]:
        assert time.monotonic() < give_up_s, f"processes {left} are still there"
        time.sleep(0.05)


def wait_for_children(parent: int, count: int) -> list[int]:
    give_up_s = time.monotonic() + 20
    while len(children := children_of(parent)) < count:
        assert time.monotonic() < give_up_s, f"only {len(children)} processes were started"
        time.sleep(0.05)
    return children


def children_of(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in tasks.read_text().split()]


def is_running(pid: int, folder: Path) -> bool:
    """Whether the process is still there, and still the one that ran in this folder."""
    try:
        state = re.sub(r".*\) ", "", Path(f"/proc/{pid}/stat").read_text())[0]
        return state != "Z" and Path(f"/proc/{pid}/cwd").readlink() == folder
    except OSError:
        return False
