"""`pagedkv config`: where the C++ headers, the CMake package and the library of kernels are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pagedkv
from pagedkv import _core
from pagedkv.errors import PagedKvError

__all__ = ["add_parser", "cmake_dir", "include_dir", "library_dir"]


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    text = "show where the C++ headers, the CMake package and the library of kernels are"
    parser = commands.add_parser(
        "config",
        help=text,
        description=text.replace("show", "Show", 1)
        + "; one path a line, in the order of the options here.",
        epilog="cmake -Dpagedkv_DIR=$(pagedkv config --cmakedir) ...",
    )
    parser.add_argument("--cmakedir", action="store_true", help="for pagedkv_DIR in CMake")
    parser.add_argument("--includedir", action="store_true", help="for the compiler's -I")
    parser.add_argument("--libdir", action="store_true", help="for the linker's -L")
    parser.set_defaults(run=run, fail=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Print the directories that were asked for."""
    if not (arguments.cmakedir or arguments.includedir or arguments.libdir):
        arguments.fail("expected --cmakedir, --includedir or --libdir")
    if arguments.cmakedir:
        print(cmake_dir())
    if arguments.includedir:
        print(include_dir())
    if arguments.libdir:
        print(library_dir())
    return 0


def cmake_dir() -> Path:
    """The directory of `pagedkv-config.cmake`."""
    return _installed("lib/cmake/pagedkv")


def include_dir() -> Path:
    """The directory that holds `pagedkv/pagedkv.hpp`."""
    return _installed("include")


def library_dir() -> Path:
    """The directory of the static library `pagedkv_kernels`."""
    return _installed("lib")


def _installed(relative: str) -> Path:
    # In an editable install the Python files are elsewhere than what was compiled.
    roots = [Path(module.__file__).parent for module in (pagedkv, _core) if module.__file__]
    for root in roots:
        if (root / relative).is_dir():
            return root / relative
    raise PagedKvError(
        f"[cli.config] no '{relative}' in {' or '.join(str(root) for root in roots)}; "
        "expected an installed pagedkv"
    )
