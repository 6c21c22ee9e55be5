"""A progress bar for runs that take a while, on terminals only."""

from __future__ import annotations

from time import monotonic
from typing import TextIO

__all__ = ["ProgressBar"]

WIDTH = 30
FIRST_AFTER_SECONDS = 0.5
SECONDS_BETWEEN = 0.1


class ProgressBar:
    """Draws on one line of `stream`; silent where that is not a terminal, or when all is quick."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._silent = not stream.isatty()
        self._next = monotonic() + FIRST_AFTER_SECONDS
        self._drawn = 0

    def __call__(self, name: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        if self._silent or monotonic() < self._next:
            return
        self._next = monotonic() + SECONDS_BETWEEN
        share = done / total if total else 1.0
        bar = "#" * int(WIDTH * share)
        text = f"{name:10} [{bar:{WIDTH}}] {100 * share:3.0f} %  {done:,}/{total:,}"
        self._stream.write("\r" + text.ljust(self._drawn))
        self._stream.flush()
        self._drawn = len(text)

    def clear(self) -> None:
        """Leave the line empty."""
        if self._drawn:
            self._stream.write("\r" + " " * self._drawn + "\r")
            self._stream.flush()
            self._drawn = 0
