"""A piece of work as the core hands it out."""

from __future__ import annotations

import enum
from typing import TypeAlias

Work: TypeAlias = tuple[
    int,
    bool,
    int,
    bytes,
    int,
    int,
    int,
    str,
    bytes,
    tuple[bytes, ...],
    int,
    tuple[int, int, int],
    int,
    int,
    tuple[tuple[bytes, int], ...],
]
"""All that the core knows of a call; `sagacore._core` describes its parts. Read through `Call` where speed does not
matter."""


class Phase(enum.IntEnum):
    """Where a step stands relative to the pivot."""

    BEFORE = 0
    PIVOT = 1
    PAST = 2
