"""Handing out and giving back of ids and slots, and what an engine asks for once a step."""

from __future__ import annotations

from itertools import repeat

import numpy as np

import pagedkv
from pagedkv.bench.figure import Bench, Contest, Figure, Scale, require

__all__ = ["CALLS"]


def _thousand(scale: Scale) -> Contest:
    count = 1000
    rounds = max(1, scale.calls // 10)
    alloc = pagedkv.BlockAllocator(4 * count)
    stack = list(range(4 * count))

    def floor() -> None:
        for _ in repeat(None, rounds):
            taken = stack[-count:]
            del stack[-count:]
            stack.extend(taken)

    def ours() -> None:
        allocate_n, free = alloc.allocate_n, alloc.free
        for _ in repeat(None, rounds):
            free(allocate_n(count))

    def check() -> None:
        ids = alloc.allocate_n(count)
        require(len(np.unique(ids)) == count == alloc.in_use, "an id was handed out twice")
        alloc.free(ids)
        require(alloc.free_count == 4 * count, "ids were lost")

    return Contest(rounds, floor, ours, check)


def _one(scale: Scale) -> Contest:
    alloc = pagedkv.BlockAllocator(4096)
    stack = list(range(4096))

    def floor() -> None:
        pop, push = stack.pop, stack.append
        for _ in repeat(None, scale.calls):
            push(pop())

    def ours() -> None:
        allocate, free = alloc.allocate, alloc.free
        for _ in repeat(None, scale.calls):
            free(allocate())

    def check() -> None:
        require(alloc.free_count == 4096, "ids were lost")
        require(alloc.peak_in_use == 1, "more than one id at a time was out")

    return Contest(scale.calls, floor, ours, check)


def _ensure_capacity(scale: Scale) -> Contest:
    alloc = pagedkv.BlockAllocator(256)
    state = pagedkv.PagedSeqState(16, 64)
    state.ensure_capacity(alloc, 1000)
    table = state.block_table_buf.copy()

    def floor() -> None:
        for _ in repeat(None, scale.calls):
            len(state)

    def ours() -> None:
        ensure_capacity = state.ensure_capacity
        for _ in repeat(None, scale.calls):
            ensure_capacity(alloc, 1000)

    def check() -> None:
        require(alloc.in_use == 63, "blocks were taken that nobody needs")
        require(np.array_equal(state.block_table_buf, table), "the table changed")

    return Contest(scale.calls, floor, ours, check)


class _FullPools:
    """Full pools of so many slots in all, and the order in which they are given back."""

    def __init__(self, slots: int, slots_each: int) -> None:
        spec = pagedkv.SsmStateSpec(1, 1, 4, 4, 4, 4)
        self.pools = [
            pagedkv.SequencePool.ssm(slots_each, spec) for _ in range(slots // slots_each)
        ]
        self.fill()
        order = np.random.default_rng().permutation(slots).tolist()
        self.order = [(self.pools[i // slots_each].release_ssm, i % slots_each) for i in order]

    def fill(self) -> None:
        for pool in self.pools:
            for request in range(pool.pool.free_count):
                pool.alloc_ssm(request)

    def release_all(self) -> None:
        for release, slot in self.order:
            release(slot)

    def check(self) -> None:
        for pool in self.pools:
            require(pool.pool.used_count == 0, "a slot was not released")
            require(pool.ssm_slot(0) is None, "a released slot can be read")


def _release(scale: Scale, slots_each: int) -> Contest:
    small = _FullPools(scale.slots, 64)
    large = _FullPools(scale.slots, min(slots_each, scale.slots))

    def restore() -> None:
        small.fill()
        large.fill()

    return Contest(scale.slots, small.release_all, large.release_all, large.check, restore)


_POOLS_OF_64 = "pools of 64 slots, as many in all"

CALLS = (
    Bench(
        Figure(
            "BlockAllocator.allocate_n + free, 1,000 ids",
            "slices of a Python list, unchecked",
            most_ns=5000,
        ),
        _thousand,
    ),
    Bench(
        Figure("BlockAllocator.allocate + free", "`pop` and `append` of a list, unchecked"), _one
    ),
    Bench(
        Figure("PagedSeqState.ensure_capacity, nothing needed", "`len(state)`"), _ensure_capacity
    ),
    Bench(
        Figure("SequencePool.release_ssm, 1,024 slots", _POOLS_OF_64, least_share=0.9),
        lambda scale: _release(scale, 1024),
    ),
    Bench(
        Figure("SequencePool.release_ssm, 65,536 slots", _POOLS_OF_64, least_share=0.9),
        lambda scale: _release(scale, 65_536),
    ),
)
