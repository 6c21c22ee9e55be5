"""States of linear attention and SSM layers that are kept for prompts to come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pagedkv import KVCacheManager, Ssm
from pagedkv.errors import PoolExhaustedError

__all__ = ["StateCheckpoints", "StateKey"]

StateKey = tuple[int, str, int]
"""Layer, ``conv`` or ``recurrent``, and which of the layer's states."""


class StateCheckpoints:
    """Slots of states, beside the blocks of keys and values: a manager with one group of states.

    A running sequence works in tensors of its cache. Where a forward pass ends on a multiple of the
    interval, its states are copied to the slot that the manager then keeps as a checkpoint.
    """

    def __init__(self, num_states: int, interval: int, block_size: int, eviction: str) -> None:
        self.manager = KVCacheManager(
            num_states, block_size, groups=[Ssm(interval)], eviction=eviction
        )
        self.interval = interval
        self.num_states = num_states
        self.arrays: dict[StateKey, torch.Tensor] = {}
        """``[num_states, ...]`` of each state of each layer."""

    def acquire(self, seq: int, tokens: NDArray[np.int32], hit: int, salt: bytes) -> None:
        """A sequence whose first ``hit`` tokens the index has."""
        self.manager.add(seq, tokens[: hit + 1] if hit else (), salt=salt)
        self.manager.acquire([seq])
        rest = tokens[hit + 1 :] if hit else tokens
        if len(rest):
            self.manager.append([seq], rest, [len(rest)])

    def slot(self, seq: int) -> int:
        """Where the state of what was acquired is."""
        return int(self.manager.block_ids(seq)[-1])

    def fork(self, seq: int, copy: int) -> None:
        self.manager.fork(seq, copy)

    def free(self, ids: Sequence[int]) -> None:
        self.manager.free([seq for seq in ids if seq in self.manager])

    def commit(
        self,
        ids: Sequence[int],
        counts: NDArray[np.int32],
        known: NDArray[np.bool_],
        rows: Sequence[int],
        save: Callable[[Sequence[int], Sequence[int]], None],
    ) -> bool:
        """Counts the tokens of a forward pass, and saves states where it ends on a checkpoint.

        Returns:
            False where there are too few slots: then the sequences leave no checkpoints any more.
        """
        try:
            slots = self.manager.schedule(ids, counts).state_slots
        except PoolExhaustedError:
            self.free(ids)
            return False
        kept = [
            i
            for i, seq in enumerate(ids)
            if counts[i] and known[i] and self.manager.num_scheduled(seq) % self.interval == 0
        ]
        if kept:
            save([rows[i] for i in kept], [int(slots[i]) for i in kept])
        self.manager.commit(ids, counts)
        return True

    def write(self, key: StateKey, states: torch.Tensor, slots: Sequence[int]) -> None:
        """``[len(slots), ...]`` to slots."""
        array = self.arrays.get(key)
        if array is None:
            with torch.inference_mode(False):  # later passes may be without
                array = self.arrays[key] = states.new_empty((self.num_states, *states.shape[1:]))
        array[list(slots)] = states
