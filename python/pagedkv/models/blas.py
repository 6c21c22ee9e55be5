"""How many threads NumPy's matrix products use.

OpenBLAS wakes all its threads for products of a few thousand values, and they wait for each other
in busy loops: on a machine that does something else too, small models run many times slower so.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

__all__ = ["one_thread"]

# What the OpenBLAS in NumPy's wheels exports, for 64-bit and for 32-bit indices.
NAMES = ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads")


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Matrix products on one thread inside, if `wanted` and NumPy has the OpenBLAS of its wheels;
    with any other library nothing changes."""
    library = _library() if wanted else None
    if library is None:
        yield
        return
    get, set_ = library
    before = get()
    set_(1)
    try:
        yield
    finally:
        set_(before)


@cache
def _library() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    package = Path(np.__file__).parent
    folders = (package.parent / "numpy.libs", package / ".dylibs")
    for path in (each for folder in folders for each in sorted(folder.glob("*openblas*"))):
        try:
            library = ctypes.CDLL(str(path))  # the one that is loaded already
        except OSError:
            continue
        for name in NAMES:
            if hasattr(library, name.format("get")):
                return library[name.format("get")], library[name.format("set")]
    return None
