"""Calls of every operation with tensors, between them with every option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["CASES", "Arguments", "arguments_of", "clone", "tensors_in"]

Arguments = dict[str, Any]

BLOCKS, KV_HEADS, HEADS, SIZE, DIM = 8, 2, 4, 4, 16
LENS = [5, 0, 8, 3]
NEW = [1, 0, 3, 1]


def arguments_of(case: str) -> tuple[str, Arguments]:
    """The operation of a case, and its arguments, made anew."""
    operation, make = CASES[case]
    torch.manual_seed(len(case))
    return operation, make()


def clone(value: Any) -> Any:
    """The same with tensors of its own; what is given twice stays one. Strides are kept."""
    seen: dict[int, Any] = {}

    def of(each: Any) -> Any:
        if isinstance(each, torch.Tensor):
            if id(each) not in seen:
                seen[id(each)] = each.clone(memory_format=torch.preserve_format)
            return seen[id(each)]
        if isinstance(each, dict):
            return {name: of(item) for name, item in each.items()}
        return type(each)(map(of, each)) if isinstance(each, list | tuple) else each

    return of(value)


def tensors_in(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return []
    return [tensor for each in value for tensor in tensors_in(each)]


def ints(values: Any, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def stored(*shape: int, dtype: str = "float32") -> torch.Tensor:
    """Random elements of a cache."""
    if dtype == "int4":
        return torch.randint(0, 256, (*shape[:-1], shape[-1] // 2), dtype=torch.uint8)
    if dtype == "int8":
        return torch.randint(-99, 99, shape, dtype=torch.int8)
    name = {"float8_e4m3": "float8_e4m3fn"}.get(dtype, dtype)
    return torch.randn(shape).to(getattr(torch, name))


def caches(dtype: str = "float32", layout: str = "HND", v_dim: int = DIM) -> Arguments:
    inner = (KV_HEADS, SIZE) if layout == "HND" else (SIZE, KV_HEADS)
    made: Arguments = {
        name: stored(BLOCKS, *inner, dim, dtype=dtype)
        for name, dim in (("k_cache", DIM), ("v_cache", v_dim))
    }
    made |= {"layout": layout} if layout != "HND" else {}
    return made | ({"dtype": dtype} if dtype == "int4" else {})


def tables() -> Arguments:
    return {
        "block_tables": ints([[6, 1, -1], [-1, -1, -1], [0, 7, -1], [3, -1, -1]]),
        "seq_lens": ints(LENS),
    }


def rows(dtype: str = "float32", v_dim: int = DIM, count: int = 3) -> Arguments:
    return {
        "k": stored(count, KV_HEADS, DIM, dtype=dtype),
        "v": stored(count, KV_HEADS, v_dim, dtype=dtype),
        "slot_mapping": ints([5, -1, 30][:count], torch.int64),
    }


def token_scales() -> Arguments:
    return {name: torch.rand(BLOCKS, KV_HEADS, SIZE) for name in ("k_scale", "v_scale")}


def head_scales() -> Arguments:
    return {name: torch.rand(BLOCKS, KV_HEADS) + 0.5 for name in ("k_scale", "v_scale")}


def query(dtype: str = "float32", tokens: int = len(LENS)) -> Arguments:
    return {"q": stored(tokens, HEADS, DIM, dtype=dtype)}


def attend(dtype: str = "float32", q: str = "float32", **options: Any) -> Arguments:
    return query(q) | caches(dtype) | tables() | options


def varied() -> Arguments:
    """A mixed batch with the options that exclude no other."""
    starts = [sum(NEW[:i]) for i in range(len(NEW) + 1)]
    return {
        **query(tokens=sum(NEW)),
        **caches(layout="NHD", v_dim=24),
        **tables(),
        "query_start_loc": ints(starts),
        "scale": 0.3,
        "window": 3,
        "sink_tokens": 1,
        "sink_logits": torch.randn(HEADS),
        "softcap": 5.0,
        "alibi_slopes": torch.rand(HEADS),
        "tree_mask": torch.tril(torch.ones(sum(NEW), 3, dtype=torch.bool)) | True,
        "batch_invariant": True,
    }


def rope(**options: Any) -> Arguments:
    return {
        **query(tokens=3),
        **rows(),
        **caches(),
        "positions": ints([2, 0, 9], torch.int64),
        "cos_sin_cache": torch.randn(10, 8),
        **options,
    }


def latent(**options: Any) -> Arguments:
    return {
        "q_nope": torch.randn(len(LENS), HEADS, 32),
        "q_pe": torch.randn(len(LENS), HEADS, 8),
        "ckv_cache": torch.randn(BLOCKS, SIZE, 32),
        "kpe_cache": torch.randn(BLOCKS, SIZE, 8),
        **tables(),
        "scale": 0.1,
        **options,
    }


def latent_rows(dtype: str | None = None) -> Arguments:
    kind = torch.float32 if dtype is None else torch.uint8
    made = {
        "ckv": torch.randn(3, 32),
        "kpe": torch.randn(3, 8),
        "ckv_cache": torch.zeros(BLOCKS, SIZE, 32, dtype=kind),
        "kpe_cache": torch.zeros(BLOCKS, SIZE, 8, dtype=kind),
        "slot_mapping": ints([31, 0, -1], torch.int64),
    }
    return made if dtype is None else made | {"dtype": dtype}


def gather(dtype: str = "float32", **options: Any) -> Arguments:
    return caches(dtype) | tables() | options


def states() -> Arguments:
    made = {f"o_{part}": torch.randn(3, HEADS, DIM) for part in "ab"}
    return made | {f"lse_{part}": torch.randn(3, HEADS) for part in "ab"}


def dense(count: int = sum(LENS)) -> torch.Tensor:
    return torch.empty(count, KV_HEADS, DIM)


def two_caches(dtype: str = "float32") -> list[torch.Tensor]:
    return list(caches(dtype).values())[:2]


TOTAL = sum(LENS)
CASES: dict[str, tuple[str, Callable[[], Arguments]]] = {
    "write_kv": ("write_kv", lambda: rows() | caches()),
    "write_kv NHD bfloat16": (
        "write_kv",
        lambda: rows("bfloat16", 24) | caches("bfloat16", "NHD", 24),
    ),
    "write_kv int8, scales computed": (
        "write_kv",
        lambda: rows() | caches("int8") | token_scales(),
    ),
    "write_kv int4, scales given": ("write_kv", lambda: rows() | caches("int4") | head_scales()),
    "write_kv float8, numbers": (
        "write_kv",
        lambda: rows() | caches("float8_e4m3") | {"k_scale": 0.5, "v_scale": 2},
    ),
    "mla_write": ("mla_write", latent_rows),
    "mla_write raw float8": ("mla_write", lambda: latent_rows("float8_e5m2")),
    "rope_write_kv": ("rope_write_kv", rope),
    "rope_write_kv with norms": (
        "rope_write_kv",
        lambda: rope(
            interleaved=True,
            q_norm_weight=torch.rand(DIM),
            k_norm_weight=torch.rand(DIM),
            norm_eps=1e-3,
        ),
    ),
    "rope_write_kv int8 NHD": (
        "rope_write_kv",
        lambda: rope(**caches("int8", "NHD")) | token_scales(),
    ),
    "rope_write_kv out": ("rope_write_kv", lambda: rope(out=torch.empty(3, HEADS, DIM))),
    "rope_write_kv keys alone": ("rope_write_kv", lambda: rope() | {"q": None}),
    "gather_kv of so many tokens": ("gather_kv", lambda: gather(num_tokens=TOTAL)),
    "gather_kv": ("gather_kv", gather),
    "gather_kv int4, packed": ("gather_kv", lambda: gather("int4", num_tokens=TOTAL)),
    "gather_kv int4 as floats": (
        "gather_kv",
        lambda: gather("int4", num_tokens=TOTAL, out_dtype=torch.bfloat16) | head_scales(),
    ),
    "gather_kv NHD as float64": (
        "gather_kv",
        lambda: tables() | caches("float16", "NHD") | {"out_dtype": "float64", "num_tokens": TOTAL},
    ),
    "gather_kv out": ("gather_kv", lambda: gather(out=(dense(), dense()))),
    "copy_blocks": (
        "copy_blocks",
        lambda: {"caches": two_caches(), "src_dst": ints([[0, 3], [3, 5]], torch.int64)},
    ),
    "move_slots": (
        "move_slots",
        lambda: {"caches": two_caches("bfloat16"), "slot_moves": ints([[9, 2]]), "layout": "NHD"},
    ),
    "move_slots with scales": (
        "move_slots",
        lambda: {
            "caches": two_caches("int8"),
            "slot_moves": ints([[1, 30]]),
            "scales": list(token_scales().values()),
        },
    ),
    "swap_blocks": (
        "swap_blocks",
        lambda: {
            "src_cache": stored(3, 2, 5, dtype="int8"),
            "dst_cache": stored(6, 2, 5, dtype="int8"),
            "src_dst": ints([[2, 5], [0, 0]]),
        },
    ),
    "paged_attention": ("paged_attention", attend),
    "paged_attention with options": ("paged_attention", varied),
    "paged_attention bfloat16": ("paged_attention", lambda: attend("bfloat16", "bfloat16")),
    "paged_attention not causal": ("paged_attention", lambda: attend(causal=False)),
    "paged_attention int8 exact": (
        "paged_attention",
        lambda: attend("int8", exact=True) | token_scales(),
    ),
    "paged_attention int4": ("paged_attention", lambda: attend("int4") | head_scales()),
    "paged_attention float8, numbers": (
        "paged_attention",
        lambda: attend("float8_e5m2", "float16", k_scale=0.25, v_scale=3),
    ),
    "paged_attention LSE": ("paged_attention", lambda: attend(return_lse=True)),
    "paged_attention out": ("paged_attention", lambda: attend(out=torch.empty(4, HEADS, DIM))),
    "paged_attention out LSE": (
        "paged_attention",
        lambda: attend(out=torch.empty(4, HEADS, DIM), return_lse=True),
    ),
    "mla_decode": ("mla_decode", latent),
    "mla_decode varlen LSE": (
        "mla_decode",
        lambda: latent(return_lse=True, query_start_loc=ints([0, 1, 1, 3, 4])),
    ),
    "mla_decode out": ("mla_decode", lambda: latent(out=torch.empty(4, HEADS, 32))),
    "mla_decode out LSE": (
        "mla_decode",
        lambda: latent(out=torch.empty(4, HEADS, 32), return_lse=True),
    ),
    "merge_attention_states": ("merge_attention_states", states),
    "merge_attention_states out": (
        "merge_attention_states",
        lambda: states() | {"out": (torch.empty(3, HEADS, DIM), torch.empty(3, HEADS))},
    ),
}
