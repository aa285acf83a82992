"""The simulator as Python and the command line see it. What it finds is its own crate's matter."""

import json
import subprocess
import sys

from sagacore import _core


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sagacore", "simulate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_seeds_run_on_several_threads_and_end_in_a_line_of_json() -> None:
    done = simulate("--seeds", "12", "--from", "40", "--jobs", "2", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found.keys() == {"seeds", "sagas", "events", "violations", "unreached", "faults", "seeds_per_s"}
    assert (found["seeds"], found["violations"]) == (12, 0)
    assert found["sagas"] >= 12 * 100
    assert found["faults"]["PausePeer"] > 0


def test_the_jobs_do_not_matter() -> None:
    alone, shared = _core.Simulation(), _core.Simulation()
    assert alone.run(7, 6, 1) == shared.run(7, 6, 2) == []
    assert alone.json(1.0) == shared.json(1.0)


def test_a_seed_tells_its_story() -> None:
    told = simulate("--seed", "3")
    assert told.returncode == 0
    assert "takes effect" in told.stdout
    assert "VIOLATION" not in told.stdout


def test_what_cannot_be_run_is_refused() -> None:
    refused = simulate("--seeds", "0")
    assert refused.returncode == 2
    assert "SAGA-E506" in refused.stderr
