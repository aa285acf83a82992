"""The numbers on the wire that a client reads, as rust/core/src/wire names them. A test compares the two."""

from __future__ import annotations

import enum


class Kind(enum.IntEnum):
    """Kinds of messages that a broker answers a client with."""

    RESULT = 8
    CANCEL = 10
    RESOLVE = 16
    STATUS = 17
    REFUSED = 23
    STATS = 24
    STUCK = 26
    DEADLOCKS = 28


class OutcomeCode(enum.IntEnum):
    """How a saga ended."""

    COMPLETED = 1
    COMPENSATED = 2


class StatusCode(enum.IntEnum):
    """How far a saga is."""

    UNKNOWN = 0
    RUNNING = 1
    DECIDING = 2
    COMPLETED = 3
    COMPENSATING = 4
    COMPENSATED = 5
    STUCK = 6


class CauseCode(enum.IntEnum):
    """Why a saga was aborted."""

    REJECTED = 1
    GAVE_UP = 2
    DEADLINE = 3
    CANCELLED = 4
    DELIVERY_LIMIT = 5
    VICTIM = 6


class Refusal(enum.IntEnum):
    """Why the broker changed nothing."""

    STALE = 1
    NO_SESSION = 2
    FORBIDDEN = 3
    MISMATCH = 4
    NO_PLAN = 5
    FULL = 6
    KEY_CONFLICT = 7
    TOO_LATE = 8
    UNKNOWN = 9
    MALFORMED = 10
    EXCLUSIVE = 11
    TOO_LARGE = 12
    BAD_PLAN = 13
    UNSUPPORTED = 14
    CLASS_FULL = 15


class Action(enum.IntEnum):
    """What an operator does with a step that is stuck."""

    RETRY = 1
    SKIP = 2
    DONE = 3


class Section(enum.IntEnum):
    """The sections of a body that are no step's result."""

    INPUT = 64
    CAUSE = 65
    KEY = 66
    SKIPPED = 67
    NAME = 68
    TEXT = 69
    DATA = 70
    FREED = 71
