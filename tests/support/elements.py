"""Elements of each dtype as numbers, and numbers as elements, by the definition of the formats."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .values import SHOWN_AS

__all__ = ["Array", "decode", "encode", "poison"]

Array = npt.NDArray[Any]


@cache
def _float8_values(dtype: str) -> npt.NDArray[np.float64]:
    """What each of the 256 bytes means: e4m3 has NaN and no infinity, e5m2 is as IEEE 754."""
    bits, bias = (3, 7) if dtype == "float8_e4m3" else (2, 15)
    code = np.arange(256)
    exponent = (code & 0x7F) >> bits
    fraction = (code & ((1 << bits) - 1)) / (1 << bits)
    value = np.where(
        exponent == 0,
        fraction * 2.0 ** (1 - bias),
        (1 + fraction) * 2.0 ** (exponent - bias),
    )
    if dtype == "float8_e4m3":
        value[0x7F] = value[0xFF] = np.nan
    else:
        value[0x7C::0x80] = np.inf
        for nan in (0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF):
            value[nan] = np.nan
    return np.where(code & 0x80, -value, value)


def decode(elements: Array, dtype: str) -> npt.NDArray[np.float64]:
    """float64 of elements as `values.SHOWN_AS` shows them."""
    if dtype == "bfloat16":
        return (elements.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype.startswith("float8"):
        return _float8_values(dtype)[elements]
    if dtype == "int4":
        nibbles = np.stack([elements & 0xF, elements >> 4], axis=-1).astype(np.int64)
        signed = np.where(nibbles >= 8, nibbles - 16, nibbles)
        return signed.reshape(*elements.shape[:-1], -1).astype(np.float64)
    return elements.astype(np.float64)


def encode(values: npt.NDArray[np.float64], dtype: str) -> Array:
    """The nearest elements; integers are clipped to what the dtype holds."""
    if dtype == "bfloat16":
        bits = values.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    if dtype.startswith("float8"):
        table = _float8_values(dtype)
        finite = np.flatnonzero(np.isfinite(table))
        order = finite[np.argsort(table[finite], kind="stable")]
        grid = table[order]
        after = np.clip(np.searchsorted(grid, values), 1, len(grid) - 1)
        nearer = np.where(values - grid[after - 1] <= grid[after] - values, after - 1, after)
        return order[nearer].astype(np.uint8)
    if dtype == "int8":
        return np.clip(np.rint(values), -127, 127).astype(np.int8)
    if dtype == "int4":
        clipped = np.clip(np.rint(values), -8, 7).astype(np.int64) & 0xF
        return (clipped[..., ::2] | (clipped[..., 1::2] << 4)).astype(np.uint8)
    return values.astype(SHOWN_AS[dtype])


def poison(dtype: str) -> Any:
    """An element that must reach no result: NaN where the dtype has one."""
    return {
        "bfloat16": 0x7FFF,
        "float8_e4m3": 0x7F,
        "float8_e5m2": 0x7F,
        "int8": -128,
        "int4": 0x88,
    }.get(dtype, np.nan)
