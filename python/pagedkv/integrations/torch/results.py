"""Tensors for results: what kernels give where the caller has no `out`, and what stands for that
while a program is traced."""

from __future__ import annotations

import torch

from pagedkv.errors import ShapeError, UnsupportedError
from pagedkv.integrations.torch.arguments import dtype_name

__all__ = ["attended", "attended_latent", "gathered", "lse_of", "merged"]


def attended(q: torch.Tensor, v_cache: torch.Tensor, dtype: str | None) -> torch.Tensor:
    """The result of `paged_attention`."""
    _expect_dims("paged_attention", "q", q, 3)
    _expect_dims("paged_attention", "v_cache", v_cache, 4)
    made: torch.Tensor = q.new_empty((q.shape[0], q.shape[1], _channels(v_cache, dtype)))
    return made


def attended_latent(q: torch.Tensor, ckv_cache: torch.Tensor, dtype: str | None) -> torch.Tensor:
    """The result of `mla_decode`."""
    _expect_dims("mla_decode", "q_nope", q, 3)
    _expect_dims("mla_decode", "ckv_cache", ckv_cache, 3)
    made: torch.Tensor = q.new_empty((q.shape[0], q.shape[1], _channels(ckv_cache, dtype)))
    return made


def lse_of(out: torch.Tensor) -> torch.Tensor:
    """The logarithms of the sums of weights beside a result of attention."""
    made: torch.Tensor = out.new_empty((out.shape[0], out.shape[1]), dtype=torch.float32)
    return made


def gathered(
    cache: torch.Tensor,
    num_tokens: int,
    *,
    layout: str = "HND",
    dtype: str | None = None,
    out_dtype: str | None = None,
) -> torch.Tensor:
    """So many dense rows of a cache: as it stores them, or as the floats that `out_dtype` names."""
    _expect_dims("gather_kv", "k_cache and v_cache", cache, 4)
    heads = cache.shape[2 if layout == "NHD" else 1]
    # Raw integers that are of the very dtype that is wanted stay raw integers.
    stored = _stored(cache) if dtype is None else dtype_name(dtype)
    if out_dtype is None or dtype_name(out_dtype) == stored:
        as_stored: torch.Tensor = cache.new_empty((num_tokens, heads, cache.shape[3]))
        return as_stored
    wanted = getattr(torch, out_dtype, None)
    if not isinstance(wanted, torch.dtype):
        raise UnsupportedError(
            f"[ops.gather_kv] out_dtype {out_dtype!r}; expected the dtype of the cache or a float"
        )
    floats: torch.Tensor = cache.new_empty(
        (num_tokens, heads, _channels(cache, dtype)), dtype=wanted
    )
    return floats


def merged(o: torch.Tensor, lse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The results of `merge_attention_states`."""
    return o.new_empty(o.shape), lse.new_empty(lse.shape, dtype=torch.float32)


def _channels(cache: torch.Tensor, dtype: str | None) -> int:
    """Elements of a row; int4 has two of them a byte."""
    size: int = cache.shape[-1]
    return 2 * size if dtype == "int4" else size


def _stored(cache: torch.Tensor) -> str:
    """What the elements of a cache are where nobody says it."""
    return "bfloat16" if cache.dtype == torch.uint16 else str(dtype_name(cache.dtype))


def _expect_dims(operation: str, argument: str, tensor: torch.Tensor, ndim: int) -> None:
    if tensor.dim() != ndim:
        raise ShapeError(
            f"[ops.{operation}] {argument} of shape {tuple(tensor.shape)}; "
            f"expected {ndim} dimensions"
        )
