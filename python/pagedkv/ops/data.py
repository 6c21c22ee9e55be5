"""Operations that move keys and values: to slots, to dense arrays, between blocks."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar, overload

import numpy.typing as npt

from pagedkv.ops.arrays import Array, Integers, Scale, SupportsDLPack
from pagedkv.ops.devices import module_for

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
Pairs: TypeAlias = SupportsDLPack | Sequence[tuple[int, int]] | Sequence[Sequence[int]]
Values = TypeVar("Values", bound=SupportsDLPack)


def write_kv(
    k: SupportsDLPack,
    v: SupportsDLPack,
    k_cache: SupportsDLPack,
    v_cache: SupportsDLPack,
    slot_mapping: Integers,
    *,
    k_scale: Scale | None = None,
    v_scale: Scale | None = None,
    layout: Layout = "HND",
    dtype: npt.DTypeLike | None = None,
) -> None:
    """Writes the keys and values of new tokens to their slots, quantised where the cache is.

    Rows of the cache's own dtype are copied as they are. Others are divided by their scale and
    rounded to nearest, ties to even; beyond the range of float8 and integers they become its
    largest value; NaN stays NaN, and becomes 0 in integers. When several tokens have one slot, what
    it holds then is one of them or parts of several. O(bytes).

    Args:
        k: ``[num_tokens, num_kv_heads, head_dim]``: float64, float32, float16, bfloat16, or the
            dtype of the cache.
        v: ``[num_tokens, num_kv_heads, v_head_dim]``, likewise.
        k_cache: as ``paged_attention`` takes it; written to.
        v_cache: likewise.
        slot_mapping: ``[num_tokens]`` int64, ``block_id * block_size + offset`` of each token; -1:
            the token is skipped.
        k_scale: of quantised caches: a number or ``[num_blocks, num_kv_heads]`` float32, which are
            never changed; ``[num_blocks, num_kv_heads, block_size]`` float32, which are computed
            from the rows and written.
        v_scale: likewise.
        layout: of the caches.
        dtype: what raw integers in the caches are.
    """
    module_for("write_kv", k_cache, k).write_kv(
        k,
        v,
        k_cache,
        v_cache,
        slot_mapping,
        k_scale=k_scale,
        v_scale=v_scale,
        layout=layout,
        dtype=dtype,
    )


def mla_write(
    ckv: SupportsDLPack,
    kpe: SupportsDLPack,
    ckv_cache: SupportsDLPack,
    kpe_cache: SupportsDLPack,
    slot_mapping: Integers,
    *,
    dtype: npt.DTypeLike | None = None,
) -> None:
    """Writes the latent and the rotary rows of new tokens to their slots, as ``write_kv`` does.

    Args:
        ckv: ``[num_tokens, kv_lora_rank]``
        kpe: ``[num_tokens, rope_dim]``
        ckv_cache: ``[num_blocks, block_size, kv_lora_rank]``; written to. Both caches may be views
            of one array.
        kpe_cache: ``[num_blocks, block_size, rope_dim]``; written to.
        slot_mapping: ``[num_tokens]`` int64; -1: the token is skipped.
        dtype: what raw integers in the caches are.
    """
    module_for("mla_write", ckv_cache, ckv).mla_write(
        ckv, kpe, ckv_cache, kpe_cache, slot_mapping, dtype=dtype
    )


def gather_kv(
    k_cache: Array,
    v_cache: Values,
    block_tables: Integers,
    seq_lens: Integers,
    *,
    k_scale: Scale | None = None,
    v_scale: Scale | None = None,
    layout: Layout = "HND",
    dtype: npt.DTypeLike | None = None,
    out_dtype: npt.DTypeLike | None = None,
    out: tuple[Array, Values] | None = None,
) -> tuple[Array, Values]:
    """Dense copies of the keys and values of sequences, one sequence after the other. O(bytes).

    Args:
        k_cache: as ``paged_attention`` takes it.
        v_cache: likewise.
        block_tables: ``[num_seqs, max_blocks]`` int32; what is behind a sequence may be anything.
        seq_lens: ``[num_seqs]`` int32.
        k_scale: what elements of a quantised cache are multiplied by, where they become floats.
        v_scale: likewise.
        layout: of the caches.
        dtype: what raw integers in the caches are.
        out_dtype: float64, float32, float16 or bfloat16; None: that of the cache, whose bytes are
            copied, or that of ``out``.
        out: where to, instead of new arrays.

    Returns:
        ``[sum of seq_lens, num_kv_heads, head_dim]`` keys, and values likewise.
    """
    gathered: tuple[Array, Values] = module_for("gather_kv", k_cache).gather_kv(
        k_cache,
        v_cache,
        block_tables,
        seq_lens,
        k_scale=k_scale,
        v_scale=v_scale,
        layout=layout,
        dtype=dtype,
        out_dtype=out_dtype,
        out=out,
    )
    return gathered


def copy_blocks(caches: Iterable[SupportsDLPack], src_dst: Pairs) -> None:
    """Copies blocks within each of several arrays, as if one pair after the other. O(bytes).

    Args:
        caches: any arrays of 2 to 4 dimensions whose first one is the block: keys, values, latent
            rows, scales, in any layout.
        src_dst: ``[num_pairs, 2]`` block ids, from and to.
    """
    caches = list(caches)
    module_for("copy_blocks", *caches).copy_blocks(caches, src_dst)


def move_slots(
    caches: Iterable[SupportsDLPack],
    slot_moves: Pairs,
    *,
    scales: Iterable[SupportsDLPack] = (),
    layout: Layout = "HND",
) -> None:
    """Moves tokens from slot to slot: those of a tree of drafts that were accepted. O(bytes).

    In each array as if one pair after the other.

    Args:
        caches: keys and values as ``paged_attention`` takes them, or latent caches ``[num_blocks,
            block_size, size]``.
        slot_moves: ``[num_pairs, 2]`` slots, from and to.
        scales: ``[num_blocks, num_kv_heads, block_size]``, which move with their tokens.
        layout: of keys and values.
    """
    caches = list(caches)
    module_for("move_slots", *caches).move_slots(caches, slot_moves, scales=scales, layout=layout)


def swap_blocks(src_cache: SupportsDLPack, dst_cache: SupportsDLPack, src_dst: Pairs) -> None:
    """Copies blocks of one array over blocks of another: to another pool, and back. O(bytes).

    Args:
        src_cache: ``[num_blocks, ...]`` of 2 to 4 dimensions.
        dst_cache: of the same shape but for the number of blocks, and dtype; written to.
        src_dst: ``[num_pairs, 2]`` block ids, from and to; as if one pair after the other.
    """
    module_for("swap_blocks", src_cache, dst_cache).swap_blocks(src_cache, dst_cache, src_dst)


@overload
def rope_write_kv(
    q: Array,
    k: SupportsDLPack,
    v: SupportsDLPack,
    positions: Integers,
    cos_sin_cache: SupportsDLPack,
    k_cache: SupportsDLPack,
    v_cache: SupportsDLPack,
    slot_mapping: Integers,
    *,
    interleaved: bool = False,
    q_norm_weight: SupportsDLPack | None = None,
    k_norm_weight: SupportsDLPack | None = None,
    norm_eps: float = 1e-6,
    k_scale: Scale | None = None,
    v_scale: Scale | None = None,
    layout: Layout = "HND",
    dtype: npt.DTypeLike | None = None,
    out: Array | None = None,
) -> Array: ...
@overload
def rope_write_kv(
    q: None,
    k: SupportsDLPack,
    v: SupportsDLPack,
    positions: Integers,
    cos_sin_cache: SupportsDLPack,
    k_cache: SupportsDLPack,
    v_cache: SupportsDLPack,
    slot_mapping: Integers,
    *,
    interleaved: bool = False,
    q_norm_weight: SupportsDLPack | None = None,
    k_norm_weight: SupportsDLPack | None = None,
    norm_eps: float = 1e-6,
    k_scale: Scale | None = None,
    v_scale: Scale | None = None,
    layout: Layout = "HND",
    dtype: npt.DTypeLike | None = None,
    out: None = None,
) -> None: ...
def rope_write_kv(
    q: Any,
    k: Any,
    v: Any,
    positions: Any,
    cos_sin_cache: Any,
    k_cache: Any,
    v_cache: Any,
    slot_mapping: Any,
    *,
    interleaved: bool = False,
    q_norm_weight: Any = None,
    k_norm_weight: Any = None,
    norm_eps: float = 1e-6,
    k_scale: Any = None,
    v_scale: Any = None,
    layout: str = "HND",
    dtype: Any = None,
    out: Any = None,
) -> Any:
    """Norms and rotates queries and keys, and writes keys and values to their slots, in one pass.

    For each token q and k are divided by the root of their mean square and multiplied by the
    weights, where there are any, and rotated by the angles of the token's position; then k and v go
    to the token's slot as ``write_kv`` writes them. In float32 (float64 for float64), rounded once.

    Args:
        q: ``[num_tokens, num_q_heads, head_dim]``: float64, float32, float16 or bfloat16; None:
            only keys are rotated.
        k: ``[num_tokens, num_kv_heads, head_dim]``, likewise a float.
        v: ``[num_tokens, num_kv_heads, v_head_dim]``: a float, or the dtype of the cache.
        positions: ``[num_tokens]`` int64 or int32, rows of ``cos_sin_cache``.
        cos_sin_cache: ``[max_position, rotary_dim]`` float32: ``rotary_dim / 2`` cosines, then as
            many sines. Channels from ``rotary_dim`` on are not rotated.
        k_cache: as ``paged_attention`` takes it; written to.
        v_cache: likewise.
        slot_mapping: ``[num_tokens]`` int64; -1: only q is rotated.
        interleaved: whether pairs are channels (2i, 2i + 1); else (i, i + rotary_dim / 2).
        q_norm_weight: ``[head_dim]`` floats of an RMS norm; None: no norm.
        k_norm_weight: likewise.
        norm_eps: added to the mean of squares.
        k_scale: as in ``write_kv``.
        v_scale: likewise.
        layout: of the caches.
        dtype: what raw integers in the caches are.
        out: where the queries go, instead of a new array; may be q.

    Returns:
        The queries, ``[num_tokens, num_q_heads, head_dim]`` of the dtype of q; None without q.
    """
    return module_for("rope_write_kv", k_cache, k).rope_write_kv(
        q,
        k,
        v,
        positions,
        cos_sin_cache,
        k_cache,
        v_cache,
        slot_mapping,
        interleaved=interleaved,
        q_norm_weight=q_norm_weight,
        k_norm_weight=k_norm_weight,
        norm_eps=norm_eps,
        k_scale=k_scale,
        v_scale=v_scale,
        layout=layout,
        dtype=dtype,
        out=out,
    )


def merge_attention_states(
    o_a: Array,
    lse_a: Array,
    o_b: Array,
    lse_b: Array,
    *,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Two attentions of the same queries over different tokens become one over all. O(bytes).

    A part whose LSE is -inf saw nothing: its row may hold anything. Where both are, the result is
    zeros with an LSE of -inf.

    Args:
        o_a: ``[num_tokens, num_q_heads, v_head_dim]``: float64, float32, float16 or bfloat16.
        lse_a: ``[num_tokens, num_q_heads]`` float32, natural logarithm.
        o_b: of the shape and dtype of ``o_a``.
        lse_b: likewise.
        out: the result and its LSE, instead of new arrays; may be ``(o_a, lse_a)``.

    Returns:
        The result and its LSE, as ``o_a`` and ``lse_a``.
    """
    merge = module_for("merge_attention_states", o_a).merge_attention_states
    merged: tuple[Array, Array] = merge(o_a, lse_a, o_b, lse_b, out=out)
    return merged
