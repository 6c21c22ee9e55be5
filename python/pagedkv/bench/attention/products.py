"""How many multiplications and additions a second the machine's matrix products do."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from pagedkv.bench.attention.entrant import SkipError
from pagedkv.bench.attention.rivals.torch import require_products
from pagedkv.bench.rivals import load

__all__ = ["FLOP", "Product", "products"]

_SIZE = 1536
FLOP = 2 * _SIZE**3
"""Of one product."""


class Product(Protocol):
    """A product of two matrices, somebody's."""

    def use_threads(self, count: int) -> None: ...
    def run(self) -> None: ...


class _NumPy:
    """OpenBLAS, which comes with NumPy's wheels."""

    def __init__(self) -> None:
        self.set_num_threads = _openblas()
        self.a, self.b = np.random.default_rng().standard_normal((2, _SIZE, _SIZE), np.float32)
        self.out = np.empty_like(self.a)

    def use_threads(self, count: int) -> None:
        self.set_num_threads(count)

    def run(self) -> None:
        np.matmul(self.a, self.b, out=self.out)


class _Torch:
    def __init__(self, dtype: str) -> None:
        kind = load("torch", dtype)
        require_products(kind)
        randn = load("torch", "randn")
        self.a, self.b = (randn(_SIZE, _SIZE).to(kind) for _ in range(2))
        self.out = self.a.clone()
        self.mm = load("torch", "mm")

    def use_threads(self, count: int) -> None:
        load("torch", "set_num_threads")(count)

    def run(self) -> None:
        self.mm(self.a, self.b, out=self.out)


def products(dtype: str) -> dict[str, Product]:
    """Those that there are, of float32 and of `dtype`: where processors have no instructions for
    `dtype`, its products are of float32 too."""
    makers: dict[str, Callable[[], Product]] = {
        "NumPy float32": _NumPy,
        **{f"torch {kind}": partial(_Torch, kind) for kind in ("float32", dtype)},
    }
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except (ImportError, SkipError):
            continue
    return made


def _openblas() -> Callable[[int], object]:
    """What sets the number of its threads."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in folder.glob("*openblas*"):
            library = ctypes.CDLL(str(path))
            for name in ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads"):
                if hasattr(library, name):
                    function: Callable[[int], object] = getattr(library, name)
                    return function
    raise SkipError
