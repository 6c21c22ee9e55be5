"""Layers that share a block table, and the blocks that all tables draw from.

`KVCacheManager` hands out the blocks of all groups from one space of ids, so all blocks have the
same bytes. A block is a fixed number of *places*, each with room for one layer's block; a group
fills them with layers that need the same tokens. Layers of few bytes get longer blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pagedkv import FullAttention, GroupSpec, SlidingWindow, SsmStateSpec
from pagedkv.plan.accounting import page_bytes, scale_bytes, state_spec, token_bytes
from pagedkv.plan.errors import PlanError
from pagedkv.plan.layers import Architecture, PagedCache, State

__all__ = ["Group", "Layout", "StateGroup", "make_layout"]

# The most that `KVCacheManager` takes.
MAX_GROUPS = 15


@dataclass(frozen=True, slots=True)
class Group:
    """Layers of one kind that share a block table."""

    cache: PagedCache
    layers: tuple[int, ...]
    """Which layers of the model."""
    block_size: int
    """Tokens a block."""
    bytes_per_token: int
    """Of all its layers, scales a token counted; those of a block are the block's."""
    page_bytes: int
    """One layer's block, without what rounds it up to the place that it lies in."""

    def blocks(self, length: int, chunk: int = 1) -> int:
        """Blocks that a sequence of `length` tokens holds at most, at any time up to there, when
        tokens come in chunks of `chunk`: 1 when it decodes."""
        blocks = -(-length // self.block_size)
        window = self.cache.window
        if window is not None:
            # The first of the new tokens sees `window - 1` before it, wherever a block begins.
            blocks = min(blocks, -(-(window + chunk - 2) // self.block_size) + 1)
        return blocks

    def tokens_needed(self, length: int) -> int:
        """Tokens that the layers still read when the sequence has `length`."""
        window = self.cache.window
        return length if window is None else min(length, window)

    def spec(self) -> GroupSpec:
        """The group, as `KVCacheManager` takes it."""
        if self.cache.window is None:
            return FullAttention(block_size=self.block_size)
        return SlidingWindow(self.cache.window, block_size=self.block_size)


@dataclass(frozen=True, slots=True)
class StateGroup:
    """Layers with recurrent states of one shape: a slot of `SsmStatePool` a sequence."""

    state: State
    layers: tuple[int, ...]
    spec: SsmStateSpec

    @property
    def slot_bytes(self) -> int:
        """States of all layers of one sequence."""
        return self.spec.slot_bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """Groups, what a block is made of, and the states beside them."""

    groups: tuple[Group, ...]
    places: int
    """Layers in a block: the most that a group has."""
    place_bytes: int
    """Room for one layer's block, the same in all groups."""
    states: tuple[StateGroup, ...]
    kv_dtype: str
    scales: str
    """`tensor`, `block` or `token`."""

    @property
    def block_bytes(self) -> int:
        """Bytes of a block, the same whichever group holds it; 0 where there are only states."""
        return self.places * self.place_bytes

    @property
    def slot_bytes(self) -> int:
        """Bytes of the states of one sequence; 0 without states."""
        return sum(states.slot_bytes for states in self.states)

    @property
    def bytes_per_token(self) -> int:
        """What a new token adds in all layers, scales a token counted; inside of windows it goes
        again."""
        return sum(group.bytes_per_token for group in self.groups)

    @property
    def bytes_per_token_kept(self) -> int:
        """The same in the layers without a window: what each token of a long context takes."""
        return sum(g.bytes_per_token for g in self.groups if g.cache.window is None)

    @property
    def last_block_waste(self) -> float:
        """Bytes behind the last token of a sequence, on average over lengths: `(block_size - 1) /
        2` tokens of each group."""
        return sum((g.block_size - 1) / 2 * g.bytes_per_token for g in self.groups)

    def blocks(self, length: int) -> int:
        """Blocks that a decoding sequence of `length` tokens holds at most, over all groups."""
        return sum(group.blocks(length) for group in self.groups)

    def prefill_blocks(self, length: int, chunk: int) -> int:
        """What one sequence needs beside `blocks` while its prompt is computed in chunks: windows
        are given back only when a chunk is committed."""
        return sum(group.blocks(length, chunk) - group.blocks(length) for group in self.groups)

    def useful_bytes(self, length: int) -> int:
        """Bytes of a sequence that are still read: tokens in reach, scales and states."""
        read = self.slot_bytes
        for group in self.groups:
            tokens = group.tokens_needed(length)
            read += tokens * group.bytes_per_token
            if self.scales == "block":
                of_block = len(group.layers) * scale_bytes(group.cache, self.scales, 1)
                read += -(-tokens // group.block_size) * of_block
        return read


def make_layout(
    model: Architecture,
    *,
    block_size: int,
    kv_dtype: str,
    scales: str,
    state_dtype: str,
    length: int,
) -> Layout:
    """Groups for the model's caches, so that a sequence of `length` tokens takes the fewest bytes
    (then the fewest groups, and at most 15 of them). Raises `PlanError` for more kinds of layers.

    Layers of one kind need not divide evenly: the last group of a kind leaves places empty.
    """
    paged: dict[PagedCache, list[int]] = {}
    recurrent: dict[State, list[int]] = {}
    for index, caches in enumerate(model.layers):
        for cache in caches:
            if isinstance(cache, State):
                recurrent.setdefault(cache, []).append(index)
            else:
                paged.setdefault(cache, []).append(index)
    if len(paged) > MAX_GROUPS:
        raise PlanError(
            f"[plan.plan] {len(paged)} kinds of layers that attend; expected at most {MAX_GROUPS}, "
            "the most groups of a KVCacheManager"
        )
    states = tuple(
        StateGroup(state, tuple(layers), state_spec(state, len(layers), state_dtype))
        for state, layers in recurrent.items()
    )
    place = max((page_bytes(cache, kv_dtype, scales, block_size) for cache in paged), default=0)
    blocks = {cache: _longest_block(cache, place, kv_dtype, scales, block_size) for cache in paged}

    def divided(places: int) -> Layout:
        groups = tuple(
            _group(cache, layers[start : start + places], blocks[cache], kv_dtype, scales)
            for cache, layers in paged.items()
            for start in range(0, len(layers), places)
        )
        filled = max((len(group.layers) for group in groups), default=0)
        return Layout(groups, filled, place, states, kv_dtype, scales)

    most = max(map(len, paged.values()), default=1)
    candidates = [divided(places) for places in range(1, most + 1)]
    return min(
        (layout for layout in candidates if len(layout.groups) <= MAX_GROUPS),
        key=lambda layout: (layout.blocks(length) * layout.block_bytes, len(layout.groups)),
    )


def _group(
    cache: PagedCache, layers: Sequence[int], block_size: int, kv_dtype: str, scales: str
) -> Group:
    of_token = token_bytes(cache, kv_dtype)
    if scales == "token":
        of_token += scale_bytes(cache, scales, 1)
    page = page_bytes(cache, kv_dtype, scales, block_size)
    return Group(cache, tuple(layers), block_size, len(layers) * of_token, page)


def _longest_block(
    cache: PagedCache, place: int, kv_dtype: str, scales: str, block_size: int
) -> int:
    """The largest multiple of `block_size` tokens whose block fits the place."""
    multiple = max(1, place // page_bytes(cache, kv_dtype, scales, block_size))
    while page_bytes(cache, kv_dtype, scales, multiple * block_size) > place:
        multiple -= 1
    while page_bytes(cache, kv_dtype, scales, (multiple + 1) * block_size) <= place:
        multiple += 1
    return multiple * block_size
