"""What ``torch.ops.pagedkv`` gives while a program is traced: results without contents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pagedkv.errors import UnsupportedError
from pagedkv.integrations.torch.results import (
    attended,
    attended_latent,
    gathered,
    lse_of,
    merged,
)

__all__ = ["fake_of"]

Pair = tuple[torch.Tensor, torch.Tensor]


def fake_of(overload: Any) -> Callable[..., Any]:
    """The fake of an overload of `torch.ops`; it refuses gradients, as the kernels do."""
    name = overload._schema.name.partition("::")[2]
    suffix = overload._schema.overload_name
    shape: Callable[..., Any] = FAKES.get(f"{name}.{suffix}" if suffix else name, _nothing)
    arguments = [argument.name for argument in overload._schema.arguments]

    def fake(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            for argument, value in (*zip(arguments, args, strict=False), *kwargs.items()):
                _expect_no_grad(name, argument, value)
        return shape(*args, **kwargs)

    return fake


def _expect_no_grad(operation: str, argument: str, value: Any) -> None:
    tensors = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(tensor, torch.Tensor) and tensor.requires_grad for tensor in tensors):
        raise UnsupportedError(
            f"[ops.{operation}] {argument} requires grad, which operations do not record; expected "
            f"a call under torch.no_grad(), or {argument}.detach()"
        )


def _nothing(*_: Any, **__: Any) -> None:
    """Of what only writes."""


def _rotated(q: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    made: torch.Tensor = q.new_empty(q.shape)
    return made


def _gathered(
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *_: Any,
    num_tokens: int | None = None,
    layout: str = "HND",
    dtype: str | None = None,
    out_dtype: str | None = None,
    **__: Any,
) -> Pair:
    # How many there are, only the lengths tell: a size that is not known until it runs.
    size = torch.library.get_ctx().new_dynamic_size() if num_tokens is None else num_tokens
    keys = gathered(k_cache, size, layout=layout, dtype=dtype, out_dtype=out_dtype)
    return keys, gathered(v_cache, size, layout=layout, dtype=dtype, out_dtype=out_dtype)


def _attended(
    q: torch.Tensor, _: Any, v_cache: torch.Tensor, *__: Any, dtype: str | None = None, **___: Any
) -> torch.Tensor:
    return attended(q, v_cache, dtype)


def _attended_lse(*args: Any, **options: Any) -> Pair:
    out = _attended(*args, **options)
    return out, lse_of(out)


def _attended_latent(
    q: torch.Tensor, _: Any, ckv_cache: torch.Tensor, *__: Any, dtype: str | None = None, **___: Any
) -> torch.Tensor:
    return attended_latent(q, ckv_cache, dtype)


def _attended_latent_lse(*args: Any, **options: Any) -> Pair:
    out = _attended_latent(*args, **options)
    return out, lse_of(out)


def _lse(q: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return lse_of(q)


def _merged(o_a: torch.Tensor, lse_a: torch.Tensor, *_: Any) -> Pair:
    return merged(o_a, lse_a)


FAKES: dict[str, Callable[..., Any]] = {
    "rope_write_kv": _rotated,
    "gather_kv": _gathered,
    "paged_attention": _attended,
    "paged_attention.lse": _attended_lse,
    "paged_attention.out_lse": _lse,
    "mla_decode": _attended_latent,
    "mla_decode.lse": _attended_latent_lse,
    "mla_decode.out_lse": _lse,
    "merge_attention_states": _merged,
}
