"""The policy replay: how much of a trace's prompts a prefix cache would have held, by policy.

One request at a time, prompts only. Each block of the trace is one block of the cache, the last
one of a prompt too, however few tokens it has; a prompt may hit as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from pagedkv import KVCacheManager, UnsupportedError
from pagedkv.replay.belady import BELADY, belady_hits
from pagedkv.replay.errors import ReplayError
from pagedkv.replay.prompts import PromptBlocks

__all__ = [
    "PolicyResult",
    "all_policies",
    "check_policies",
    "manager_hits",
    "replay_policies",
    "sweep_of_capacities",
]

# A token that follows each prompt and is never computed: the manager always leaves the last token
# of a sequence to be computed, and here that is none of the prompt's.
AFTER_PROMPT = -1

# Told the policy, how many of the table's cells are done, and how many there are.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """Hits by policy and capacity, in the order that they were asked for."""

    blocks: PromptBlocks
    policies: list[str]
    capacities: list[int]
    hits: dict[str, dict[int, int]]
    seconds: dict[str, float]

    def hit_rate(self, policy: str, capacity: int) -> float:
        """Share of block references that hit; 0 without references."""
        references = self.blocks.num_references
        return self.hits[policy][capacity] / references if references else 0.0

    def gap_closed(self, policy: str, capacity: int) -> float | None:
        """How far the policy gets from LRU (0) to Belady (1); None where there is no gap, or where
        one of the two was not asked for."""
        if "lru" not in self.hits or BELADY not in self.hits:
            return None
        lru, belady = (self.hits[name][capacity] for name in ("lru", BELADY))
        if belady <= lru:
            return None
        return (self.hits[policy][capacity] - lru) / (belady - lru)


def all_policies() -> list[str]:
    """The manager's policies, and `belady`."""
    try:
        KVCacheManager(1, 1, eviction="?")
    except UnsupportedError as error:
        known = str(error).partition("; expected ")[2]
        return [*known.split(", "), BELADY]
    raise AssertionError("a policy named '?'")


def check_policies(policies: Sequence[str]) -> None:
    """Raise `ReplayError` for a name that is neither the manager's nor `belady`."""
    for policy in policies:
        try:
            if policy != BELADY:
                KVCacheManager(1, 1, eviction=policy)
        except UnsupportedError:
            known = ", ".join(all_policies()[:-1])
            raise ReplayError(
                f"[replay.check_policies] policy '{policy}'; expected {known}, or {BELADY}"
            ) from None


def sweep_of_capacities(blocks: PromptBlocks, count: int = 8) -> list[int]:
    """About `count` capacities from 1/128 of the distinct blocks to all of them, in equal ratios.

    Between them lie all hit rates that matter: with all distinct blocks nothing is evicted.
    """
    most = max(1, blocks.num_distinct)
    ratio = 128 ** (1 / (count - 1))
    return sorted({max(1, round(most / ratio**step)) for step in range(count)})


def replay_policies(
    blocks: PromptBlocks,
    policies: Sequence[str],
    capacities: Sequence[int],
    progress: Progress | None = None,
) -> PolicyResult:
    """Replay the prompts once for each policy and each capacity in blocks."""
    check_policies(policies)
    result = PolicyResult(blocks, list(policies), list(capacities), {}, {})
    cells = len(policies) * len(capacities)
    for row, policy in enumerate(policies):
        begin = perf_counter()
        count = belady_hits if policy == BELADY else _of_manager(policy)
        hits = result.hits[policy] = {}
        for column, capacity in enumerate(capacities):
            if progress is not None:
                progress(policy, row * len(capacities) + column, cells)
            # More room than there are blocks changes nothing, and would cost memory.
            hits[capacity] = count(blocks, min(capacity, max(1, blocks.num_distinct)))
        result.seconds[policy] = perf_counter() - begin
    return result


def manager_hits(blocks: PromptBlocks, capacity: int, policy: str) -> int:
    """Blocks that hit in a `KVCacheManager` of `capacity` blocks.

    A token of the manager stands for a block of the trace. Of a prompt that is longer than the
    cache, the head is computed and kept, as much as fits.
    """
    manager = KVCacheManager(capacity, 1, eviction=policy, partial_reuse=False)
    hits = 0
    for number, prompt in enumerate(blocks.prompts):
        ids = [number]
        manager.add(number, np.append(prompt, np.int32(AFTER_PROMPT)))
        cached = int(manager.acquire(ids)[0])
        hits += cached
        missing = [min(len(prompt), capacity) - cached]
        if missing != [0]:
            manager.schedule(ids, missing)
            manager.commit(ids, missing)
        manager.free(ids)
    return hits


def _of_manager(policy: str) -> Callable[[PromptBlocks, int], int]:
    return lambda blocks, capacity: manager_hits(blocks, capacity, policy)
