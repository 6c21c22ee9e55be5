"""`pagedkv.ops.paged_attention`, as its users call it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import pagedkv
from pagedkv import ops
from pagedkv.bench.attention.case import Case, Floats, Raw, widened
from pagedkv.bench.attention.points import BLOCK_SIZE

__all__ = ["Ours"]

_STORED_AS: dict[str, npt.DTypeLike] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "int8": np.int8,
    "int4": np.uint8,
}


class Ours:
    """Blocks in random order; `cache` is a dtype other than the point's."""

    note = ""

    def __init__(self, case: Case, cache: str | None = None) -> None:
        point = case.point
        self.dtype = cache or point.cache
        blocks_each = -(-point.num_tokens // BLOCK_SIZE)
        num_blocks = point.num_seqs * blocks_each
        order = np.random.default_rng().permutation(num_blocks).astype(np.int32)
        self.tables = order.reshape(point.num_seqs, blocks_each)
        self.lens = np.full(point.num_seqs, point.num_tokens, np.int32)
        self.starts = np.arange(point.num_seqs + 1, dtype=np.int32) * np.int32(point.num_new)
        width = point.head_dim // 2 if self.dtype == "int4" else point.head_dim
        shape = (num_blocks, point.num_kv_heads, BLOCK_SIZE, width)
        self.k_cache: Raw = np.zeros(shape, _STORED_AS[self.dtype])
        self.v_cache: Raw = np.zeros(shape, _STORED_AS[self.dtype])
        self.k_scale = self._scale(case.k, case)
        self.v_scale = self._scale(case.v, case)
        self.q = case.raw_q
        self.out = np.empty_like(self.q)
        for i in range(point.num_seqs):
            self._write(case.k[i], case.v[i], self.tables[i])

    def _scale(self, rows: Floats, case: Case) -> Floats | float | None:
        if self.dtype not in ("int8", "int4"):
            return None
        if case.point.scales == "tensor":
            return float(np.abs(rows).max()) / 127
        return np.zeros(self.k_cache.shape[:3], np.float32)

    def _write(self, k: Floats, v: Floats, table: npt.NDArray[np.int32]) -> None:
        tokens = np.arange(k.shape[1])
        slots = table[tokens // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + tokens % BLOCK_SIZE
        ops.write_kv(
            k.swapaxes(0, 1),
            v.swapaxes(0, 1),
            self.k_cache,
            self.v_cache,
            slots,
            k_scale=self.k_scale,
            v_scale=self.v_scale,
            dtype=self.dtype,
        )

    def use_threads(self, count: int) -> None:
        pagedkv.set_num_threads(count)

    def run(self) -> None:
        ops.paged_attention(
            self.q,
            self.k_cache,
            self.v_cache,
            self.tables,
            self.lens,
            query_start_loc=self.starts,
            k_scale=self.k_scale,
            v_scale=self.v_scale,
            dtype=self.dtype,
            out=self.out,
        )

    def result(self) -> Floats:
        return widened(self.out)
