"""A model's keys and values in blocks: written, rotated and attended by `pagedkv.ops`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pagedkv import ops
from pagedkv._core import Batch
from pagedkv.models.config import LlamaConfig
from pagedkv.models.errors import ModelError
from pagedkv.models.rope import cos_sin_table

__all__ = ["KV_DTYPES", "PagedCache"]

Floats = npt.NDArray[np.float32]

# What each dtype's elements lie in; NumPy has no type of its own for some.
KV_DTYPES: dict[str, npt.DTypeLike] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float8_e4m3": np.uint8,
    "float8_e5m2": np.uint8,
    "int8": np.int8,
    "int4": np.uint8,
}


class PagedCache:
    """Keys and values of all layers behind the block ids of one `KVCacheManager`.

    `begin` tells it a step's batch; then `Llama.forward` writes and reads through it. int8 and
    int4 have a scale for each token and head, computed as they are written.
    """

    def __init__(
        self,
        config: LlamaConfig,
        num_blocks: int,
        block_size: int,
        *,
        dtype: str = "float32",
        max_len: int | None = None,
    ) -> None:
        """Room for `num_blocks` blocks of every layer; `max_len`: the longest sequence."""
        if dtype not in KV_DTYPES:
            raise ModelError(
                f"[models.PagedCache] dtype is '{dtype:.40}'; expected one of "
                f"{', '.join(KV_DTYPES)}"
            )
        if config.head_dim % 8 or config.head_dim > 512:
            raise ModelError(
                f"[models.PagedCache] head_dim is {config.head_dim}; expected a multiple of 8 up "
                "to 512"
            )
        self.dtype = dtype
        head_bytes = config.head_dim // 2 if dtype == "int4" else config.head_dim
        shape = (num_blocks, config.num_key_value_heads, block_size, head_bytes)
        layers = range(config.num_hidden_layers)
        self._k = [np.zeros(shape, KV_DTYPES[dtype]) for _ in layers]
        self._v = [np.zeros(shape, KV_DTYPES[dtype]) for _ in layers]
        self._scales: list[tuple[Floats | None, Floats | None]] = [(None, None) for _ in layers]
        if dtype in ("int8", "int4"):
            self._scales = [
                (np.zeros(shape[:3], np.float32), np.zeros(shape[:3], np.float32)) for _ in layers
            ]
        rows = config.max_position_embeddings if max_len is None else max_len
        self._rope = cos_sin_table(rows, config.head_dim, config.rope_theta, config.rope_scaling)
        self._batch: Batch | None = None

    @property
    def block_bytes(self) -> int:
        """Bytes of one block: keys, values and scales of all layers."""
        return sum(each.nbytes for each in self._arrays()) // len(self._k[0])

    def begin(self, batch: Batch) -> None:
        """The batch of the next `forward`. Its block copies are done here."""
        self._batch = batch
        if len(batch.copies):
            ops.copy_blocks(self._arrays(), batch.copies)

    def attend(self, layer: int, q: Floats, k: Floats, v: Floats) -> Floats:
        """As `Cache.attend`, for the new tokens of the batch."""
        batch = self._batch
        if batch is None:
            raise ModelError("[models.PagedCache.attend] no batch; expected begin to be called")
        k_scale, v_scale = self._scales[layer]
        shared: dict[str, Any] = {"k_scale": k_scale, "v_scale": v_scale}
        if self.dtype not in ("float32", "float16"):
            shared["dtype"] = self.dtype
        q = ops.rope_write_kv(
            q, k, v, batch.positions, self._rope, self._k[layer], self._v[layer],
            batch.slot_mapping, **shared,
        )  # fmt: skip
        out: Floats = ops.paged_attention(
            q, self._k[layer], self._v[layer], batch.block_tables, batch.seq_lens,
            query_start_loc=batch.query_start_loc, **shared,
        )  # fmt: skip
        return out

    def _arrays(self) -> list[npt.NDArray[Any]]:
        scales = [each for pair in self._scales for each in pair if each is not None]
        return [*self._k, *self._v, *scales]
