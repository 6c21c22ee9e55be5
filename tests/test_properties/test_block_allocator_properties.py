"""BlockAllocator beside a plain model: a list of counts, and a stack of ids that came back."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pagedkv import BlockAllocator, InvalidSlotError, PoolExhaustedError

# Ids in and around a small pool: live ones, free ones, and some that are out of range.
IDS = st.lists(st.integers(-1, 9), max_size=8)


class BlockAllocatorMachine(RuleBasedStateMachine):
    @initialize(capacity=st.integers(0, 8))
    def make(self, capacity: int) -> None:
        self.alloc = BlockAllocator(capacity)
        self.held = [0] * capacity
        self.free: list[int] = list(reversed(range(capacity)))  # the last comes next
        self.peak = 0

    def take(self) -> int:
        block = self.free.pop()
        self.held[block] = 1
        self.peak = max(self.peak, len(self.held) - len(self.free))
        return block

    def is_live(self, block: int) -> bool:
        return 0 <= block < len(self.held) and self.held[block] > 0

    @rule()
    def allocate(self) -> None:
        if self.free:
            assert self.alloc.allocate() == self.take()
        else:
            with pytest.raises(PoolExhaustedError):
                self.alloc.allocate()

    @rule(n=st.integers(0, 9))
    def allocate_n(self, n: int) -> None:
        if n <= len(self.free):
            assert self.alloc.allocate_n(n).tolist() == [self.take() for _ in range(n)]
        else:
            with pytest.raises(PoolExhaustedError) as raised:
                self.alloc.allocate_n(n)
            assert (raised.value.needed, raised.value.free) == (n, len(self.free))

    @rule(ids=IDS, as_array=st.booleans())
    def acquire(self, ids: list[int], as_array: bool) -> None:
        given = np.array(ids, dtype=np.int32) if as_array else ids
        if all(map(self.is_live, ids)):
            self.alloc.acquire(given)
            for block in ids:
                self.held[block] += 1
        else:
            with pytest.raises(InvalidSlotError):
                self.alloc.acquire(given)

    @rule(ids=IDS, as_array=st.booleans())
    def give_back(self, ids: list[int], as_array: bool) -> None:
        given = np.array(ids, dtype=np.int32) if as_array else ids
        counts = Counter(ids)
        if all(self.is_live(block) and self.held[block] >= n for block, n in counts.items()):
            self.alloc.free(given)
            for block in ids:
                self.give_back_one(block)
        else:
            with pytest.raises(InvalidSlotError):
                self.alloc.free(given)

    @rule(block=st.integers(-1, 9))
    def free_one(self, block: int) -> None:
        if self.is_live(block):
            self.alloc.free(block)
            self.give_back_one(block)
        else:
            with pytest.raises(InvalidSlotError) as raised:
                self.alloc.free(block)
            assert raised.value.slot == block

    def give_back_one(self, block: int) -> None:
        self.held[block] -= 1
        if self.held[block] == 0:
            self.free.append(block)

    @invariant()
    def agrees(self) -> None:
        capacity = len(self.held)
        assert [self.alloc.ref_count(block) for block in range(capacity)] == self.held
        assert [block in self.alloc for block in range(-1, capacity + 1)] == [
            self.is_live(block) for block in range(-1, capacity + 1)
        ]
        assert self.alloc.free_count == len(self.free)
        assert self.alloc.in_use == capacity - len(self.free)
        assert self.alloc.peak_in_use == self.peak


TestBlockAllocator = BlockAllocatorMachine.TestCase
