"""Bytes of caches: a token of one layer, a block of one layer, a slot of states.

A layer's block is laid out as `pool.py` lays it out: scales, then keys, then values (of latent
attention the latent rows, then the rotary ones), rounded up to 8 bytes.
"""

from __future__ import annotations

from pagedkv import SsmStateSpec
from pagedkv.plan.errors import PlanError
from pagedkv.plan.layers import Attention, PagedCache, State
from pagedkv.replay.shape import DTYPE_BITS

__all__ = [
    "QUANTISED",
    "SCALES",
    "default_scales",
    "page_bytes",
    "row_values",
    "scale_bytes",
    "state_spec",
    "token_bytes",
]

# What a quantised value is multiplied by: one number a tensor, which takes no room in the pool, a
# number for each head of a block, or for each head of each token.
SCALES = ("tensor", "block", "token")
QUANTISED = ("float8_e4m3", "float8_e5m2", "int8", "int4")
SCALE_BYTES = 4
ALIGNMENT = 8


def default_scales(dtype: str) -> str:
    """Integers need a scale a token, which a write computes; 8-bit floats have a range of their
    own."""
    return "token" if dtype in ("int8", "int4") else "tensor"


def row_values(cache: PagedCache) -> tuple[int, int]:
    """Values that a token leaves in a layer: of keys and of values, or of the two latent rows."""
    if isinstance(cache, Attention):
        heads = cache.num_kv_heads
        return heads * cache.head_dim, heads * cache.v_head_dim
    return cache.kv_lora_rank, cache.rope_dim


def scale_bytes(cache: PagedCache, scales: str, block_size: int) -> int:
    """Scales of one layer's block, float32; latent rows have none."""
    if not isinstance(cache, Attention) or scales == "tensor":
        return 0
    rows = block_size if scales == "token" else 1
    return 2 * SCALE_BYTES * cache.num_kv_heads * rows


def token_bytes(cache: PagedCache, dtype: str) -> int:
    """One token in one layer, without scales."""
    bits = DTYPE_BITS[dtype]
    if bits < 8:
        sizes = (
            (cache.head_dim, cache.v_head_dim)
            if isinstance(cache, Attention)
            else (cache.kv_lora_rank, cache.rope_dim)
        )
        if any(size % 2 for size in sizes):
            raise PlanError(
                f"[plan.plan] {dtype} with rows of {sizes[0]} and {sizes[1]} values; expected even "
                "sizes: two values share a byte"
            )
    return sum(row_values(cache)) * bits // 8


def page_bytes(cache: PagedCache, dtype: str, scales: str, block_size: int) -> int:
    """One block of one layer: scales, keys and values."""
    size = token_bytes(cache, dtype) * block_size + scale_bytes(cache, scales, block_size)
    return -(-size // ALIGNMENT) * ALIGNMENT


def state_spec(state: State, num_layers: int, dtype: str) -> SsmStateSpec:
    """What `SsmStatePool` needs to know to keep the states of so many layers."""
    return SsmStateSpec(
        num_layers,
        state.num_heads,
        state.head_dim,
        state.d_state,
        state.conv_dim,
        state.d_conv,
        dtype,
    )
