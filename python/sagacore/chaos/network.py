"""A network of its own for each kind of process, on one bridge, with cables that can be pulled.

All that is made here is seen by this process and its children alone, and is gone when they are gone, however they end:
the names of the namespaces are mounts in a mount namespace that nobody else has.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

CLONE_NEWNS: Final = 0x0002_0000
BRIDGE: Final = "lan"
NOWHERE: Final = "02:00:00:00:00:fe"
"""The hardware address of nobody: what is sent there is lost without a word."""
DELAY: Final = "80ms"
SLOW: Final = ("rate", "256kbit", "burst", "16kb", "latency", "300ms")

_libc = ctypes.CDLL(None, use_errno=True)


def own_mounts() -> None:
    """Give this process mounts of its own. To be called before it has threads. Raises `OSError`."""
    if _libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(f"no mount namespace: {os.strerror(ctypes.get_errno())} (it needs root)")
    _run("mount", "--make-rprivate", "/")


class Lan:
    """Namespaces for these kinds of processes. The first of them is the broker, to which all others speak."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self._kinds = list(kinds)
        self.has_netem = False
        """Whether the kernel can delay; else a line is made slow."""

    def open(self) -> None:
        """Lay all cables. Raises `OSError` where the system gives no namespaces; `own_mounts` comes before."""
        if shutil.which("ip") is None:
            raise OSError("there is no `ip`: it comes with iproute2")
        os.makedirs("/run/netns", exist_ok=True)  # noqa: PTH103 (a folder of the system's, not of a run)
        _run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
        _run("ip", "netns", "add", BRIDGE)
        _ip(BRIDGE, "link", "add", "bridge", "type", "bridge")
        _ip(BRIDGE, "link", "set", "bridge", "up")
        for kind in self._kinds:
            port = self._port(kind)
            _run("ip", "netns", "add", kind)
            _run("ip", "link", "add", "eth0", "netns", kind, "type", "veth", "peer", "name", port, "netns", BRIDGE)
            _ip(BRIDGE, "link", "set", port, "master", "bridge", "up")
            _ip(kind, "link", "set", "lo", "up")
            _ip(kind, "address", "add", f"{self.address(kind)}/24", "dev", "eth0")
            _ip(kind, "link", "set", "eth0", "up")
        self.has_netem = self._can_delay()

    def address(self, kind: str) -> str:
        """The address of a kind of process, on this network alone."""
        return f"10.77.0.{self._kinds.index(kind) + 1}"

    def command(self, kind: str) -> tuple[str, ...]:
        """What runs a command in the network of this kind."""
        return ("ip", "netns", "exec", kind)

    def cut(self, kind: str) -> None:
        """Pull the cable. Nobody is told: what is sent is lost."""
        _ip(BRIDGE, "link", "set", self._port(kind), "down")

    def join(self, kind: str) -> None:
        """Put the cable in again."""
        _ip(BRIDGE, "link", "set", self._port(kind), "up")

    def lose_one_way(self, kind: str, *, from_broker: bool) -> None:
        """Lose all that goes from this kind to the broker, or all that comes from it; the other way works."""
        sender, receiver = self._ends(kind, from_broker=from_broker)
        _ip(sender, "neigh", "replace", self.address(receiver), "lladdr", NOWHERE, "dev", "eth0", "nud", "permanent")

    def find_one_way(self, kind: str, *, from_broker: bool) -> None:
        """End `lose_one_way`."""
        sender, receiver = self._ends(kind, from_broker=from_broker)
        _ip(sender, "neigh", "del", self.address(receiver), "dev", "eth0")

    def slow(self, kind: str) -> None:
        """Delay what this kind sends; where the kernel cannot, let little of it through."""
        discipline = ("netem", "delay", DELAY) if self.has_netem else ("tbf", *SLOW)
        _tc(kind, "qdisc", "replace", "dev", "eth0", "root", *discipline)

    def hasten(self, kind: str) -> None:
        """End `slow`."""
        _tc(kind, "qdisc", "del", "dev", "eth0", "root")

    def _ends(self, kind: str, *, from_broker: bool) -> tuple[str, str]:
        return (self._kinds[0], kind) if from_broker else (kind, self._kinds[0])

    def _port(self, kind: str) -> str:
        return f"port{self._kinds.index(kind)}"

    def _can_delay(self) -> bool:
        try:
            _tc(self._kinds[0], "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "1ms")
        except OSError:
            return False
        self.hasten(self._kinds[0])
        return True


def _ip(namespace: str, *words: str) -> None:
    _run("ip", "-n", namespace, *words)


def _tc(namespace: str, *words: str) -> None:
    _run("tc", "-n", namespace, *words)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
