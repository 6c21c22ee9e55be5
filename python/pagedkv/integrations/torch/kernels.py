"""What ``torch.ops.pagedkv`` runs: the operations themselves, on the memory of the tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pagedkv.errors import ShapeError
from pagedkv.integrations.torch.results import gathered

__all__ = ["Kernels"]


class Kernels:
    """The kernel of every overload, over the functions of one module: `pagedkv.ops`, or the
    extension module of a device, which spares finding out which it is.

    torch leaves out what was not given, so options are passed on as they come.
    """

    def __init__(self, module: Any) -> None:
        self._ops = module

    def of(self, overload: str) -> Callable[..., Any]:
        """The kernel of an overload by its name in the schema, such as "paged_attention.lse"."""
        kernel: Callable[..., Any] = getattr(self, overload.replace(".", "_"))
        return kernel

    def write_kv(
        self, k: Any, v: Any, k_cache: Any, v_cache: Any, slots: Any, **options: Any
    ) -> None:
        self._ops.write_kv(k, v, k_cache, v_cache, slots, **_with_scales("write_kv", options))
        _wrote(k_cache, v_cache, *_scales_written(options))

    def mla_write(
        self, ckv: Any, kpe: Any, ckv_cache: Any, kpe_cache: Any, slots: Any, **options: Any
    ) -> None:
        self._ops.mla_write(ckv, kpe, ckv_cache, kpe_cache, slots, **options)
        _wrote(ckv_cache, kpe_cache)

    def rope_write_kv(self, q: Any, *arrays: Any, **options: Any) -> Any:
        rotated = self._ops.rope_write_kv(q, *arrays, **_with_scales("rope_write_kv", options))
        _wrote(arrays[4], arrays[5], *_scales_written(options))
        return rotated

    def rope_write_kv_out(self, q: Any, *arrays: Any, out: Any, **options: Any) -> None:
        self.rope_write_kv(q, *arrays, out=out, **options)
        _wrote(out)

    def rope_write_kv_keys(self, *arrays: Any, **options: Any) -> None:
        self.rope_write_kv(None, *arrays, **options)

    def gather_kv(
        self, k_cache: Any, v_cache: Any, *where: Any, num_tokens: int | None = None, **options: Any
    ) -> Any:
        options = _with_scales("gather_kv", options)
        if num_tokens is None:
            return self._ops.gather_kv(k_cache, v_cache, *where, **options)
        if num_tokens < 0:
            raise ShapeError(f"[ops.gather_kv] num_tokens is {num_tokens}; expected 0 or more")
        of = {name: options[name] for name in ("layout", "dtype", "out_dtype") if name in options}
        out = tuple(gathered(cache, num_tokens, **of) for cache in (k_cache, v_cache))
        try:
            return self._ops.gather_kv(k_cache, v_cache, *where, out=out, **options)
        except ShapeError as error:
            held = int(where[1].sum())
            if held == num_tokens:
                raise
            raise ShapeError(
                f"[ops.gather_kv] num_tokens is {num_tokens}; expected {held}, the sum of seq_lens"
            ) from error

    def gather_kv_out(self, *arrays: Any, k_out: Any, v_out: Any, **options: Any) -> None:
        options = _with_scales("gather_kv", options)
        self._ops.gather_kv(*arrays, out=(k_out, v_out), **options)
        _wrote(k_out, v_out)

    def copy_blocks(self, caches: Any, src_dst: Any) -> None:
        self._ops.copy_blocks(caches, src_dst)
        _wrote(*caches)

    def move_slots(self, caches: Any, slot_moves: Any, **options: Any) -> None:
        self._ops.move_slots(caches, slot_moves, **options)
        _wrote(*caches)

    def move_slots_scales(
        self, caches: Any, slot_moves: Any, *, scales: Any, **options: Any
    ) -> None:
        self.move_slots(caches, slot_moves, scales=scales, **options)
        _wrote(*scales)

    def swap_blocks(self, src_cache: Any, dst_cache: Any, src_dst: Any) -> None:
        self._ops.swap_blocks(src_cache, dst_cache, src_dst)
        _wrote(dst_cache)

    def paged_attention(self, *arrays: Any, **options: Any) -> Any:
        return self._ops.paged_attention(*arrays, **_with_scales("paged_attention", options))

    def paged_attention_lse(self, *arrays: Any, **options: Any) -> Any:
        return self.paged_attention(*arrays, return_lse=True, **options)

    def paged_attention_out(self, *arrays: Any, out: Any, **options: Any) -> None:
        self.paged_attention(*arrays, out=out, **options)
        _wrote(out)

    def paged_attention_out_lse(self, *arrays: Any, out: Any, **options: Any) -> Any:
        _, lse = self.paged_attention(*arrays, out=out, return_lse=True, **options)
        _wrote(out)
        return lse

    def mla_decode(self, *arrays: Any, **options: Any) -> Any:
        return self._ops.mla_decode(*arrays, **options)

    def mla_decode_lse(self, *arrays: Any, **options: Any) -> Any:
        return self._ops.mla_decode(*arrays, return_lse=True, **options)

    def mla_decode_out(self, *arrays: Any, out: Any, **options: Any) -> None:
        self._ops.mla_decode(*arrays, out=out, **options)
        _wrote(out)

    def mla_decode_out_lse(self, *arrays: Any, out: Any, **options: Any) -> Any:
        _, lse = self._ops.mla_decode(*arrays, out=out, return_lse=True, **options)
        _wrote(out)
        return lse

    def merge_attention_states(self, *arrays: Any) -> Any:
        return self._ops.merge_attention_states(*arrays)

    def merge_attention_states_out(self, *arrays: Any, out: Any, lse_out: Any) -> None:
        self._ops.merge_attention_states(*arrays, out=(out, lse_out))
        _wrote(out, lse_out)


def _with_scales(operation: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options with the number of a scale in the place of its tensor."""
    if "k_scale_value" not in options and "v_scale_value" not in options:
        return options
    for name in ("k_scale", "v_scale"):
        value = options.pop(f"{name}_value", None)
        if value is None:
            continue
        if options.get(name) is not None:
            raise ShapeError(
                f"[ops.{operation}] both {name} and {name}_value; expected one of them, or neither"
            )
        options[name] = value
    return options


def _scales_written(options: dict[str, Any]) -> list[Any]:
    scales = (options.get("k_scale"), options.get("v_scale"))
    return [scale for scale in scales if isinstance(scale, torch.Tensor) and scale.dim() == 3]


def _wrote(*tensors: Any) -> None:
    """So that a backward pass notices that what it saved is no longer there."""
    torch.autograd.graph.increment_version(tensors)
