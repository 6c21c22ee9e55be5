"""Where the engine's sequences live: the interface that it schedules against, and ids alone.

The engine decides who runs; a storage says whether there is room and keeps the books. Nothing in
the engine knows of blocks.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from pagedkv import BlockAllocator, PagedSeqState
from pagedkv.replay.trace import Request

__all__ = ["PagedSequence", "PagedStorage", "Storage", "StoredSequence", "blocks_for"]


def blocks_for(num_tokens: int, block_size: int) -> int:
    """Blocks that hold `num_tokens`."""
    return -(-num_tokens // block_size)


class StoredSequence(Protocol):
    """A running sequence as its storage sees it."""

    @property
    def capacity(self) -> int:
        """Tokens that fit before the sequence must grow."""

    @property
    def cached(self) -> int:
        """Tokens that were found when it was opened, and need not be computed."""


S = TypeVar("S", bound=StoredSequence)


class Storage(Protocol[S]):
    """Room for sequences. `open` and `grow` take all that they need or nothing."""

    @property
    def num_blocks(self) -> int:
        """Blocks in all."""

    @property
    def block_size(self) -> int:
        """Tokens a block."""

    @property
    def num_slots(self) -> int:
        """Tokens of the longest sequence that there is room for."""

    @property
    def blocks_in_use(self) -> int:
        """Blocks held by open sequences, each counted once."""

    @property
    def repeated_slots(self) -> int:
        """Slots in all tables less slots of `blocks_in_use`: what sharing saves."""

    def open(self, request: Request, num_tokens: int) -> S | None:
        """Start (or resume) the request with `num_tokens` tokens; None when there is no room."""

    def grow(self, sequence: S, num_tokens: int) -> bool:
        """Make room for `num_tokens` tokens in all; False, and nothing changed, without room."""

    def end_step(self) -> None:
        """A step is over: every open sequence holds one token more than it did after the last
        one, those that were opened in this step excepted."""

    def release(self, sequence: S, *, completed: bool) -> None:
        """Give the sequence's blocks back, because its request is done or is preempted."""


class PagedSequence:
    """A block table."""

    __slots__ = ("capacity", "state")

    cached = 0

    def __init__(self, state: PagedSeqState, capacity: int) -> None:
        self.state = state
        self.capacity = capacity


class PagedStorage:
    """Block ids and block tables without data, and without sharing.

    A table is touched when a sequence crosses into a new block, not for each token. Contiguous
    reservation is this with one block of the maximum length a sequence.
    """

    repeated_slots = 0

    def __init__(self, num_blocks: int, block_size: int, max_tokens: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._max_blocks = blocks_for(max_tokens, block_size)
        self._allocator = BlockAllocator(num_blocks)
        self._idle: list[PagedSeqState] = []

    @property
    def num_slots(self) -> int:
        return self.num_blocks * self.block_size

    @property
    def blocks_in_use(self) -> int:
        return self._allocator.in_use

    def open(self, request: Request, num_tokens: int) -> PagedSequence | None:  # noqa: ARG002
        if blocks_for(num_tokens, self.block_size) > self._allocator.free_count:
            return None
        state = self._idle.pop() if self._idle else PagedSeqState(self.block_size, self._max_blocks)
        sequence = PagedSequence(state, 0)
        self._hold(sequence, num_tokens)
        return sequence

    def grow(self, sequence: PagedSequence, num_tokens: int) -> bool:
        more = num_tokens - sequence.capacity
        if blocks_for(more, self.block_size) > self._allocator.free_count:
            return False
        self._hold(sequence, num_tokens)
        return True

    def end_step(self) -> None:
        pass

    def release(self, sequence: PagedSequence, *, completed: bool) -> None:  # noqa: ARG002
        sequence.state.release(self._allocator)
        self._idle.append(sequence.state)

    def _hold(self, sequence: PagedSequence, num_tokens: int) -> None:
        state = sequence.state
        state.ensure_capacity(self._allocator, num_tokens)
        state.len = num_tokens
        state.sync_context_len()
        sequence.capacity = blocks_for(num_tokens, self.block_size) * self.block_size
