"""Dense keys and values of a batch, for attention that cannot read blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pagedkv import ops

__all__ = ["GatherPlan"]


class GatherPlan:
    """Which blocks and tokens a group's layers see in one step; the same for all of them.

    Args:
        block_tables: ``[num_rows, max_blocks]``
        seq_lens: ``[num_rows]`` tokens.
        skipped: ``[num_rows]`` first tokens that a window has left.
        num_columns: of the result; a row of fewer tokens has zeros on its left.
        block_size: tokens of a block.
    """

    def __init__(
        self,
        block_tables: NDArray[np.int32],
        seq_lens: NDArray[np.int32],
        skipped: NDArray[np.int32],
        num_columns: int,
        block_size: int,
    ) -> None:
        blocks = skipped // block_size
        if blocks.any():  # what lies before are holes
            width = max(1, int((-(-seq_lens // block_size) - blocks).max()))
            columns = np.minimum(blocks[:, None] + np.arange(width), block_tables.shape[1] - 1)
            block_tables = np.take_along_axis(block_tables, columns, axis=1)
        self._tables = block_tables
        self._lengths = (seq_lens - blocks * block_size).astype(np.int32)
        self._num_columns = num_columns
        skip = skipped - blocks * block_size
        self._total = int(self._lengths.sum())
        self._rows = list(zip(self._lengths.tolist(), skip.tolist(), strict=True))
        length, less = self._rows[0]
        self._is_even = length - less == num_columns and len(set(self._rows)) == 1

    def read(
        self, arrays: Sequence[torch.Tensor], dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values ``[num_rows, num_kv_heads, num_columns, head_dim]``."""
        keys, values = (
            torch.empty(
                (self._total, array.shape[1], array.shape[3]), dtype=dtype, device=array.device
            )
            for array in arrays
        )
        ops.gather_kv(arrays[0], arrays[1], self._tables, self._lengths, out=(keys, values))
        return self._in_columns(keys), self._in_columns(values)

    def _in_columns(self, tokens: torch.Tensor) -> torch.Tensor:
        if self._is_even:
            length, less = self._rows[0]
            even = tokens.view(len(self._rows), length, *tokens.shape[1:])
            return even[:, less:].transpose(1, 2)
        dense = tokens.new_zeros((len(self._rows), self._num_columns, *tokens.shape[1:]))
        begin = 0
        for row, (length, less) in enumerate(self._rows):
            dense[row, self._num_columns - length + less :] = tokens[begin + less : begin + length]
            begin += length
        return dense.transpose(1, 2)
