"""What is measured: shapes, dtypes, and how much faster than others it is to be."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["POINTS", "Point", "quick"]

BLOCK_SIZE = 32

# Bits of an element in a cache.
_BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int4": 4}


@dataclass(frozen=True)
class Point:
    """One line of the table for each number of threads."""

    cache: str
    """Dtype of the cache. That of the queries too, where it is a float; float32 otherwise."""
    num_seqs: int = 8
    num_tokens: int = 4096
    """Of each sequence, the new ones counted."""
    num_new: int = 1
    """New tokens, so queries, of each sequence."""
    num_q_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    scales: str = "token"
    """Of integers: one for each head of a "token", or one for the whole "tensor"."""
    flex: bool = False
    """Whether to compile torch's flex_attention for it, which takes a while."""
    least: float = 1.0
    """Times as fast as the fastest rival, at least."""
    goal: float | None = None
    judges: tuple[str, ...] = ()
    """The rivals that `least` speaks of; none: all."""
    least_peak: float | None = None
    """Share of the machine's matrix products a second, at least."""

    @property
    def is_prefill(self) -> bool:
        return self.num_new > 1

    @property
    def is_integer(self) -> bool:
        return self.cache in ("int8", "int4")

    @property
    def group(self) -> int:
        """Query heads of a KV head."""
        return self.num_q_heads // self.num_kv_heads

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(self.head_dim)

    @property
    def title(self) -> str:
        words = [self.cache]
        if self.is_prefill:
            words.append(f"{self.num_new:,} new after {self.num_tokens - self.num_new:,}")
        else:
            words.append(f"{self.num_seqs} x {self.num_tokens:,}")
        if (self.num_q_heads, self.num_kv_heads) != (32, 8):
            words.append(f"{self.num_q_heads}/{self.num_kv_heads} heads")
        if self.head_dim != 128:
            words.append(f"head_dim {self.head_dim}")
        if self.scales == "tensor":
            words.append("one scale")
        return ", ".join(words)

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys, values and scales that a decode step must read."""
        rows = 2 * self.num_seqs * self.num_tokens * self.num_kv_heads
        scales = 4 if self.is_integer and self.scales == "token" else 0
        return rows * (self.head_dim * _BITS[self.cache] // 8 + scales)

    @property
    def flop(self) -> int:
        """Operations of both products; a multiplication and an addition are two."""
        seen = self.num_new * (self.num_tokens - self.num_new) + math.comb(self.num_new + 1, 2)
        return 4 * self.num_seqs * self.num_q_heads * self.head_dim * seen


_INT8 = Point("int8", least=2, goal=3)
_BFLOAT16 = Point("bfloat16")
_PREFILL = Point(
    "float32",
    num_seqs=1,
    num_new=512,
    flex=True,
    least=1.3,
    judges=("OpenVINO", "torch flex"),
    least_peak=0.6,
)

POINTS = (
    Point("float32", least=1.4, goal=2, flex=True),
    Point("bfloat16", least=2, goal=3, flex=True),
    Point("float16", least=1.8, goal=2.5),
    _INT8,
    replace(_INT8, scales="tensor"),
    Point("int4", least=1.8, goal=3),
    *(Point(cache, num_seqs=1, num_tokens=32_768) for cache in ("float32", "bfloat16", "int8")),
    *(Point(cache, num_seqs=64, num_tokens=512) for cache in ("float32", "bfloat16", "int8")),
    replace(_BFLOAT16, head_dim=64),
    replace(_BFLOAT16, head_dim=256),
    replace(_BFLOAT16, num_q_heads=8),
    replace(_BFLOAT16, num_q_heads=64),
    _PREFILL,
    replace(_PREFILL, cache="bfloat16"),
)


def quick(point: Point) -> Point:
    """The same kind of point, so small that its times say nothing."""
    return replace(
        point,
        num_seqs=min(point.num_seqs, 2),
        num_tokens=128,
        num_new=min(point.num_new, 32),
        num_q_heads=2 * point.group,
        num_kv_heads=2,
        head_dim=min(point.head_dim, 64),
        flex=False,
    )
