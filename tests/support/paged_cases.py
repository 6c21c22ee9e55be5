"""Paged caches of random keys and values, with what attention over them must give."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from . import attention_oracle
from .attention_oracle import Floats, Options
from .elements import Array, decode, encode, poison

__all__ = ["LIMITS", "PagedCase", "Sizes", "error_limit", "make_case", "split"]

# Largest relative error of results of each dtype.
LIMITS = {"float64": 1e-13, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
# What the integers of a cache are multiplied by, about.
USUAL_SCALE = {"int8": 1 / 32, "int4": 1 / 2, "float8_e4m3": 1 / 8, "float8_e5m2": 1 / 8}
RAW = ("bfloat16", "float8_e4m3", "float8_e5m2", "int4")


@dataclass
class Sizes:
    """The shapes of a case."""

    seq_lens: list[int]
    query_lens: list[int] | None = None  # none: one new token each
    head_dim: int = 64
    v_head_dim: int | None = None
    num_kv_heads: int = 2
    ratio: int = 4
    block_size: int = 16
    layout: str = "HND"

    @property
    def new_tokens(self) -> list[int]:
        return [1] * len(self.seq_lens) if self.query_lens is None else self.query_lens


@dataclass
class PagedCase:
    """The arguments of one call, and what they mean."""

    sizes: Sizes
    dtype: str
    q_dtype: str
    options: Options
    arrays: dict[str, Any]
    keywords: dict[str, Any]
    q: Floats
    k: list[Floats]
    v: list[Floats]
    tree: list[npt.NDArray[np.bool_]] | None = None
    limit: float = field(init=False)

    def __post_init__(self) -> None:
        self.limit = error_limit(self.dtype, self.q_dtype, exact=self.keywords.get("exact", False))

    def expected(self) -> tuple[Floats, Floats]:
        parts = []
        first = 0
        for i, new_tokens in enumerate(self.sizes.new_tokens):
            q = self.q[first : first + new_tokens]
            tree = None if self.tree is None else self.tree[i]
            parts.append(attention_oracle.attention(q, self.k[i], self.v[i], self.options, tree))
            first += new_tokens
        return np.concatenate([o for o, _ in parts]), np.concatenate([lse for _, lse in parts])

    def values_of(self, result: Array) -> Floats:
        """A result as float64."""
        return decode(result, self.q_dtype)

    def check(self, result: Array, lse: Array) -> None:
        """Asserts that they are what they should be."""
        out, expected_lse = self.expected()
        error = attention_oracle.relative_error(self.values_of(result), out)
        assert error <= self.limit, f"error {error:.2e} > {self.limit:.0e}"
        nothing = np.isneginf(expected_lse)
        assert np.array_equal(np.isneginf(lse), nothing)
        assert np.all(self.values_of(result)[nothing] == 0)
        np.testing.assert_allclose(
            lse[~nothing], expected_lse[~nothing], rtol=self.limit + 1e-6, atol=10 * self.limit
        )


def error_limit(dtype: str, q_dtype: str, *, exact: bool = False) -> float:
    limit = max(LIMITS[q_dtype], LIMITS.get(dtype, 0.0))
    return max(limit, 1e-2) if dtype in ("int8", "int4") and not exact else limit


def split(array: Array, sizes: Sizes) -> list[Array]:
    """The rows of each sequence."""
    return np.split(array, np.cumsum(sizes.new_tokens)[:-1])


def hidden_blocks(sizes: Sizes, options: Options, i: int) -> range:
    """Logical blocks of sequence i of which no query sees a token."""
    length, new_tokens, size = sizes.seq_lens[i], sizes.new_tokens[i], sizes.block_size
    if new_tokens == 0:
        return range(-(-length // size))
    if options.window is None:
        return range(0)
    lowest = max(length - new_tokens - options.window + 1, 0)
    return range(-(-min(options.sink_tokens, length) // size), lowest // size)


def cache_arrays(
    rng: np.random.Generator,
    sizes: Sizes,
    dtype: str,
    head_dim: int,
    scales: str | None,
    num_blocks: int,
    used: npt.NDArray[np.bool_],
) -> tuple[Array, Any, Floats]:
    """A pool (HND), its scale, and its values ``[block, slot, head, head_dim]``."""
    heads = sizes.num_kv_heads
    usual = USUAL_SCALE.get(dtype, 1.0)
    scale: Any = None
    factor = np.ones((num_blocks, heads, sizes.block_size, 1))
    if scales == "tensor":
        scale = usual
        factor = factor * usual
    elif scales is not None:
        shape = (num_blocks, heads) + ((sizes.block_size,) if scales == "token" else ())
        scale = (usual * rng.uniform(0.5, 2, shape)).astype(np.float32)
        factor = factor * scale.reshape(num_blocks, heads, -1, 1).astype(np.float64)
    values = rng.standard_normal((num_blocks, heads, sizes.block_size, head_dim))
    pool = encode(values / (factor * (usual if scales is None else 1.0)), dtype)
    values = decode(pool, dtype) * factor
    unused = np.broadcast_to(~used[:, None, :], (num_blocks, heads, sizes.block_size))
    pool[unused] = poison(dtype)
    if scales == "token":
        scale[unused] = np.nan
    elif scales == "head":
        scale[~used.any(axis=1)] = np.nan
    return pool, scale, values.transpose(0, 2, 1, 3)


def make_case(
    rng: np.random.Generator,
    sizes: Sizes,
    dtype: str = "float32",
    q_dtype: str | None = None,
    options: Options | None = None,
    *,
    scales: str | None = None,
    tree: bool = False,
    **keywords: Any,
) -> PagedCase:
    """Sequences in shuffled blocks; slots that are not theirs hold NaN, where the dtype has it."""
    options = options or Options()
    if q_dtype is None:
        q_dtype = dtype if dtype in LIMITS else "float32"
    size = sizes.block_size
    widths = [-(-length // size) for length in sizes.seq_lens]
    num_blocks = sum(widths) + 3
    tables = np.full((len(widths), max(widths, default=0) + 2), -1, dtype=np.int32)
    ids = rng.permutation(num_blocks).astype(np.int32)
    used = np.zeros((num_blocks, size), dtype=np.bool_)
    taken = 0
    for i, width in enumerate(widths):
        tables[i, :width] = ids[taken : taken + width]
        slots = tables[i, np.arange(sizes.seq_lens[i]) // size]
        used[slots, np.arange(sizes.seq_lens[i]) % size] = True
        hidden = list(hidden_blocks(sizes, options, i))
        used[tables[i, hidden]] = False
        taken += width
    v_head_dim = sizes.v_head_dim or sizes.head_dim
    k_pool, k_scale, keys = cache_arrays(
        rng, sizes, dtype, sizes.head_dim, scales, num_blocks, used
    )
    v_pool, v_scale, values = cache_arrays(rng, sizes, dtype, v_head_dim, scales, num_blocks, used)

    def dense(pool: Floats, i: int) -> Floats:
        return pool[tables[i, : widths[i]]].reshape(-1, *pool.shape[2:])[: sizes.seq_lens[i]]

    k = [dense(keys, i) for i in range(len(widths))]
    v = [dense(values, i) for i in range(len(widths))]
    for i in range(len(widths)):
        tables[i, list(hidden_blocks(sizes, options, i))] = -1
    num_tokens = sum(sizes.new_tokens)
    num_heads = sizes.num_kv_heads * sizes.ratio
    q = encode(rng.standard_normal((num_tokens, num_heads, sizes.head_dim)), q_dtype)
    if sizes.layout == "NHD":
        k_pool, v_pool = (np.ascontiguousarray(p.transpose(0, 2, 1, 3)) for p in (k_pool, v_pool))
    arrays = {
        "q": q,
        "k_cache": k_pool,
        "v_cache": v_pool,
        "block_tables": tables,
        "seq_lens": np.array(sizes.seq_lens, dtype=np.int32),
    }
    if sizes.query_lens is not None:
        keywords["query_start_loc"] = np.cumsum([0, *sizes.query_lens]).astype(np.int32)
    masks = None
    if tree:
        most = max(sizes.new_tokens, default=0)
        mask = (rng.random((num_tokens, most)) < 0.6).astype(np.uint8)
        # A draft sees itself, whatever its place in the tree.
        for i, first in enumerate(np.cumsum([0, *sizes.new_tokens])[:-1]):
            own = np.arange(sizes.new_tokens[i])
            mask[first + own, own] = 1
        keywords["tree_mask"] = mask
        masks = [part.astype(np.bool_) for part in split(mask, sizes)]
    for name in ("scale", "window", "softcap"):
        if getattr(options, name) is not None:
            keywords[name] = getattr(options, name)
    for name in ("sink_logits", "alibi_slopes"):
        if getattr(options, name) is not None:
            keywords[name] = getattr(options, name).astype(np.float32)
            options = replace(options, **{name: keywords[name].astype(np.float64)})
    keywords |= {"causal": options.causal, "sink_tokens": options.sink_tokens}
    keywords |= {"k_scale": k_scale, "v_scale": v_scale, "layout": sizes.layout}
    if dtype in RAW:
        keywords["dtype"] = dtype
    return PagedCase(
        sizes, dtype, q_dtype, options, arrays, keywords, decode(q, q_dtype), k, v, masks
    )
