"""What fits: the division of memory into blocks and state slots, and sequences of a length."""

from __future__ import annotations

from dataclasses import dataclass

from pagedkv.plan.errors import PlanError
from pagedkv.plan.groups import Layout
from pagedkv.sizes import format_bytes, format_count

__all__ = ["LengthFit", "Pool", "divide", "fit_length"]

# Block ids are 32-bit.
MAX_BLOCKS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Pool:
    """Blocks, and slots of states, that are allocated."""

    layout: Layout
    num_blocks: int
    state_slots: int
    """0 for a model without recurrent states."""
    prefill_chunk: int

    @property
    def nbytes(self) -> int:
        """What is allocated."""
        layout = self.layout
        return self.num_blocks * layout.block_bytes + self.state_slots * layout.slot_bytes

    def blocks_left(self, length: int) -> int:
        """Blocks for sequences of this length, less what one needs more while it is prefilled."""
        return self.num_blocks - self.layout.prefill_blocks(length, self.prefill_chunk)

    def sequences(self, length: int) -> int:
        """Sequences of `length` tokens that the pool holds at once."""
        fits = [self.state_slots] if self.layout.states else []
        if self.layout.groups:
            fits.append(max(0, self.blocks_left(length)) // self.layout.blocks(length))
        return min(fits)

    @property
    def max_tokens(self) -> int | None:
        """Tokens of the longest sequence that the pool holds alone; None: of any length."""
        if not self.sequences(1):
            return 0
        if self.sequences(2**31 - 1):
            return None
        low, high = 1, 2**31 - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.sequences(middle) else (low, middle)
        return low


@dataclass(frozen=True, slots=True)
class LengthFit:
    """Sequences of one length, in the pool that is divided for it."""

    length: int
    blocks: int
    """That a sequence holds at most while it decodes."""
    bytes_held: int
    """Blocks and states of a sequence."""
    useful_bytes: int
    """Of these, what is read: the rest is behind the last token, outside of a window, or a place
    that no layer fills."""
    sequences: int
    """At once, with memory divided into blocks and slots for this length."""
    in_pool: int
    """At once in the pool of the plan."""

    @property
    def tokens(self) -> int:
        """Of all sequences together."""
        return self.sequences * self.length

    @property
    def waste(self) -> float:
        """Share of `bytes_held` that is not useful."""
        return 1.0 - self.useful_bytes / self.bytes_held


def divide(layout: Layout, memory: int, state_slots: int | None, length: int, chunk: int) -> Pool:
    """The pool for this memory, with so many slots, or with slots and blocks that run out together
    when sequences have `length` tokens. Raises `PlanError` when no sequence of one token fits.
    """
    if state_slots is None:
        state_slots = _sequences(layout, memory, length, chunk) if layout.states else 0
        state_slots = max(state_slots, 1 if layout.states else 0)
    left = memory - state_slots * layout.slot_bytes
    smallest = layout.blocks(1) * layout.block_bytes
    if left < smallest:
        parts = []
        if layout.states:
            slots = format_count(state_slots, "slot")
            parts.append(f"{slots} of {format_bytes(layout.slot_bytes)} of states")
        if layout.groups:
            parts.append(
                f"{format_count(layout.blocks(1), 'block')} of {format_bytes(layout.block_bytes)}"
            )
        raise PlanError(
            f"[plan.plan] {format_bytes(memory)} for the cache; expected at least "
            f"{' and '.join(parts)}: one sequence of one token takes "
            f"{format_bytes(smallest + layout.slot_bytes)}"
        )
    num_blocks = min(MAX_BLOCKS, left // layout.block_bytes) if layout.groups else 0
    return Pool(layout, num_blocks, state_slots if layout.states else 0, chunk)


def fit_length(pool: Pool, memory: int, length: int) -> LengthFit:
    """What a sequence of `length` tokens takes, and how many fit."""
    layout = pool.layout
    return LengthFit(
        length,
        layout.blocks(length),
        layout.blocks(length) * layout.block_bytes + layout.slot_bytes,
        layout.useful_bytes(length),
        _sequences(layout, memory, length, pool.prefill_chunk),
        pool.sequences(length),
    )


def _sequences(layout: Layout, memory: int, length: int, chunk: int) -> int:
    """`floor((memory - prefill) / (blocks * block_bytes + slot_bytes))`."""
    memory -= layout.prefill_blocks(length, chunk) * layout.block_bytes
    of_one = layout.blocks(length) * layout.block_bytes + layout.slot_bytes
    return max(0, memory) // of_one
