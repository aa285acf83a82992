"""How many connections a broker may have: each takes a file descriptor, and the log must never want for one."""

from __future__ import annotations

import logging
import resource
from typing import Final

from sagacore.errors import UsageError

CONNECTIONS_MAX: Final = 16_384 + 1_024
"""As many as a broker has sessions, and some that are coming or going."""
CONNECTIONS_MIN: Final = 64
"""With fewer there is no use in a broker."""
OWN: Final = 64
"""Descriptors of the interpreter, the loop, the libraries and the log."""
KEPT: Final = 32
"""Descriptors between the soft and the hard limit: connections end at the soft one, the log alone goes beyond it."""

log = logging.getLogger("sagacore.broker")


def allow_connections() -> int:
    """Set this process's soft limit of open files to what a broker needs, and give the connections that fit below it.

    Where there are more, ZeroMQ leaves them waiting until others end. Raises UsageError (SAGA-E507) where the hard
    limit is too low.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OWN + CONNECTIONS_MAX
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard - KEPT)
    allowed = soft - OWN
    if allowed < CONNECTIONS_MIN:
        raise UsageError(
            "SAGA-E507",
            f"this process may open {hard} files, which is too few for a broker",
            f"raise its hard limit (`ulimit -Hn`, LimitNOFILE in systemd) to {OWN + CONNECTIONS_MIN + KEPT} or more; "
            f"{wanted + KEPT} for as many peers as a broker takes",
        )
    if allowed < CONNECTIONS_MAX:
        log.warning("the limit of %d open files leaves room for %d connections", hard, allowed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return allowed
