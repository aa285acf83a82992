"""The library loses what was not synced and nothing else, and moves the wall clock alone."""

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sagacore.processes.log_tools import verify

PRELUDE = """
import os, signal, sys
folder = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
def create(name):
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
def crash():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run(library: Path, directory: Path, program: str, *, early: int = 0, page: Path | None = None) -> str:
    """Run a program under the library, until it kills itself or ends. Gives what it printed."""
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "SAGACORE_CHAOS_DIRECTORY": str(directory),
        "SAGACORE_CHAOS_NOTES": str(directory.with_suffix(".notes")),
        "SAGACORE_CHAOS_EARLY": str(early),
    }
    if page is not None:
        environment["SAGACORE_CHAOS_PAGE"] = str(page)
    command = [sys.executable, "-c", PRELUDE + program, str(directory)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.stdout


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "log"
    directory.mkdir()
    return directory


def test_what_was_synced_survives_and_what_was_not_is_lost(library: Path, directory: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_bytes(bytes(16))
    program = """
file = create("a")
os.fsync(folder)
os.pwrite(file, b"x" * 4096, 0)
os.fdatasync(file)
os.pwrite(file, b"y" * 1000, 1000)
assert os.pread(file, 4096, 0) == b"x" * 1000 + b"y" * 1000 + b"x" * 2096, "it sees its own writes"
crash()
"""
    run(library, directory, program, page=page)
    assert (directory / "a").read_bytes() == b"x" * 4096
    clock_ms, sectors = struct.unpack("<qQ", page.read_bytes())
    assert (clock_ms, sectors) == (0, 3)


def test_some_sectors_may_reach_the_disk_early_and_each_of_them_whole(library: Path, directory: Path) -> None:
    program = """
file = create("a")
os.fsync(folder)
os.pwrite(file, b"x" * 512 * 1000, 0)
crash()
"""
    run(library, directory, program, early=300)
    data = (directory / "a").read_bytes()
    sectors = {data[at : at + 512] for at in range(0, len(data), 512)}
    assert sectors == {b"x" * 512, bytes(512)}
    assert 200 < data.count(b"x" * 512) < 400


def test_a_directory_that_was_not_synced_is_as_it_was(library: Path, directory: Path) -> None:
    (directory / "old").write_text("old")
    (directory / "gone").write_text("gone")
    run(library, directory, 'create("kept")\nos.fsync(folder)\ncrash()')
    work = """
os.rename("old", "renamed", src_dir_fd=folder, dst_dir_fd=folder)
os.unlink("gone", dir_fd=folder)
create("new")
crash()
"""
    run(library, directory, work)
    found = run(library, directory, "print(sorted(os.listdir(folder)))")
    assert found.strip() == "['gone', 'kept', 'old']"
    assert (directory / "old").read_text() == "old"


def test_a_call_that_the_library_does_not_know_ends_the_process(library: Path, directory: Path) -> None:
    with pytest.raises(AssertionError, match="write on a file whose unsynced writes are kept back"):
        run(library, directory, 'os.write(create("a"), b"x")')


def test_the_broker_loses_what_it_had_not_synced_and_starts_again(library: Path, directory: Path) -> None:
    # The log's own disk is what is to be shown: its calls go through the library.
    program = """
import asyncio
from pathlib import Path
from sagacore.processes.broker import Broker, BrokerOptions

async def main():
    Broker(BrokerOptions(endpoint=f"ipc://{sys.argv[1]}.ipc", data=Path(sys.argv[1]), segment_bytes=1 << 20)).open()
    crash()

asyncio.run(main())
"""
    run(library, directory, program)
    names = sorted(path.name for path in directory.iterdir())
    assert any(name.endswith(".seg") for name in names)
    assert verify(directory).verdict != "damaged"
    run(library, directory, program)
    assert verify(directory).verdict != "damaged"


def test_the_wall_clock_jumps_and_the_monotonic_one_does_not(library: Path, directory: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_bytes(struct.pack("<qQ", -3_600_000, 0))
    before_s, monotonic_s = time.time(), time.monotonic()
    found = run(library, directory, "import time\nprint(time.time(), time.monotonic())", page=page)
    wall_s, later_s = (float(word) for word in found.split())
    assert abs(wall_s + 3_600 - before_s) < 20
    assert monotonic_s <= later_s < monotonic_s + 20
