"""A plain dense cache: the longest length reserved for every sequence, attention in NumPy.

The reference that the paged cache is compared with. It shares no code with blocks, tables or
kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pagedkv.models.config import LlamaConfig
from pagedkv.models.rope import cos_sin_table

__all__ = ["DenseCache"]

Floats = npt.NDArray[np.float32]


class DenseCache:
    """float32 keys and values, ``[num_seqs, max_len, num_key_value_heads, head_dim]`` a layer.

    `begin` names the rows of a step, each of which gets the same number of new tokens.
    """

    def __init__(self, config: LlamaConfig, num_seqs: int, max_len: int) -> None:
        shape = (num_seqs, max_len, config.num_key_value_heads, config.head_dim)
        self._k = [np.zeros(shape, np.float32) for _ in range(config.num_hidden_layers)]
        self._v = [np.zeros(shape, np.float32) for _ in range(config.num_hidden_layers)]
        self._rope = cos_sin_table(max_len, config.head_dim, config.rope_theta, config.rope_scaling)
        self._lens = np.zeros(num_seqs, np.int64)
        self._rows = np.zeros(0, np.int64)
        self._positions = np.zeros((0, 0), np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return sum(each.nbytes for each in (*self._k, *self._v))

    def begin(self, rows: npt.NDArray[np.integer[Any]], num_new_tokens: int = 1) -> None:
        """The rows of the next `forward`, `num_new_tokens` each, one row after the other."""
        self._rows = np.asarray(rows, np.int64)
        self._positions = self._lens[self._rows, None] + np.arange(num_new_tokens)
        self._lens[self._rows] += num_new_tokens

    def attend(self, layer: int, q: Floats, k: Floats, v: Floats) -> Floats:
        """As `Cache.attend`: softmax over all that is before a token, and over itself."""
        num_seqs, num_new = self._positions.shape
        num_heads, dim = q.shape[1:]
        num_kv_heads = k.shape[1]
        q, k = self._rotate(q), self._rotate(k)
        at = (self._rows[:, None], self._positions)
        self._k[layer][at] = k.reshape(num_seqs, num_new, num_kv_heads, dim)
        self._v[layer][at] = v.reshape(num_seqs, num_new, num_kv_heads, dim)
        longest = int(self._positions.max()) + 1
        # [seq, KV head, key, channel]; a group of query heads shares its KV head.
        keys = self._k[layer][self._rows, :longest].transpose(0, 2, 1, 3)
        values = self._v[layer][self._rows, :longest].transpose(0, 2, 1, 3)
        q = q.reshape(num_seqs, num_new, num_kv_heads, num_heads // num_kv_heads, dim)
        q = q.transpose(0, 2, 3, 1, 4)  # [seq, KV head, group, new token, channel]
        scores = q @ keys[:, :, None].swapaxes(-1, -2) * np.float32(dim**-0.5)
        hidden = np.arange(longest) > self._positions[:, :, None]
        scores = np.where(hidden[:, None, None], np.float32(-np.inf), scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out: Floats = (weights @ values[:, :, None]).transpose(0, 3, 1, 2, 4)
        return out.reshape(num_seqs * num_new, num_heads, dim)

    def _rotate(self, x: Floats) -> Floats:
        """Channel i turns with channel i + head_dim / 2, by the angle of the token's position."""
        cos, sin = np.split(self._rope[self._positions.ravel()][:, None], 2, axis=-1)
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
