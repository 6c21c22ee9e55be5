"""Output files: shown to be writable before the work starts, written when it is done.

What several commands write alike: figures with `--json FILE`, pictures with `--plot FILE`, and
text with names that come from files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from pagedkv.picture import check_suffix, require_matplotlib
from pagedkv.replay import ReplayError

__all__ = ["OutputFile", "open_outputs", "printable", "write_json"]


def open_outputs(
    stack: ExitStack, command: str, paths: Mapping[str, str | None], inputs: Iterable[str | None]
) -> dict[str, OutputFile]:
    """The files of the options that were given, each shown to be writable, and to be neither one
    of the inputs nor the file of another option. A picture, `plot`, can be drawn."""
    outputs: dict[str, OutputFile] = {}
    for name, path in paths.items():
        if path is None:
            continue
        output = stack.enter_context(OutputFile(path))
        if any(given is not None and output.same_as(given) for given in inputs):
            raise ReplayError(
                f"[cli.{command}] --{name} names the file that is read; expected another file"
            )
        for other, file in outputs.items():
            if file.same_as(output.path):
                raise ReplayError(
                    f"[cli.{command}] --{other} and --{name} name one file; expected two"
                )
        if name == "plot":
            check_suffix(f"cli.{command}", output.path)
            require_matplotlib(f"cli.{command}")
        outputs[name] = output
    return outputs


def printable(text: str, stream: TextIO | None = None) -> str:
    """Text that may be shown on `stream` (by default stdout): without control characters but for
    line ends, all spaces alike, and with a `?` for what its encoding does not have."""
    shown = "".join(
        c if c.isprintable() or c == "\n" else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return shown.encode(encoding, "replace").decode(encoding)


def write_json(output: OutputFile, value: Any) -> None:
    """Write JSON values, indented; NaN is no JSON value."""
    text = json.dumps(value, indent=2, allow_nan=False)
    output.path.write_text(text + "\n", encoding="utf-8")


class OutputFile:
    """A path that will be written. A file that was made only to try, and got no content because
    the work failed, is removed again; what was there before stays until `path` is written."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._made = not self.path.exists()
        try:
            with self.path.open("ab"):
                pass
        except OSError as error:
            raise ReplayError(
                f"[cli.OutputFile] cannot write '{path}': {error.strerror or error}; "
                "expected a writable file"
            ) from error

    def same_as(self, other: str | Path) -> bool:
        """Whether both are one file."""
        return Path(other).exists() and self.path.samefile(other)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._made and self.path.is_file() and self.path.stat().st_size == 0:
            self.path.unlink()
