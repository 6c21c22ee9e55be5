"""The paged storage: block ids from `KVCacheManager`, prefixes reused where hash ids tell them.

After a step the manager knows and has committed all tokens of a sequence but the newest, which was
sampled in that step and has its slot; the next step's forward pass writes it. So a step of all
running sequences is one call: the newest token is committed and appended, and the next one gets
its slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagedkv import Batch, KVCacheManager, PoolExhaustedError
from pagedkv.replay.storage import blocks_for
from pagedkv.replay.tokens import RequestTokens
from pagedkv.replay.trace import Request

__all__ = ["HASH_TOKENS", "ManagedSequence", "ManagedStorage"]

# Tokens that a hash id stands for in Mooncake's traces.
HASH_TOKENS = 512


class ManagedSequence:
    """A sequence of the manager, whose id is the request's ordinal."""

    __slots__ = ("cached", "capacity", "ordinal", "request")

    def __init__(self, request: Request, ordinal: int, cached: int, capacity: int) -> None:
        self.request = request
        self.ordinal = ordinal
        self.cached = cached
        self.capacity = capacity


class ManagedStorage:
    """Tables of a manager without data; `_write` is where data would be written.

    Growth is promised by `grow` and done for all running sequences at once, before the first
    admission of the step. Prompts are prefilled when they are opened; all are committed when the
    step ends, so that only later steps find them.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        requests: Sequence[Request],
        *,
        prefix_caching: bool = True,
        hash_tokens: int = HASH_TOKENS,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.manager = KVCacheManager(num_blocks, block_size, prefix_caching=prefix_caching)
        self.tokens = RequestTokens(requests, hash_tokens)
        self._prefix_caching = prefix_caching
        self._table_slots = 0
        self._promised = 0
        self._stepped = False
        # Running since an earlier step: who, and the id of the newest token of each.
        self._running = np.empty(0, dtype=np.int64)
        self._newest = np.empty(0, dtype=np.int32)
        # Opened in this step: tokens to commit at its end, and the id of the newest token.
        self._opened: dict[int, tuple[int, int]] = {}

    @property
    def num_slots(self) -> int:
        return self.num_blocks * self.block_size

    @property
    def blocks_in_use(self) -> int:
        return self.num_blocks - self.manager.num_free_blocks

    @property
    def repeated_slots(self) -> int:
        return self._table_slots - self.blocks_in_use * self.block_size

    def open(self, request: Request, num_tokens: int) -> ManagedSequence | None:
        self._step()
        ordinal = self.tokens.ordinals[request.number]
        # The first token that is generated has its slot and is not known yet.
        known = max(num_tokens - 1, request.input_length)
        if not self._may_fit(request, ordinal, known, num_tokens):
            return None
        self._make_known(request, ordinal, known)
        cached = int(self.manager.acquire([ordinal])[0])
        try:
            batch = self.manager.schedule([ordinal], [num_tokens - cached])
        except PoolExhaustedError:
            self.manager.preempt([ordinal])
            return None
        self._write(batch, np.array([ordinal]))
        newest = int(self.tokens.ids(ordinal, num_tokens - 1, num_tokens)[0])
        self._opened[ordinal] = (known - cached, newest)
        capacity = blocks_for(num_tokens, self.block_size) * self.block_size
        self._table_slots += capacity
        return ManagedSequence(request, ordinal, cached, capacity)

    def grow(self, sequence: ManagedSequence, num_tokens: int) -> bool:
        blocks = blocks_for(num_tokens - sequence.capacity, self.block_size)
        if self._promised + blocks > self.manager.num_free_blocks:
            return False
        self._promised += blocks
        sequence.capacity += blocks * self.block_size
        self._table_slots += blocks * self.block_size
        return True

    def end_step(self) -> None:
        self._step()
        self._stepped = False
        if not self._opened:
            return
        opened = np.array(list(self._opened))
        counts, newest = np.array(list(self._opened.values())).T
        self.manager.commit(opened, counts)
        self._running = np.append(self._running, opened)
        self._newest = np.append(self._newest, newest.astype(np.int32))
        self._opened.clear()

    def release(self, sequence: ManagedSequence, *, completed: bool) -> None:
        stay = self._running != sequence.ordinal
        self._running, self._newest = self._running[stay], self._newest[stay]
        self._table_slots -= sequence.capacity
        if completed:
            self.manager.free([sequence.ordinal])
        else:
            self.manager.preempt([sequence.ordinal])

    def _step(self) -> None:
        """Commit the newest token of all that run, and give each its next slot, once a step."""
        if self._stepped:
            return
        self._stepped = True
        self._promised = 0
        if not len(self._running):
            return
        batch = self.manager.step(self._running, self._newest)
        # Ids of a request's own tokens count down.
        self._newest -= 1
        self._write(batch, self._running)

    def _may_fit(self, request: Request, ordinal: int, known: int, num_tokens: int) -> bool:
        """Whether there is room if no block that hits is free: asked often, so that it is quick
        and leaves the order of eviction alone."""
        blocks = blocks_for(num_tokens, self.block_size)
        free = self.manager.num_free_blocks
        if blocks > free and self._prefix_caching and request.hash_ids is not None:
            blocks -= self.manager.probe(self.tokens.ids(ordinal, 0, known)) // self.block_size
        return blocks <= free

    def _make_known(self, request: Request, ordinal: int, known: int) -> None:
        """Register the request, or go on with the tokens that it generated since."""
        if ordinal not in self.manager:
            shared = request.hash_ids is not None
            tokens = self.tokens.ids(ordinal, 0, known)
            self.manager.add(ordinal, tokens, reuse=shared, store=shared)
            return
        before = self.manager.num_tokens(ordinal)
        if known > before:
            tokens = self.tokens.ids(ordinal, before, known)
            self.manager.append([ordinal], tokens, [len(tokens)])

    def _write(self, batch: Batch, ordinals: NDArray[Any]) -> None:
        """The new tokens of a step have their slots; `ordinals` are those of the batch's rows."""
