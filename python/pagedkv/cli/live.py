"""Texts while they grow: a line each on a terminal, drawn over; elsewhere each when it is done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from time import monotonic
from typing import TextIO
from unicodedata import category, east_asian_width

from pagedkv.cli.output import printable

__all__ = ["LiveTexts"]

SECONDS_BETWEEN = 0.05
INDENT = "     "


class LiveTexts:
    """Shows numbered texts on `stream` as they grow."""

    def __init__(self, stream: TextIO, prompts: Sequence[str]) -> None:
        """`prompts[n]` is what text n goes on from."""
        self._stream = stream
        self._prompts = [printable(prompt, stream) for prompt in prompts]
        self._texts = [""] * len(prompts)
        self._dynamic = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn = 0
        self._next = 0.0

    def update(self, number: int, text: str, done: bool) -> None:
        """Text `number` is now `text`; it is `done` when it grows no more."""
        self._texts[number] = printable(text, self._stream)
        if not self._dynamic and done:
            self._print(number)

    def draw(self) -> None:
        """Show the updates, on a terminal: the last of each text, as many as there are rows."""
        if not self._dynamic or monotonic() < self._next:
            return
        self._next = monotonic() + SECONDS_BETWEEN
        columns, rows = shutil.get_terminal_size()
        shown = min(len(self._prompts), rows - 2)
        lines = []
        for number in range(max(0, shown)):
            line = " ".join(f"{self._prompts[number]}{self._texts[number]}".split())
            shown_end = _end(line, max(1, columns - len(INDENT) - 1))
            lines.append(f"\x1b[2m{number:3}\x1b[0m  {shown_end}\x1b[K\n")
        self._stream.write(self._home() + "".join(lines))
        self._stream.flush()
        self._drawn = len(lines)

    def finish(self) -> None:
        """On a terminal the whole texts take the place of what was drawn."""
        if not self._dynamic:
            return
        self._stream.write(self._home() + "\x1b[J")
        self._drawn = 0
        for number in range(len(self._prompts)):
            self._print(number)

    def _home(self) -> str:
        return f"\x1b[{self._drawn}A\r" if self._drawn else ""

    def _print(self, number: int) -> None:
        text = f"{self._prompts[number]}{self._texts[number]}".strip().replace("\n", f"\n{INDENT}")
        self._stream.write(f"{number:3}  {text}\n")
        self._stream.flush()


def _end(line: str, columns: int) -> str:
    """As much of a line's end as so many columns of a terminal show."""
    start = len(line)
    while start and (columns := columns - _columns(line[start - 1])) >= 0:
        start -= 1
    while start < len(line) and not _columns(line[start]):
        start += 1  # an accent without its letter
    return line[start:]


def _columns(c: str) -> int:
    """Columns of a character: two of a wide one, none of an accent over the one before."""
    if category(c) in ("Mn", "Me"):
        return 0
    return 2 if east_asian_width(c) in "WF" else 1
