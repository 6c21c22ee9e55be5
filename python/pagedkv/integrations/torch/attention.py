"""Attention over paged keys and values, for tensors of torch."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch

from pagedkv.integrations.torch import registration
from pagedkv.integrations.torch.arguments import (
    DType,
    Integers,
    Numbers,
    Scale,
    as_floats,
    as_integers,
    dtype_name,
    given,
    scales,
)

__all__ = ["mla_decode", "paged_attention"]

Pair = tuple[torch.Tensor, torch.Tensor]


def _overloads(operation: str) -> dict[tuple[bool, bool], Any]:
    """Those of an operation, by whether the LSE is asked for, and whether an `out` is given."""
    names = {
        (False, False): "",
        (True, False): ".lse",
        (False, True): ".out",
        (True, True): ".out_lse",
    }
    return {key: registration.overload(operation + name) for key, name in names.items()}


_ATTENTION, _MLA = _overloads("paged_attention"), _overloads("mla_decode")


@overload
def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: Integers,
    seq_lens: Integers,
    *,
    query_start_loc: Integers | None = None,
    scale: float | None = None,
    causal: bool = True,
    window: int | None = None,
    sink_tokens: int = 0,
    sink_logits: Numbers | None = None,
    softcap: float | None = None,
    alibi_slopes: Numbers | None = None,
    tree_mask: torch.Tensor | None = None,
    k_scale: Scale | None = None,
    v_scale: Scale | None = None,
    layout: Literal["HND", "NHD"] = "HND",
    dtype: DType | None = None,
    batch_invariant: bool = False,
    exact: bool = False,
    out: torch.Tensor | None = None,
    return_lse: Literal[False] = False,
) -> torch.Tensor: ...
@overload
def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: Integers,
    seq_lens: Integers,
    *,
    query_start_loc: Integers | None = None,
    scale: float | None = None,
    causal: bool = True,
    window: int | None = None,
    sink_tokens: int = 0,
    sink_logits: Numbers | None = None,
    softcap: float | None = None,
    alibi_slopes: Numbers | None = None,
    tree_mask: torch.Tensor | None = None,
    k_scale: Scale | None = None,
    v_scale: Scale | None = None,
    layout: Literal["HND", "NHD"] = "HND",
    dtype: DType | None = None,
    batch_invariant: bool = False,
    exact: bool = False,
    out: torch.Tensor | None = None,
    return_lse: Literal[True],
) -> Pair: ...
def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: Integers,
    seq_lens: Integers,
    *,
    query_start_loc: Integers | None = None,
    scale: float | None = None,
    causal: bool = True,
    window: int | None = None,
    sink_tokens: int = 0,
    sink_logits: Numbers | None = None,
    softcap: float | None = None,
    alibi_slopes: Numbers | None = None,
    tree_mask: torch.Tensor | None = None,
    k_scale: Scale | None = None,
    v_scale: Scale | None = None,
    layout: str = "HND",
    dtype: DType | None = None,
    batch_invariant: bool = False,
    exact: bool = False,
    out: torch.Tensor | None = None,
    return_lse: bool = False,
) -> torch.Tensor | Pair:
    """`pagedkv.ops.paged_attention`, which says what each argument is, as an operation of torch.

    Returns:
        ``[num_tokens, num_q_heads, v_head_dim]`` of the dtype of q, `out` where it is given; with
        ``return_lse`` also float32 ``[num_tokens, num_q_heads]``.
    """
    options = given(
        query_start_loc=None if query_start_loc is None else as_integers(query_start_loc),
        scale=scale,
        causal=None if causal else False,
        window=window,
        sink_tokens=sink_tokens or None,
        sink_logits=as_floats(sink_logits),
        softcap=softcap,
        alibi_slopes=as_floats(alibi_slopes),
        tree_mask=tree_mask,
        layout=None if layout == "HND" else layout,
        dtype=dtype_name(dtype),
        batch_invariant=batch_invariant or None,
        exact=exact or None,
        out=out,
        **scales(k_scale, v_scale),
    )
    result = _ATTENTION[return_lse, out is not None](
        q,
        k_cache,
        v_cache,
        as_integers(block_tables),
        as_integers(seq_lens),
        **options,
    )
    return _with_out(result, out, return_lse)


@overload
def mla_decode(
    q_nope: torch.Tensor,
    q_pe: torch.Tensor,
    ckv_cache: torch.Tensor,
    kpe_cache: torch.Tensor,
    block_tables: Integers,
    seq_lens: Integers,
    *,
    query_start_loc: Integers | None = None,
    scale: float,
    dtype: DType | None = None,
    out: torch.Tensor | None = None,
    return_lse: Literal[False] = False,
) -> torch.Tensor: ...
@overload
def mla_decode(
    q_nope: torch.Tensor,
    q_pe: torch.Tensor,
    ckv_cache: torch.Tensor,
    kpe_cache: torch.Tensor,
    block_tables: Integers,
    seq_lens: Integers,
    *,
    query_start_loc: Integers | None = None,
    scale: float,
    dtype: DType | None = None,
    out: torch.Tensor | None = None,
    return_lse: Literal[True],
) -> Pair: ...
def mla_decode(
    q_nope: torch.Tensor,
    q_pe: torch.Tensor,
    ckv_cache: torch.Tensor,
    kpe_cache: torch.Tensor,
    block_tables: Integers,
    seq_lens: Integers,
    *,
    query_start_loc: Integers | None = None,
    scale: float,
    dtype: DType | None = None,
    out: torch.Tensor | None = None,
    return_lse: bool = False,
) -> torch.Tensor | Pair:
    """`pagedkv.ops.mla_decode`, which says what each argument is, as an operation of torch.

    Returns:
        ``[num_tokens, num_heads, kv_lora_rank]`` of the dtype of q_nope, `out` where it is given;
        with ``return_lse`` also float32 ``[num_tokens, num_heads]``.
    """
    options = given(
        query_start_loc=None if query_start_loc is None else as_integers(query_start_loc),
        dtype=dtype_name(dtype),
        out=out,
    )
    result = _MLA[return_lse, out is not None](
        q_nope,
        q_pe,
        ckv_cache,
        kpe_cache,
        as_integers(block_tables),
        as_integers(seq_lens),
        scale=scale,
        **options,
    )
    return _with_out(result, out, return_lse)


def _with_out(result: Any, out: torch.Tensor | None, return_lse: bool) -> Any:
    """What the caller is given: an operation of torch does not return what it writes to."""
    if out is None:
        return result
    return (out, result) if return_lse else out
