"""Chaos on real processes, short: nothing is lost, what should be caught is, and nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

CHAOS = (sys.executable, "-m", "sagacore", "chaos")

pytestmark = pytest.mark.timeout(150)


def run_chaos(*options: str) -> tuple[int, dict[str, Any]]:
    """Run it to its end. Gives the exit status and the figures of the last line."""
    done = subprocess.run([*CHAOS, "--json", *options], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    print(done.stdout.splitlines()[-1])
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return done.returncode, figures


def test_nothing_is_lost(library: Path) -> None:
    status, figures = run_chaos("--seconds", "20", "--seed", "11", "--rate", "100", "--library", str(library))
    assert (status, figures["violations"], figures["not_ended"]) == (0, 0, 0)
    assert figures["started"] == figures["ended"] > 500
    assert sum(figures["kills"].values()) >= 4
    assert figures["recovery_ms"]["count"] > 0
    assert figures["waiting_max"] > 0
    assert figures["namespaces"] == ("cut" not in figures["left_out"])


def test_a_full_disk_refuses_new_sagas_and_those_that_run_go_on(library: Path) -> None:
    options = ("--seconds", "5", "--seed", "4", "--faults", "full-disk,unsynced", "--library", str(library))
    status, figures = run_chaos(*options)
    assert (status, figures["violations"], figures["not_ended"]) == (0, 0, 0)
    if "full-disk" in figures["left_out"]:
        pytest.skip(f"no disk can be filled here: {figures['left_out']['full-disk']}")
    assert figures["full_disk"]["refused"] > 0
    assert figures["full_disk"]["ended"] > 0
    assert figures["full_disk"]["broker_stopped"] == 0


def test_a_broker_that_does_not_sync_is_caught(library: Path, tmp_path: Path) -> None:
    # Hundreds of sagas are under way whenever the broker dies, so some that were confirmed are lost.
    load = ("--rate", "4000", "--in-flight", "2000")
    options = ("--seconds", "5", "--seed", "1", *load, "--faults", "kill,unsynced", "--durability", "os")
    status, figures = run_chaos(*options, "--library", str(library), "--keep", str(tmp_path / "run"))
    assert figures["kills"]["broker"] > 0
    assert figures["unsynced_sectors_lost"] > 0
    assert status == 1
    assert figures["violations"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen([*CHAOS, "--keep", str(folder), "--seconds", "60"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if b" s  " in line:  # the first fault
                break
        assert len(processes_of(folder)) > 10
        process.send_signal(number)
    give_up_s = time.monotonic() + 10
    while processes_of(folder) and time.monotonic() < give_up_s:
        time.sleep(0.05)
    assert processes_of(folder) == []
    assert str(folder) not in Path("/proc/mounts").read_text()
    assert not Path("/run/netns/lan").exists()


def processes_of(folder: Path) -> list[str]:
    """The command lines of the processes that run in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").readlink() == folder:
                found.append((path / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_a_deployment_of_ones_own_is_hurt_and_checked(tmp_path: Path) -> None:
    script = tmp_path / "worker"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    script.chmod(0o755)
    outside = subprocess.Popen([script], start_new_session=True)
    target = tmp_path / "target.toml"
    target.write_text(f"""
check = "sh -c 'echo the books are wrong; exit 3'"
[processes.ours]
start = "sleep 600"
[processes.theirs]
pid_file = "{tmp_path}/pid"
restart = "{script}"
""")
    try:
        status, figures = run_chaos("--target", str(target), "--seconds", "5", "--seed", "1")
    finally:
        outside.wait(10)  # it was killed
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)  # and this is who came after it
    assert outside.returncode == -signal.SIGKILL
    assert (status, figures["violations"]) == (1, 1), "the check found something"
    assert set(figures["kills"]) == {"ours", "theirs"}
    assert set(figures["faults"]) == {"kill", "pause", "rolling-restart"}
