"""Values that a wrong copy would damage."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DTYPES", "SHOWN_AS", "same_bits", "tokens"]

# How NumPy shows each dtype.
SHOWN_AS: dict[str, type[np.generic]] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float8_e4m3": np.uint8,
    "float8_e5m2": np.uint8,
    "int8": np.int8,
    "int4": np.uint8,
}
DTYPES = list(SHOWN_AS)


def tokens(
    rng: np.random.Generator, dtype: str, *shape: int
) -> np.ndarray[tuple[int, ...], np.dtype[Any]]:
    """Random bits of `shape` elements: every NaN, infinity and subnormal among them."""
    shown = np.dtype(SHOWN_AS[dtype])
    if dtype == "int4":
        shape = (*shape[:-1], shape[-1] // 2)
    size = int(np.prod(shape)) * shown.itemsize
    return np.frombuffer(rng.bytes(size), dtype=shown).reshape(shape).copy()


def same_bits(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Equal in dtype, shape and every bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
