"""A small disk for the broker's log, which can be filled; and the library that loses what was not synced."""

import contextlib
import mmap
import os
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

DISK_BYTES: Final = 128 << 20
EARLY_PERMILLE: Final = 200
"""Of 1,000 sectors so many reach the disk before they are synced: a crash leaves old ones and new ones."""
SYNC_US: Final = 3_000
"""A sync takes so long, as on a disk: in memory it takes no time, and a kill would hardly find anything unsynced."""
PAGE: Final = struct.Struct("<qQ")
"""The page that a process shares with us: see rust/chaos/src/page.rs."""
CLOCK: Final = struct.Struct("<q")


class SmallDisk:
    """A tmpfs with a ballast file. `own_mounts` comes before, so that nobody else sees it and none is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def open(self) -> None:
        """Mount it. Raises `OSError`."""
        self.folder.mkdir()
        command = ("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(self.folder))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(done.stderr.strip())

    def fill(self) -> None:
        """Leave no byte free."""
        with self._ballast.open("ab") as file:
            while free_bytes := self._free_bytes():
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free_bytes)
                except OSError:  # somebody else was quicker
                    continue

    def free(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it, now or when the last process is gone."""
        subprocess.run(("umount", "--lazy", str(self.folder)), capture_output=True, check=False)

    def _free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize


class Pages:
    """The pages that processes under the library share with us, one for each process name."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._folder = folder
        self._library = library
        self._pages: dict[str, mmap.mmap] = {}
        folder.mkdir()

    def environment(self, name: str, directory: Path | None) -> Mapping[str, str]:
        """What a process is started with; `directory` is that whose unsynced writes are lost with it, if any."""
        path = self._folder / name
        if name not in self._pages:
            path.write_bytes(PAGE.pack(0, 0))
            with path.open("r+b") as file:
                self._pages[name] = mmap.mmap(file.fileno(), PAGE.size)
        environment = {"LD_PRELOAD": str(self._library), "SAGACORE_CHAOS_PAGE": str(path)}
        if directory is not None:
            environment["SAGACORE_CHAOS_DIRECTORY"] = str(directory)
            environment["SAGACORE_CHAOS_NOTES"] = f"{path}.notes"
            environment["SAGACORE_CHAOS_EARLY"] = str(EARLY_PERMILLE)
            environment["SAGACORE_CHAOS_SYNC_US"] = str(SYNC_US)
        return environment

    def set_clock(self, name: str, later_ms: int) -> None:
        """Add so many milliseconds to the wall clock of a process, from now on."""
        CLOCK.pack_into(self._pages[name], 0, later_ms)

    def unsynced_sectors(self, name: str) -> int:
        """Sectors that the process keeps back; of a killed one, those that it lost."""
        sectors: int = PAGE.unpack_from(self._pages[name])[1]
        return sectors

    def close(self) -> None:
        """Give the pages back."""
        for page in self._pages.values():
            with contextlib.suppress(BufferError):
                page.close()
