"""Attention over paged keys and values."""

from typing import Any, Literal, SupportsIndex, overload

import numpy.typing as npt

from pagedkv.ops.arrays import Array, Integers, Numbers, Scale, SupportsDLPack
from pagedkv.ops.devices import module_for

__all__ = ["mla_decode", "paged_attention"]


@overload
def paged_attention(
    q: Array,
    k_cache: SupportsDLPack,
    v_cache: SupportsDLPack,
    block_tables: Integers,
    seq_lens: Integers,
    *,
    query_start_loc: Integers | None = None,
    scale: float | None = None,
    causal: bool = True,
    window: SupportsIndex | None = None,
    sink_tokens: SupportsIndex = 0,
    sink_logits: Numbers | None = None,
    softcap: float | None = None,
    alibi_slopes: Numbers | None = None,
    tree_mask: SupportsDLPack | None = None,
    k_scale: Scale | None = None,
    v_scale: Scale | None = None,
    layout: Literal["HND", "NHD"] = "HND",
    dtype: npt.DTypeLike | None = None,
    batch_invariant: bool = False,
    exact: bool = False,
    out: Array | None = None,
    return_lse: Literal[False] = False,
) -> Array: ...
@overload
def paged_attention(
    q: Array,
    k_cache: SupportsDLPack,
    v_cache: SupportsDLPack,
    block_tables: Integers,
    seq_lens: Integers,
    *,
    query_start_loc: Integers | None = None,
    scale: float | None = None,
    causal: bool = True,
    window: SupportsIndex | None = None,
    sink_tokens: SupportsIndex = 0,
    sink_logits: Numbers | None = None,
    softcap: float | None = None,
    alibi_slopes: Numbers | None = None,
    tree_mask: SupportsDLPack | None = None,
    k_scale: Scale | None = None,
    v_scale: Scale | None = None,
    layout: Literal["HND", "NHD"] = "HND",
    dtype: npt.DTypeLike | None = None,
    batch_invariant: bool = False,
    exact: bool = False,
    out: Array | None = None,
    return_lse: Literal[True],
) -> tuple[Array, Array]: ...
def paged_attention(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    block_tables: Any,
    seq_lens: Any,
    *,
    query_start_loc: Any = None,
    scale: float | None = None,
    causal: bool = True,
    window: SupportsIndex | None = None,
    sink_tokens: SupportsIndex = 0,
    sink_logits: Any = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    tree_mask: Any = None,
    k_scale: Any = None,
    v_scale: Any = None,
    layout: str = "HND",
    dtype: Any = None,
    batch_invariant: bool = False,
    exact: bool = False,
    out: Any = None,
    return_lse: bool = False,
) -> Any:
    """Attention of a batch of sequences over their paged keys and values.

    A sequence may have one new token (decode), many (chunked prefill) or none; its new tokens are
    its last ones, and their keys and values are in the cache already. The query at position i of
    its sequence sees the tokens j with ``i - window < j <= i``, and those with ``j < sink_tokens``.
    A query that sees nothing gives zeros, with an LSE of -inf. Slots that hold no token of a
    sequence are never read into a result, whatever they hold.

    Sums and the softmax are float32, float64 for float64. A result does not depend, bit for bit, on
    the rest of the batch or on the number of threads.

    Args:
        q: ``[num_tokens, num_q_heads, head_dim]``, the new tokens of all sequences one after the
            other: float32, float16 or bfloat16; float64 with a float64 cache, and only then.
        k_cache: ``[num_blocks, num_kv_heads, block_size, head_dim]``, or
            ``[num_blocks, block_size, num_kv_heads, head_dim]`` with ``layout="NHD"``: float64,
            float32, float16, bfloat16, float8_e4m3 (fn), float8_e5m2, int8 or int4. ``num_q_heads``
            is 1 to 64 times ``num_kv_heads``; head dims are multiples of 8 up to 512.
        v_cache: likewise, of the same dtype; its head_dim may differ.
        block_tables: ``[num_seqs, max_blocks]`` int32; what is not read may be anything.
        seq_lens: ``[num_seqs]`` int32, the new tokens counted; 0 gives zeros.
        query_start_loc: ``[num_seqs + 1]`` int32, where in q the new tokens of each sequence begin;
            None: each sequence has one.
        scale: factor of the products; ``head_dim ** -0.5`` unless told.
        causal: whether queries see only tokens up to their own.
        window: how many tokens a query sees, its own counted; None: all.
        sink_tokens: so many first tokens are seen in spite of ``window``.
        sink_logits: ``[num_q_heads]`` float32, join the softmax and the LSE, with no value.
        softcap: scores become ``softcap * tanh(score / softcap)``.
        alibi_slopes: ``[num_q_heads]`` float32; ``slope * (j - i)`` is added to the scores.
        tree_mask: ``[num_tokens, max_query_len]`` uint8 or bool: whether a new token sees each new
            token of its sequence. Beside ``causal``, not in its place.
        k_scale: what elements of ``k_cache`` are multiplied by: a number, ``[num_blocks,
            num_kv_heads]`` or ``[num_blocks, num_kv_heads, block_size]`` float32, in either layout.
        v_scale: likewise.
        layout: of the caches.
        dtype: what raw integers in the caches are.
        batch_invariant: a sequence's bits depend on nothing else in the batch; on the CPU that
            always holds.
        exact: compute with floats also where the elements could be multiplied as they are: int8,
            int4, and bfloat16 on some processors.
        out: ``[num_tokens, num_q_heads, v_head_dim]`` of the dtype of q.
        return_lse: also give the logarithm of the sum of the weights.

    Returns:
        ``[num_tokens, num_q_heads, v_head_dim]`` of the dtype of q; with ``return_lse`` also
        float32 ``[num_tokens, num_q_heads]``.
    """
    return module_for("paged_attention", q, k_cache).paged_attention(
        q,
        k_cache,
        v_cache,
        block_tables,
        seq_lens,
        query_start_loc=query_start_loc,
        scale=scale,
        causal=causal,
        window=window,
        sink_tokens=sink_tokens,
        sink_logits=sink_logits,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        tree_mask=tree_mask,
        k_scale=k_scale,
        v_scale=v_scale,
        layout=layout,
        dtype=dtype,
        batch_invariant=batch_invariant,
        exact=exact,
        out=out,
        return_lse=return_lse,
    )


@overload
def mla_decode(
    q_nope: Array,
    q_pe: SupportsDLPack,
    ckv_cache: SupportsDLPack,
    kpe_cache: SupportsDLPack,
    block_tables: Integers,
    seq_lens: Integers,
    *,
    query_start_loc: Integers | None = None,
    scale: float,
    dtype: npt.DTypeLike | None = None,
    out: Array | None = None,
    return_lse: Literal[False] = False,
) -> Array: ...
@overload
def mla_decode(
    q_nope: Array,
    q_pe: SupportsDLPack,
    ckv_cache: SupportsDLPack,
    kpe_cache: SupportsDLPack,
    block_tables: Integers,
    seq_lens: Integers,
    *,
    query_start_loc: Integers | None = None,
    scale: float,
    dtype: npt.DTypeLike | None = None,
    out: Array | None = None,
    return_lse: Literal[True],
) -> tuple[Array, Array]: ...
def mla_decode(
    q_nope: Any,
    q_pe: Any,
    ckv_cache: Any,
    kpe_cache: Any,
    block_tables: Any,
    seq_lens: Any,
    *,
    query_start_loc: Any = None,
    scale: float,
    dtype: Any = None,
    out: Any = None,
    return_lse: bool = False,
) -> Any:
    """Multi-head latent attention over a paged latent cache, for the new tokens of each sequence.

    The keys of a token are its latent row and its rotary row, its values the latent row, the same
    for all heads: queries come multiplied into the latent space, and results leave in it. Causal,
    otherwise as ``paged_attention``.

    Args:
        q_nope: ``[num_tokens, num_heads, kv_lora_rank]`` float32, float16 or bfloat16.
        q_pe: ``[num_tokens, num_heads, rope_dim]``, of the same dtype.
        ckv_cache: ``[num_blocks, block_size, kv_lora_rank]``; both sizes are multiples of 8 up to
            512. Any dtype of ``paged_attention`` but float64.
        kpe_cache: ``[num_blocks, block_size, rope_dim]``, of the same dtype.
        block_tables: ``[num_seqs, max_blocks]`` int32.
        seq_lens: ``[num_seqs]`` int32.
        query_start_loc: ``[num_seqs + 1]`` int32; None: each sequence has one new token.
        scale: factor of the products. There is no default: it belongs to the head_dim before the
            queries were multiplied.
        dtype: what raw integers in the caches are.
        out: ``[num_tokens, num_heads, kv_lora_rank]`` of the dtype of q_nope.
        return_lse: also give the logarithm of the sum of the weights.

    Returns:
        ``[num_tokens, num_heads, kv_lora_rank]`` of the dtype of q_nope; with ``return_lse`` also
        float32 ``[num_tokens, num_heads]``.
    """
    return module_for("mla_decode", q_nope, ckv_cache).mla_decode(
        q_nope,
        q_pe,
        ckv_cache,
        kpe_cache,
        block_tables,
        seq_lens,
        query_start_loc=query_start_loc,
        scale=scale,
        dtype=dtype,
        out=out,
        return_lse=return_lse,
    )
