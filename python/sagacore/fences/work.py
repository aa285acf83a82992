"""A piece of work as the core hands it out."""

from __future__ import annotations

import enum
from typing import TypeAlias

HoldWork: TypeAlias = tuple[int, int, tuple[tuple[bytes, int], ...], bool]
"""What holds need: the step's number in its plan, the saga's age, sagas that stood in its way and are over (each with
its last attempt that is), and whether it must not wait again."""
Work: TypeAlias = tuple[
    int, bool, int, bytes, int, int, int, str, bytes, tuple[bytes, ...], int, tuple[int, int, int], HoldWork
]
"""All that the core knows of a call; `sagacore._core` describes its parts. Read through `Call` where speed does not
matter."""


class Phase(enum.IntEnum):
    """Where a step stands relative to the pivot."""

    BEFORE = 0
    PIVOT = 1
    PAST = 2
