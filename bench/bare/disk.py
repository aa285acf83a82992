"""A log that a thread writes and syncs, off the path: what is appended while it syncs goes into the next write.

The file is written with zeros first, so that a sync writes data only, and is written over from its start when it is
full, as the product recycles its segments. Syncs begin at least a quarter of a millisecond apart, as the
product's; alone, at once.
"""

import os
import queue
import threading
import time
from pathlib import Path

FILE_BYTES = 64 << 20
SYNC_INTERVAL_S = 0.000_25
BUFFERS_MAX = 1_024
"""What the system takes in one write."""
ZEROS = bytes(1 << 20)


class Log:
    """Append from one thread; with `tells`, `descriptor` becomes readable when more is durable."""

    def __init__(self, path: Path, *, tells: bool) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        for at in range(0, FILE_BYTES, len(ZEROS)):
            os.pwrite(self._file, ZEROS, at)
        os.fsync(self._file)
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK)
        self.appended = 0
        """Appends so far."""
        self.durable = 0
        """Appends of them that are synced."""
        self._tells = tells
        self._waiting: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def append(self, frames: list[bytes]) -> None:
        """Write these after all that was appended before."""
        self.appended += 1
        self._waiting.put(frames)

    def _work(self) -> None:
        at, began_s, waiting = 0, 0.0, self._waiting
        while True:
            frames = waiting.get()
            appends = 1
            time.sleep(max(0.0, began_s + SYNC_INTERVAL_S - time.monotonic()))
            while not waiting.empty():
                frames += waiting.get()
                appends += 1
            began_s = time.monotonic()
            if at + sum(map(len, frames)) > FILE_BYTES:
                at = 0
            for first in range(0, len(frames), BUFFERS_MAX):
                at += os.pwritev(self._file, frames[first : first + BUFFERS_MAX], at)
            os.fdatasync(self._file)
            self.durable += appends
            if self._tells:
                os.eventfd_write(self.descriptor, 1)
