"""Who holds which block of a `KVCacheManager`, as arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pagedkv import InvalidSlotError, KVCacheManager, PoolExhaustedError, SequenceError

__all__ = ["BlockState", "PoolMap", "pool_map"]

# Where sequences that are not named are looked for.
MOST_IDS = 2**20
# Ids of sequences that are made to find out which free blocks are cached.
PROBE_ID = 2**62


class BlockState(IntEnum):
    """What a block is used for."""

    UNUSED = 0
    """Free, and in no prefix index."""
    CACHED = 1
    """Free, and in the prefix index: kept for prompts to come, until it is needed."""
    FREE = 2
    """Free, one of the two above: which of them was not asked for, or could not be told."""
    HELD = 3
    """In the table of one of the sequences."""
    SHARED = 4
    """In the tables of several of them."""
    KEPT = 5
    """Not free, and in none of the tables: leased, pinned, the null block, or a sequence's that
    was not named."""
    UNTOLD = 6
    """In none of the tables, and free or kept: a manager says how many blocks are free, not which;
    ``find_cached`` finds out."""


@dataclass(frozen=True, slots=True)
class PoolMap:
    """A pool at one moment. Arrays have one entry a block.

    Attributes:
        seq_ids: the sequences, in the order that ``owners`` counts.
        states: ``BlockState``, int8.
        owners: int32, the first of ``seq_ids`` that holds the block; -1: none does.
        holders: int32, how many of them hold it.
        seq_tokens: int64 ``[len(seq_ids)]``, tokens that have a slot.
        seq_blocks: int64 ``[len(seq_ids)]``, blocks in the tables of each.
        seq_shared: int64 ``[len(seq_ids)]``, of these, in tables of others too.
    """

    seq_ids: tuple[int, ...]
    states: NDArray[np.int8]
    owners: NDArray[np.int32]
    holders: NDArray[np.int32]
    seq_tokens: NDArray[np.int64]
    seq_blocks: NDArray[np.int64]
    seq_shared: NDArray[np.int64]

    @property
    def num_blocks(self) -> int:
        """Blocks of the pool."""
        return len(self.states)

    @property
    def largest(self) -> NDArray[np.int64]:
        """Indices of the sequences, those with the most blocks first; equal ones in order."""
        return np.argsort(-self.seq_blocks, kind="stable").astype(np.int64)

    def ranks_of_owners(self) -> NDArray[np.int64]:
        """For each block the place of its owner among the largest; -1: none holds it."""
        ranks = np.full(len(self.seq_ids) + 1, -1, np.int64)  # the last one: of owner -1
        ranks[self.largest] = np.arange(len(self.seq_ids))
        return ranks[self.owners]

    def count(self, state: BlockState) -> int:
        """Blocks in this state."""
        return int(np.count_nonzero(self.states == state))


def pool_map(
    manager: KVCacheManager, seq_ids: Iterable[int] | None = None, *, find_cached: bool = False
) -> PoolMap:
    """A map of the manager's blocks. O(blocks).

    Args:
        manager: looked at between its calls; nothing of it changes unless ``find_cached``.
        seq_ids: the sequences whose blocks are told apart; one that is named again counts once.
            None: all of them, if their ids are among the first 2^20 integers from 0 on.
        find_cached: tell cached free blocks from unused ones. A manager does not say which is
            which, so all free blocks are taken once and given back: **what was cached is lost**.
            For a manager that is done with.

    Raises:
        SequenceError: a sequence is unknown, or not all were found.
    """
    ids = _all_ids(manager) if seq_ids is None else tuple(dict.fromkeys(seq_ids))
    for seq in ids:
        if seq not in manager:
            raise SequenceError(
                f"[show.pool_map] sequence {seq} is unknown; expected one of the pool"
            )
    num_blocks = _num_blocks(manager)
    groups = _num_groups(manager, ids)
    tables = [_blocks(manager, seq, groups) for seq in ids]
    holders = np.zeros(num_blocks, np.int32)
    owners = np.full(num_blocks, -1, np.int32)
    for index in reversed(range(len(ids))):
        holders[tables[index]] += 1
        owners[tables[index]] = index
    states = np.full(num_blocks, BlockState.HELD, np.int8)
    states[holders > 1] = BlockState.SHARED
    handed_out = manager.stats().num_blocks
    states[: num_blocks - handed_out] = BlockState.KEPT  # the null block is the first
    not_held = np.flatnonzero((holders == 0) & (states != BlockState.KEPT))
    num_free = manager.num_free_blocks
    states[not_held] = _of_not_held(len(not_held), num_free)
    if find_cached:
        all_free = len(not_held) == num_free
        free = _free_blocks(manager, not_held if all_free else None)
        for block, state in free.items():
            states[block] = state
        if len(free) == num_free:
            states[states == BlockState.UNTOLD] = BlockState.KEPT
    return PoolMap(
        ids,
        states,
        owners,
        holders,
        np.array([manager.num_scheduled(seq) for seq in ids], np.int64),
        np.array([len(table) for table in tables], np.int64),
        np.array([np.count_nonzero(holders[table] > 1) for table in tables], np.int64),
    )


def _of_not_held(count: int, num_free: int) -> BlockState:
    """The state of so many blocks that no table has, as far as the number of free ones tells."""
    if num_free == count:
        return BlockState.FREE
    return BlockState.UNTOLD if num_free else BlockState.KEPT


def _num_blocks(manager: KVCacheManager) -> int:
    """All block ids; the statistics leave out the null block, which is never handed out."""
    return int(repr(manager).partition("num_blocks=")[2].partition(",")[0])


def _all_ids(manager: KVCacheManager) -> tuple[int, ...]:
    found: list[int] = []
    for seq in range(MOST_IDS):
        if len(found) == len(manager):
            break
        if seq in manager:
            found.append(seq)
    if len(found) < len(manager):
        raise SequenceError(
            f"[show.pool_map] {len(found)} of {len(manager)} sequences have ids from 0 to "
            f"{MOST_IDS - 1}; expected seq_ids"
        )
    return tuple(found)


def _num_groups(manager: KVCacheManager, ids: tuple[int, ...]) -> int:
    groups = 0
    try:
        while ids:
            manager.block_ids(ids[0], groups)
            groups += 1
    except InvalidSlotError:
        pass  # one past the last
    return groups


def _blocks(manager: KVCacheManager, seq: int, groups: int) -> NDArray[np.int32]:
    """All blocks of a sequence, each once; holes of windows left out."""
    tables = [manager.block_ids(seq, group) for group in range(groups)]
    blocks = np.concatenate(tables) if tables else np.empty(0, np.int32)
    return np.unique(blocks[blocks >= 0])


def _free_blocks(manager: KVCacheManager, free: NDArray[np.int64] | None) -> dict[int, BlockState]:
    """Takes free blocks, one for each group at a time; those that had to be evicted were cached,
    and come after the others. `free` are the ids of all free blocks, where that is known."""
    found: dict[int, BlockState] = {}
    probes: list[int] = []
    groups, evictions = 0, manager.stats().evictions
    try:
        while manager.num_free_blocks:
            probe = PROBE_ID + len(probes)
            manager.add(probe, [0], reuse=False, store=False)
            probes.append(probe)
            manager.acquire([probe])
            manager.schedule([probe], [1])
            before, evictions = evictions, manager.stats().evictions
            evicted = evictions - before
            groups = groups or _num_groups(manager, (probe,))
            taken = [int(manager.block_ids(probe, group)[0]) for group in range(groups)]
            for place, block in enumerate(taken):
                cached = place >= len(taken) - evicted
                found[block] = BlockState.CACHED if cached else BlockState.UNUSED
    except PoolExhaustedError:
        # Fewer are left than there are groups: they are all cached, or none is, or who knows.
        left = manager.num_free_blocks
        evicted = manager.evict(left)
        state = {left: BlockState.CACHED, 0: BlockState.UNUSED}.get(evicted, BlockState.FREE)
        if free is not None:
            found |= dict.fromkeys(set(free.tolist()) - set(found), state)
    finally:
        manager.free(probes)
    return found
