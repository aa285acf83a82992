"""Processes are started, killed, restarted and stopped as asked, and none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sagacore.demo.fleet import Fleet, resident_bytes

FOREVER = (sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path) as fleet:
        yield fleet


def wait_until(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2]
    except FileNotFoundError:
        return False
    return not state.startswith("Z")  # ended, and only not yet taken notice of


def test_a_killed_process_is_started_again_with_all_that_it_had(fleet: Fleet) -> None:
    show = (sys.executable, "-c", "import os, time; print(os.environ['COLOUR'], flush=True); time.sleep(600)")
    fleet.start_program("orders", show, {"COLOUR": "green"})
    wait_until(lambda: fleet.tail("orders") == "green")
    first = fleet.pid("orders")
    fleet.kill_and_restart("orders")
    assert fleet.pid("orders") != first
    assert not is_running(first)
    wait_until(lambda: fleet.tail("orders") == "green\ngreen")
    assert list(fleet.died()) == []


def test_a_process_that_is_killed_for_good_is_not_missed(fleet: Fleet) -> None:
    fleet.start_program("orders", FOREVER)
    fleet.kill("orders")
    assert fleet.names() == []
    assert list(fleet.died()) == []


def test_a_process_that_ends_by_itself_is_told_with_its_last_lines(fleet: Fleet) -> None:
    fleet.start_program("orders", (sys.executable, "-c", "print('one\\ntwo'); raise SystemExit(7)"))
    wait_until(lambda: bool(list(fleet.died())))
    (died,) = fleet.died()
    assert (died.name, died.status, died.tail) == ("orders", 7, "one\ntwo")


def test_the_broker_is_stopped_last_and_who_does_not_listen_is_killed(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sagacore.demo.fleet.STOP_S", 0.3)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    note = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n"
        "    pathlib.Path('ended').open('a').write(sys.argv[1] + ' ')\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('here', flush=True)\n"
        "time.sleep(600)\n"
    )
    fleet.start_program("broker", (sys.executable, "-c", note, "broker"))
    fleet.start_program("orders", (sys.executable, "-c", note, "orders"))
    fleet.start_program("payments", (sys.executable, "-c", deaf))
    for name in fleet.names():
        wait_until(lambda name=name: bool(fleet.tail(name)))  # type: ignore[misc]
    pids = [fleet.pid(name) for name in fleet.names()]
    fleet.stop()
    fleet.stop()
    assert not any(map(is_running, pids))
    assert (tmp_path / "ended").read_text() == "orders broker "


PARENT = """
import sys, time
from pathlib import Path
from sagacore.demo.fleet import Fleet
fleet = Fleet(Path(sys.argv[1]))
fleet.start_program("orders", (sys.executable, "-c", "import time; time.sleep(600)"))
print(fleet.pid("orders"), flush=True)
time.sleep(600)
"""


def test_no_process_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    command = (sys.executable, "-c", PARENT, str(tmp_path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_running(child))


def test_resident_memory_is_that_of_the_process() -> None:
    before = resident_bytes(os.getpid())
    ballast = bytearray(b"x" * (32 << 20))
    assert resident_bytes(os.getpid()) - before > len(ballast) // 2
