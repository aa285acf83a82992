"""The bounds of the protocol that the declarative face checks early. A test compares them with rust/core's limits."""

from __future__ import annotations

from typing import Final

STEPS_MAX: Final = 64
NAME_BYTES_MAX: Final = 100
KEY_BYTES_MAX: Final = 200
REASON_BYTES_MAX: Final = 200
INPUT_BYTES_DEFAULT: Final = 4096
RESULT_BYTES_DEFAULT: Final = 256
SECTION_BYTES_MAX: Final = 16 * 1024
DEADLINE_MS_DEFAULT: Final = 30_000
DEADLINE_MS_MAX: Final = 7 * 24 * 3_600_000
RETRY_LATER_MS_MAX: Final = 600_000
RESOURCE_BYTES_MAX: Final = 200
HOLDERS_NAMED_MAX: Final = 16
SHARDS_MAX: Final = 64
