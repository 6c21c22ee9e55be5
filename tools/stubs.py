"""Writes python/pagedkv/_core.pyi from the extension module that is installed.

    python tools/stubs.py

Needs pybind11-stubgen and ruff. A test compares the file with what `generate` gives.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

STUB = Path(__file__).parent.parent / "python" / "pagedkv" / "_core.pyi"
MODULE = "pagedkv._core"
HEAD = """\
# Written by tools/stubs.py from what is built; do not edit.
# ruff: noqa
"""


def generate() -> str:
    """The stub of the installed extension, not formatted."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pybind11_stubgen", "--exit-code", MODULE, "-o", folder],
            check=True,
            capture_output=True,
            text=True,
        )
        text = Path(folder, *MODULE.split(".")).with_suffix(".pyi").read_text(encoding="utf-8")
    # The version stands in one place, and that is not here.
    text = re.sub(r"^(__version__: str) = .*$", r"\1", text, flags=re.MULTILINE)
    # As typeshed writes it.
    text = text.replace(
        "__hash__: typing.ClassVar[None] = None",
        "__hash__: typing.ClassVar[None]  # type: ignore[assignment]",
    )
    return HEAD + text


def main() -> None:
    STUB.write_text(generate(), encoding="utf-8")
    subprocess.run(["ruff", "format", STUB], check=True)


if __name__ == "__main__":
    main()
