"""Attention computed plainly in the arithmetic of a cache: what it costs in precision anyway."""

from typing import Any

import numpy as np
import numpy.typing as npt

from .elements import Array, decode, encode
from .paged_cases import PagedCase, split

__all__ = ["DIRECT_ROWS", "plain_result", "sequence_parts", "uses_integers"]

# Rows of queries (new tokens x heads of a group) up to which int8 and int4 stay integers.
DIRECT_ROWS = 8
# Tokens whose weights are rounded together, and what the largest of them becomes.
TILE_TOKENS = 64
LARGEST_INTEGER = 16383

Integers = npt.NDArray[np.int64]


def uses_integers(case: PagedCase) -> bool:
    rows = max(case.sizes.new_tokens) * case.sizes.ratio
    exact = case.keywords.get("exact", False)
    return case.dtype in ("int8", "int4") and not exact and rows <= DIRECT_ROWS


def sequence_parts(case: PagedCase) -> list[tuple[Array, Array, Array]]:
    """Queries, keys and values of each sequence, in float64."""
    return list(zip(split(case.q, case.sizes), case.k, case.v, strict=True))


def plain_result(case: PagedCase) -> Array:
    """The result of a case, rounded to the dtype of its queries, as float64.

    Products, softmax and sums are NumPy's, of float32 (float64 for float64); queries and weights
    are rounded to integers first where the operation does that.
    """
    if uses_integers(case):
        parts = [integer_attention(case, i) for i in range(len(case.k))]
    else:
        kind = np.float64 if case.q_dtype == "float64" else np.float32
        parts = [
            matrix_attention(q.astype(kind), k.astype(kind), v.astype(kind), case.options.scale)
            for q, k, v in sequence_parts(case)
        ]
    return decode(encode(np.concatenate(parts), case.q_dtype), case.q_dtype)


def matrix_attention(q: Array, k: Array, v: Array, scale: float | None) -> Array:
    """Attention with the causal mask alone, as two matrix products a head."""
    q, k, v = (x.transpose(1, 0, 2) for x in (q, k, v))
    k, v = (np.repeat(x, len(q) // len(x), axis=0) for x in (k, v))
    scores = q @ k.transpose(0, 2, 1) * q.dtype.type(scale or q.shape[2] ** -0.5)
    new_tokens, length = scores.shape[1:]
    scores[:, ~np.tri(new_tokens, length, length - new_tokens, dtype=np.bool_)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (weights @ v / weights.sum(axis=-1, keepdims=True)).transpose(1, 0, 2)


def stored(case: PagedCase, name: str, i: int) -> tuple[Integers, Array]:
    """Of sequence i: integers ``[length, heads, dim]``, and their scales ``[length, heads]``."""
    pool = case.arrays[f"{name}_cache"]
    if case.sizes.layout == "NHD":
        pool = pool.transpose(0, 2, 1, 3)
    length, blocks = case.sizes.seq_lens[i], case.arrays["block_tables"][i]
    blocks = blocks[: -(-length // case.sizes.block_size)]
    scale: Any = case.keywords[f"{name}_scale"]
    scale = np.float32(1 if scale is None else scale)
    scale = scale.reshape(*scale.shape, *[1] * (3 - scale.ndim))
    scales = np.broadcast_to(scale, pool.shape[:3])[blocks].transpose(0, 2, 1)
    integers = decode(pool[blocks], case.dtype).astype(np.int64).transpose(0, 2, 1, 3)
    merged = integers.reshape(-1, *integers.shape[2:])[:length]
    return merged, scales.reshape(-1, scales.shape[2])[:length]


def rounded(values: Array) -> tuple[Integers, np.float32]:
    """Values as integers of 15 bits, and what they are multiplied by."""
    unit = np.float32(np.abs(values).max(initial=0) / LARGEST_INTEGER)
    return np.rint(values / (unit or 1)).astype(np.int64), unit


def integer_attention(case: PagedCase, i: int) -> Array:
    """Sequence i of a case whose every token is seen but by the causal mask."""
    q = split(case.q, case.sizes)[i].astype(np.float32)
    (keys, k_scale), (values, v_scale) = stored(case, "k", i), stored(case, "v", i)
    length = len(keys)
    factor = np.float32(case.options.scale or q.shape[2] ** -0.5)
    out = np.zeros((*q.shape[:2], values.shape[2]), dtype=np.float32)
    for token, head in np.ndindex(*q.shape[:2]):
        kv_head = head // case.sizes.ratio
        seen = slice(0, length - len(q) + token + 1)
        query, unit = rounded(q[token, head])
        products = (keys[seen, kv_head] @ query).astype(np.float32)
        scores = products * (unit * factor) * k_scale[seen, kv_head]
        weights = np.exp(scores - scores.max())
        scaled = weights * v_scale[seen, kv_head]
        for first in range(0, len(weights), TILE_TOKENS):
            tile = slice(first, min(first + TILE_TOKENS, len(weights)))
            integers, unit = rounded(scaled[tile])
            out[token, head] += (integers @ values[tile, kv_head]).astype(np.float32) * unit
        out[token, head] /= weights.sum()
    return out
