"""Fresh random queries, keys and values of a point, and what attention over them gives."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pagedkv.bench.attention.points import Point
from pagedkv.bench.figure import require

__all__ = ["Case", "Doubles", "Floats", "Raw", "widened"]

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Raw: TypeAlias = npt.NDArray[Any]
"""Elements as they are stored; bfloat16 is uint16."""

# Limits of ||out - expected|| / ||expected||. Keys and values of integers are rounded here, not in
# what is expected.
_MOST_ERROR = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2, "int8": 3e-2, "int4": 0.3}


class Case:
    """What all entrants are given; large arrays lie in pages of 2 MiB, which NumPy asks for."""

    def __init__(self, point: Point) -> None:
        self.point = point
        rng = np.random.default_rng()
        rows = (point.num_seqs, point.num_kv_heads, point.num_tokens, point.head_dim)
        num_queries = point.num_seqs * point.num_new
        q = rng.standard_normal((num_queries, point.num_q_heads, point.head_dim), np.float32)
        dtype = "float32" if point.is_integer else point.cache
        self.raw_q, self.q = _rounded(q, dtype)
        """``[num_seqs * num_new, num_q_heads, head_dim]``: as stored, and in float32."""
        self.raw_k, self.k = _rounded(rng.standard_normal(rows, np.float32), dtype)
        """``[num_seqs, num_kv_heads, num_tokens, head_dim]``, likewise."""
        self.raw_v, self.v = _rounded(rng.standard_normal(rows, np.float32), dtype)

    @cached_property
    def mask(self) -> npt.NDArray[np.bool_]:
        """``[num_new, num_tokens]``: which token each of a sequence's queries sees."""
        point = self.point
        last = np.arange(point.num_tokens - point.num_new, point.num_tokens)
        return np.arange(point.num_tokens) <= last[:, None]

    @cached_property
    def expected(self) -> Doubles:
        """Dense attention in float64, shaped as q is."""
        point = self.point
        out = np.empty(self.q.shape)
        for i in range(point.num_seqs):
            queries = slice(i * point.num_new, (i + 1) * point.num_new)
            for head in range(point.num_kv_heads):
                heads = slice(head * point.group, (head + 1) * point.group)
                q = self.q[queries, heads].astype(np.float64).reshape(-1, point.head_dim)
                k, v = self.k[i, head].astype(np.float64), self.v[i, head].astype(np.float64)
                scores = q @ k.T * point.scale
                scores[~np.repeat(self.mask, point.group, axis=0)] = -np.inf
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                heads_out = weights @ v / weights.sum(-1, keepdims=True)
                out[queries, heads] = heads_out.reshape(point.num_new, point.group, -1)
        return out

    def check(self, name: str, result: npt.NDArray[np.floating[Any]]) -> None:
        """Raises AssertionError for a wrong result; NaN is wrong."""
        expected = self.expected
        require(result.shape == expected.shape, f"{name}: the result has another shape")
        error = float(np.linalg.norm(result - expected) / np.linalg.norm(expected))
        most = _MOST_ERROR[self.point.cache]
        require(error <= most, f"{name}: the result is wrong: error {error:.2g}, limit {most:g}")


def widened(raw: Raw) -> Floats:
    """Stored floats as float32."""
    if raw.dtype == np.uint16:
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.astype(np.float32, copy=False)


def _rounded(values: Floats, dtype: str) -> tuple[Raw, Floats]:
    """The values as `dtype` stores them, and what they then are."""
    raw: Raw = values
    if dtype == "bfloat16":
        raw = _as_bfloat16(values)
    elif dtype == "float16":
        raw = values.astype(np.float16)
    return raw, widened(raw)


def _as_bfloat16(values: Floats) -> npt.NDArray[np.uint16]:
    """To nearest, ties to even; of finite values."""
    bits = values.view(np.uint32)
    half = np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return ((bits + half) >> np.uint32(16)).astype(np.uint16)
