"""A run that could not be finished."""


class DemoFailed(Exception):
    """The run cannot go on: what happened, what to look at, and the last lines of the log that may tell why."""

    def __init__(self, message: str, *, hint: str, tail: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.tail = tail
