"""Belady's rule: evict what is touched again last. It knows the future, so it is a yardstick."""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from pagedkv.replay.prompts import PromptBlocks

__all__ = ["BELADY", "belady_hits"]

BELADY = "belady"


def belady_hits(blocks: PromptBlocks, capacity: int) -> int:
    """Blocks that hit in a cache of `capacity`, evicting what is touched again last.

    A prompt's blocks are touched tail first, as LRU's order has it, after its hits are counted up
    to the first miss. O(n log n) for n references.
    """
    if not blocks.prompts:
        return 0
    order = np.concatenate([prompt[::-1] for prompt in blocks.prompts])
    touched: list[int] = order.tolist()
    next_touch: list[int] = _next_touches(order).tolist()
    held = bytearray(blocks.num_distinct)
    free = capacity
    hits = now = 0
    # Held blocks: those that are never touched again, and the others by their next touch, last one
    # first. Entries of touches that are past stay at the bottom and never come up.
    never: list[int] = []
    later: list[int] = []
    for prompt in blocks.prompts:
        for block in prompt.tolist():
            if not held[block]:
                break
            hits += 1
        for _ in range(len(prompt)):
            block = touched[now]
            if not held[block]:
                if free:
                    free -= 1
                else:
                    held[never.pop() if never else touched[-heappop(later)]] = 0
                held[block] = 1
            again = next_touch[now]
            if again < len(touched):
                heappush(later, -again)
            else:
                never.append(block)
            now += 1
    return hits


def _next_touches(order: NDArray[np.int32]) -> NDArray[np.int64]:
    """When the block of each touch is touched again; `len(order)` for never."""
    by_block = np.argsort(order, kind="stable")
    again = np.full(len(order), len(order), dtype=np.int64)
    same = order[by_block[1:]] == order[by_block[:-1]]
    again[by_block[:-1][same]] = by_block[1:][same]
    return again
