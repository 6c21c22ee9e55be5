"""Attention as it is defined: dense, one query of one head at a time; in float64, as a rule."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Options", "attention", "relative_error"]

Floats = npt.NDArray[np.float64]


@dataclass
class Options:
    """The options of `paged_attention`, as it takes them."""

    scale: float | None = None
    causal: bool = True
    window: int | None = None
    sink_tokens: int = 0
    sink_logits: Floats | None = None
    softcap: float | None = None
    alibi_slopes: Floats | None = None


def visible(
    options: Options, position: int, length: int, new_tokens: int, tree_row: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Which of `length` tokens the query at `position` sees."""
    j = np.arange(length)
    sees = np.ones(length, dtype=np.bool_)
    if options.causal:
        sees &= j <= position
    if options.window is not None:
        sees &= (j > position - options.window) | (j < options.sink_tokens)
    sees[length - new_tokens :] &= tree_row[:new_tokens]
    return sees


def attention(
    q: Floats,
    k: Floats,
    v: Floats,
    options: Options,
    tree_mask: npt.NDArray[np.bool_] | None = None,
) -> tuple[Floats, Floats]:
    """The result and the LSE of one sequence, computed in the dtype of its arrays.

    Args:
        q: ``[new_tokens, num_q_heads, head_dim]``, of the last tokens.
        k: ``[length, num_kv_heads, head_dim]``
        v: ``[length, num_kv_heads, v_head_dim]``
        tree_mask: ``[new_tokens, new_tokens or more]``
    """
    new_tokens, num_heads, head_dim = q.shape
    length, num_kv_heads, v_head_dim = v.shape
    group = num_heads // num_kv_heads
    scale = head_dim**-0.5 if options.scale is None else options.scale
    out = np.zeros((new_tokens, num_heads, v_head_dim), dtype=q.dtype)
    lse = np.full((new_tokens, num_heads), -np.inf, dtype=q.dtype)
    everything = np.ones(new_tokens, dtype=np.bool_)
    for i in range(new_tokens):
        position = length - new_tokens + i
        if length == 0:
            sees = np.zeros(0, dtype=np.bool_)
        else:
            tree_row = everything if tree_mask is None else tree_mask[i]
            sees = visible(options, position, length, new_tokens, tree_row)
        for head in range(num_heads):
            keys, values = k[sees, head // group], v[sees, head // group]
            scores = keys @ q[i, head] * scale
            if options.softcap is not None:
                scores = options.softcap * np.tanh(scores / options.softcap)
            if options.alibi_slopes is not None:
                scores += options.alibi_slopes[head] * (np.flatnonzero(sees) - position)
            sinks = [] if options.sink_logits is None else [options.sink_logits[head]]
            joined = np.concatenate([scores, np.array(sinks, dtype=q.dtype)])
            if len(joined) == 0:
                continue
            weights = np.exp(joined - joined.max())
            out[i, head] = weights[: len(scores)] @ values / weights.sum()
            lse[i, head] = joined.max() + np.log(weights.sum())
    return out, lse


def relative_error(came: Floats, expected: Floats) -> float:
    """``||came - expected|| / ||expected||``, which NaN anywhere makes NaN."""
    size = float(np.linalg.norm(expected))
    return float(np.linalg.norm(came - expected)) / (size or 1.0)
