"""What the layers of one forward pass write and read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pagedkv.integrations.transformers.gather import GatherPlan

__all__ = ["GroupTables", "Step"]


@dataclass(frozen=True)
class GroupTables:
    """Of one group of layers."""

    block_tables: NDArray[np.int32]
    """``[num_rows, max_blocks]``"""
    slot_mapping: NDArray[np.int64]
    """``[new tokens of the rows that write]``"""


@dataclass(frozen=True)
class Step:
    """New columns of a batch, and where their tokens go.

    A column is a position of the batch as the model sees it, padding counted; a token is a position
    of one row without its padding.
    """

    start: int
    """Columns before."""
    count: int
    """New columns."""
    pads: NDArray[np.int32]
    """Columns of padding on the left of each row."""
    seq_lens: NDArray[np.int32]
    """Tokens of each row, the new ones counted."""
    new_tokens: NDArray[np.int32]
    writers: NDArray[np.int64] | None
    """Rows that write; the others hold the same as one of these. None: all."""
    groups: list[GroupTables]
    _plans: dict[int, GatherPlan] = field(default_factory=dict)

    def of_last(self, count: int) -> Step:
        """The same with the last ``count`` columns as queries."""
        if count == self.count:
            return self
        return replace(
            self,
            start=self.start + self.count - count,
            count=count,
            new_tokens=np.minimum(self.new_tokens, count),
        )

    def gather_plan(self, group: int, window: int | None, block_size: int) -> GatherPlan:
        """How a group's layers read what the new columns see."""
        plan = self._plans.get(group)
        if plan is None:
            offset = 0 if window is None else max(0, self.start - window + 1)
            plan = self._plans[group] = GatherPlan(
                self.groups[group].block_tables,
                self.seq_lens,
                np.maximum(offset - self.pads, 0),
                self.start + self.count - offset,
                block_size,
            )
        return plan

    @cached_property
    def query_start_loc(self) -> NDArray[np.int32]:
        return np.concatenate(([0], np.cumsum(self.new_tokens))).astype(np.int32)

    @cached_property
    def _seen(self) -> NDArray[np.bool_] | None:
        """``[num_rows, count]``: new columns that hold a token; None: all."""
        if (self.new_tokens == self.count).all():
            return None
        columns = np.arange(self.start, self.start + self.count)
        seen: NDArray[np.bool_] = columns >= self.pads[:, None]
        return seen

    @cached_property
    def _query_columns(self) -> torch.Tensor | None:
        return None if self._seen is None else torch.from_numpy(self._seen.reshape(-1).nonzero()[0])

    @cached_property
    def _write_columns(self) -> torch.Tensor | None:
        if self.writers is None:
            return self._query_columns
        seen = self._seen
        if seen is None:
            seen = np.ones((len(self.new_tokens), self.count), np.bool_)
        columns = np.arange(seen.size).reshape(seen.shape)[self.writers]
        return torch.from_numpy(columns[seen[self.writers]])

    def queries(self, states: torch.Tensor) -> torch.Tensor:
        """``[num_tokens, num_heads, head_dim]`` of ``[num_rows, num_heads, count, head_dim]``."""
        return _select(states, self._query_columns)

    def written(self, states: torch.Tensor) -> torch.Tensor:
        """Likewise, of the rows that write."""
        return _select(states, self._write_columns)

    def in_columns(self, out: torch.Tensor) -> torch.Tensor:
        """``[num_rows, count, num_heads, head_dim]``, zero in columns of padding."""
        shape = (len(self.new_tokens), self.count, *out.shape[1:])
        columns = self._query_columns
        if columns is None:
            return out.view(shape)
        spread = out.new_zeros((shape[0] * shape[1], *shape[2:]))
        spread[columns.to(out.device)] = out
        return spread.view(shape)


def _select(states: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
    tokens = states.transpose(1, 2).flatten(0, 1)
    selected: Any = tokens if columns is None else tokens[columns.to(states.device)]
    return selected
