"""Operations that move keys and values, for tensors of torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias, overload

import torch

from pagedkv.integrations.torch import registration
from pagedkv.integrations.torch.arguments import (
    DType,
    Integers,
    Pairs,
    Scale,
    as_integers,
    as_pairs,
    dtype_name,
    given,
    scales,
)

__all__ = [
    "copy_blocks",
    "gather_kv",
    "merge_attention_states",
    "mla_write",
    "move_slots",
    "rope_write_kv",
    "swap_blocks",
    "write_kv",
]

Layout: TypeAlias = Literal["HND", "NHD"]
Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]

_WRITE_KV = registration.overload("write_kv")
_MLA_WRITE = registration.overload("mla_write")
_ROPE = registration.overload("rope_write_kv")
_ROPE_OUT = registration.overload("rope_write_kv.out")
_ROPE_KEYS = registration.overload("rope_write_kv.keys")
_GATHER = registration.overload("gather_kv")
_GATHER_OUT = registration.overload("gather_kv.out")
_COPY_BLOCKS = registration.overload("copy_blocks")
_MOVE_SLOTS = registration.overload("move_slots")
_MOVE_SLOTS_SCALES = registration.overload("move_slots.scales")
_SWAP_BLOCKS = registration.overload("swap_blocks")
_MERGE = registration.overload("merge_attention_states")
_MERGE_OUT = registration.overload("merge_attention_states.out")


def write_kv(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: Integers,
    *,
    k_scale: Scale | None = None,
    v_scale: Scale | None = None,
    layout: Layout = "HND",
    dtype: DType | None = None,
) -> None:
    """`pagedkv.ops.write_kv`, which says what each argument is, as an operation of torch."""
    options = scales(k_scale, v_scale) | given(dtype=dtype_name(dtype))
    _WRITE_KV(k, v, k_cache, v_cache, as_integers(slot_mapping), layout=layout, **options)


def mla_write(
    ckv: torch.Tensor,
    kpe: torch.Tensor,
    ckv_cache: torch.Tensor,
    kpe_cache: torch.Tensor,
    slot_mapping: Integers,
    *,
    dtype: DType | None = None,
) -> None:
    """`pagedkv.ops.mla_write`, which says what each argument is, as an operation of torch."""
    slots = as_integers(slot_mapping)
    _MLA_WRITE(ckv, kpe, ckv_cache, kpe_cache, slots, **given(dtype=dtype_name(dtype)))


@overload
def rope_write_kv(
    q: None,
    k: torch.Tensor,
    v: torch.Tensor,
    positions: Integers,
    cos_sin_cache: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: Integers,
    *,
    interleaved: bool = False,
    q_norm_weight: torch.Tensor | None = None,
    k_norm_weight: torch.Tensor | None = None,
    norm_eps: float = 1e-6,
    k_scale: Scale | None = None,
    v_scale: Scale | None = None,
    layout: Layout = "HND",
    dtype: DType | None = None,
    out: None = None,
) -> None: ...
@overload
def rope_write_kv(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    positions: Integers,
    cos_sin_cache: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: Integers,
    *,
    interleaved: bool = False,
    q_norm_weight: torch.Tensor | None = None,
    k_norm_weight: torch.Tensor | None = None,
    norm_eps: float = 1e-6,
    k_scale: Scale | None = None,
    v_scale: Scale | None = None,
    layout: Layout = "HND",
    dtype: DType | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor: ...
def rope_write_kv(
    q: torch.Tensor | None,
    k: torch.Tensor,
    v: torch.Tensor,
    positions: Integers,
    cos_sin_cache: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: Integers,
    *,
    interleaved: bool = False,
    q_norm_weight: torch.Tensor | None = None,
    k_norm_weight: torch.Tensor | None = None,
    norm_eps: float = 1e-6,
    k_scale: Scale | None = None,
    v_scale: Scale | None = None,
    layout: Layout = "HND",
    dtype: DType | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """`pagedkv.ops.rope_write_kv`, which says what each argument is, as an operation of torch.

    Returns:
        The queries, ``[num_tokens, num_q_heads, head_dim]`` of the dtype of q, `out` where it is
        given; None without q.
    """
    options = scales(k_scale, v_scale) | given(
        q_norm_weight=q_norm_weight, k_norm_weight=k_norm_weight, dtype=dtype_name(dtype)
    )
    options |= {"interleaved": interleaved, "norm_eps": norm_eps, "layout": layout}
    places, slots = as_integers(positions), as_integers(slot_mapping)
    arrays = (k, v, places, cos_sin_cache, k_cache, v_cache, slots)
    if q is None:
        _ROPE_KEYS(*arrays, **options)
        return None
    if out is not None:
        _ROPE_OUT(q, *arrays, out=out, **options)
        return out
    rotated: torch.Tensor = _ROPE(q, *arrays, **options)
    return rotated


def gather_kv(
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: Integers,
    seq_lens: Integers,
    *,
    k_scale: Scale | None = None,
    v_scale: Scale | None = None,
    layout: Layout = "HND",
    dtype: DType | None = None,
    out_dtype: DType | None = None,
    out: Pair | None = None,
    num_tokens: int | None = None,
) -> Pair:
    """`pagedkv.ops.gather_kv`, which says what each argument is, as an operation of torch.

    Args:
        num_tokens: the sum of ``seq_lens``, for compilers and CUDA graphs, which want to know sizes
            before the lengths are read. Without it, and without ``out``, a compiled program has a
            size in it that is not known before it runs (``capture_dynamic_output_shape_ops``).

    Returns:
        ``[sum of seq_lens, num_kv_heads, head_dim]`` keys, and values likewise.
    """
    options = scales(k_scale, v_scale)
    options |= given(dtype=dtype_name(dtype), out_dtype=dtype_name(out_dtype))
    tables, lengths = as_integers(block_tables), as_integers(seq_lens)
    arrays = (k_cache, v_cache, tables, lengths)
    if out is not None:
        _GATHER_OUT(*arrays, layout=layout, k_out=out[0], v_out=out[1], **options)
        return out
    dense: Pair = _GATHER(*arrays, layout=layout, num_tokens=num_tokens, **options)
    return dense


def copy_blocks(caches: Iterable[torch.Tensor], src_dst: Pairs) -> None:
    """`pagedkv.ops.copy_blocks`, which says what each argument is, as an operation of torch."""
    _COPY_BLOCKS(list(caches), as_pairs(src_dst))


def move_slots(
    caches: Iterable[torch.Tensor],
    slot_moves: Pairs,
    *,
    scales: Iterable[torch.Tensor] = (),
    layout: Layout = "HND",
) -> None:
    """`pagedkv.ops.move_slots`, which says what each argument is, as an operation of torch."""
    moved, moves = list(scales), as_pairs(slot_moves)
    if moved:
        _MOVE_SLOTS_SCALES(list(caches), moves, scales=moved, layout=layout)
    else:
        _MOVE_SLOTS(list(caches), moves, layout=layout)


def swap_blocks(src_cache: torch.Tensor, dst_cache: torch.Tensor, src_dst: Pairs) -> None:
    """`pagedkv.ops.swap_blocks`, which says what each argument is, as an operation of torch."""
    _SWAP_BLOCKS(src_cache, dst_cache, as_pairs(src_dst))


def merge_attention_states(
    o_a: torch.Tensor,
    lse_a: torch.Tensor,
    o_b: torch.Tensor,
    lse_b: torch.Tensor,
    *,
    out: Pair | None = None,
) -> Pair:
    """`pagedkv.ops.merge_attention_states`, which says what each argument is, as an operation of
    torch.

    Returns:
        The result and its LSE, as ``o_a`` and ``lse_a``; `out` where it is given.
    """
    if out is not None:
        _MERGE_OUT(o_a, lse_a, o_b, lse_b, out=out[0], lse_out=out[1])
        return out
    merged: Pair = _MERGE(o_a, lse_a, o_b, lse_b)
    return merged
