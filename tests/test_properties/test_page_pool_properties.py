"""BlockPool and KvCachePool beside a plain model: a dictionary of what each live page holds."""

from abc import abstractmethod
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pagedkv import BlockPool, InvalidSlotError, KvCachePool, SequencePool

PAGES = st.integers(-1, 6)
VALUES = st.integers(1, 1000)


class PageMachine(RuleBasedStateMachine):
    """`contents` is what every page holds, live or not: a free zeroes nothing."""

    capacity: int
    contents: list[int]
    free: list[int]
    live: set[int]

    @abstractmethod
    def make(self, capacity: int) -> None: ...
    @abstractmethod
    def allocate_one(self) -> int | None: ...
    @abstractmethod
    def give_back(self, page: int) -> None: ...
    @abstractmethod
    def arrays(self, page: int) -> list[np.ndarray[Any, np.dtype[Any]]]: ...
    @abstractmethod
    def counts(self) -> tuple[int, int]: ...

    @initialize(capacity=st.integers(0, 5))
    def begin(self, capacity: int) -> None:
        self.make(capacity)
        self.capacity = capacity
        self.contents = [0] * capacity
        self.free = list(reversed(range(capacity)))
        self.live = set()

    @rule()
    def allocate(self) -> None:
        page = self.allocate_one()
        if not self.free:
            assert page is None
            return
        assert page == self.free.pop()
        self.live.add(page)

    @rule(page=PAGES)
    def free_page(self, page: int) -> None:
        if page in self.live:
            self.give_back(page)
            self.live.remove(page)
            self.free.append(page)
        else:
            with pytest.raises(InvalidSlotError) as raised:
                self.give_back(page)
            assert raised.value.slot == page

    @rule(page=PAGES, value=VALUES)
    def write(self, page: int, value: int) -> None:
        if page in self.live:
            for index, array in enumerate(self.arrays(page)):
                array[...] = value + index
            self.contents[page] = value
        else:
            with pytest.raises(InvalidSlotError):
                self.arrays(page)

    @invariant()
    def agrees(self) -> None:
        assert self.counts() == (len(self.free), self.capacity)
        for page in self.live:
            value = self.contents[page]
            for index, array in enumerate(self.arrays(page)):
                assert (array == (value + index if value else 0)).all()


class BlockPoolMachine(PageMachine):
    def make(self, capacity: int) -> None:
        self.pool = BlockPool(capacity, 3, 2, 2, 5)

    def allocate_one(self) -> int | None:
        return self.pool.allocate()

    def give_back(self, page: int) -> None:
        self.pool.free(page)

    def arrays(self, page: int) -> list[np.ndarray[Any, np.dtype[Any]]]:
        return [self.pool.keys(page), self.pool.values(page)]

    def counts(self) -> tuple[int, int]:
        used = self.pool.total_count - self.pool.free_count
        assert self.pool.utilization() == (used / self.capacity if self.capacity else 0.0)
        return self.pool.free_count, self.pool.total_count


class KvCachePoolMachine(PageMachine):
    def make(self, capacity: int) -> None:
        self.pool = KvCachePool(7, capacity)

    def allocate_one(self) -> int | None:
        return self.pool.alloc() if self.pool.free_count else None

    def give_back(self, page: int) -> None:
        self.pool.free(page)

    def arrays(self, page: int) -> list[np.ndarray[Any, np.dtype[Any]]]:
        return [self.pool.page(page)]

    def counts(self) -> tuple[int, int]:
        assert self.pool.used_count == len(self.live)
        return self.pool.free_count, self.pool.num_pages


class SequencePoolOfPagesMachine(KvCachePoolMachine):
    def make(self, capacity: int) -> None:
        self.sequences = SequencePool.kv(7, capacity)
        assert isinstance(self.sequences.pool, KvCachePool)
        self.pool = self.sequences.pool

    def allocate_one(self) -> int | None:
        return self.sequences.alloc_kv() if self.pool.free_count else None

    def give_back(self, page: int) -> None:
        self.sequences.free_kv(page)

    @rule(slot=PAGES)
    def call_of_the_wrong_kind(self, slot: int) -> None:
        assert self.sequences.ssm_slot(slot) is None
        assert self.sequences.ssm_slot_mut(slot) is None
        with pytest.raises(InvalidSlotError) as raised:
            self.sequences.release_ssm(slot)
        assert raised.value.slot == slot
        with pytest.raises(InvalidSlotError) as raised:
            self.sequences.alloc_ssm(1)
        assert raised.value.slot == 2**64 - 1


TestBlockPool = BlockPoolMachine.TestCase
TestKvCachePool = KvCachePoolMachine.TestCase
TestSequencePoolOfPages = SequencePoolOfPagesMachine.TestCase
