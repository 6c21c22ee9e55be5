"""Output files: shown to be writable before the work starts, written when it is done."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from pagedkv.replay import ReplayError

__all__ = ["OutputFile"]


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
