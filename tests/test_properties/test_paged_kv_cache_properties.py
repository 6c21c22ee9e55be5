"""PagedKvCache beside one plain array, with its blocks in and out of order."""

import copy

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.values import same_bits

from pagedkv import CapacityError, InvalidSlotError, PagedKvCache, ShapeError

DIM = 3
FLOATS = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)
MANY = st.integers(0, 40)
SEEDS = st.integers(0, 2**32 - 1)


class PagedKvCacheMachine(RuleBasedStateMachine):
    @initialize(max_tokens=st.integers(0, 80), data=st.data())
    def make(self, max_tokens: int, data: st.DataObject) -> None:
        self.cache = PagedKvCache(max_tokens, DIM)
        self.max_tokens = max_tokens
        self.order = list(range(-(-max_tokens // 16)))
        self.permute(data.draw(st.permutations(self.order)))
        self.tokens = np.empty((0, DIM))
        self.old_view = self.tokens

    def permute(self, order: list[int]) -> None:
        self.cache._permute_blocks(order)
        self.order = list(order)

    def in_order(self) -> bool:
        used = self.order[: -(-len(self.tokens) // 16)]
        return not used or used == list(range(used[0], used[0] + len(used)))

    @rule(token=arrays(np.float64, DIM, elements=FLOATS))
    def append(self, token: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
        if len(self.tokens) == self.max_tokens:
            with pytest.raises(CapacityError):
                self.cache.append(token)
        else:
            self.cache.append(token)
            self.tokens = np.concatenate([self.tokens, token[None]])

    @rule(n=MANY, seed=SEEDS)
    def append_tensor(self, n: int, seed: int) -> None:
        raw = np.random.default_rng(seed).bytes(n * DIM * 8)
        self.append_many(np.frombuffer(raw).reshape(n, DIM))

    @rule(begin=MANY, n=MANY)
    def append_a_view_of_itself(self, begin: int, n: int) -> None:
        if self.in_order():
            self.append_many(self.cache.as_tensor(copy=False)[begin : begin + n])

    @rule(begin=MANY, n=MANY)
    def append_a_view_from_before_it_was_cleared(self, begin: int, n: int) -> None:
        self.append_many(self.old_view[begin : begin + n])

    def append_many(self, t: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
        values = t.copy()
        if len(self.tokens) + len(t) > self.max_tokens:
            with pytest.raises(CapacityError):
                self.cache.append_tensor(t)
        else:
            self.cache.append_tensor(t)
            self.tokens = np.concatenate([self.tokens, values])

    @rule(size=st.integers(0, 6).filter(lambda size: size != DIM))
    def append_of_another_size(self, size: int) -> None:
        with pytest.raises(ShapeError):
            self.cache.append(np.zeros(size))
        with pytest.raises(ShapeError):
            self.cache.append_tensor(np.zeros((1, size)))

    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        if self.in_order():
            self.old_view = self.cache.as_tensor(copy=False)
        self.cache.clear()
        self.tokens = np.empty((0, DIM))
        self.permute(data.draw(st.permutations(self.order)))

    @rule(deep=st.booleans())
    def go_on_with_a_clone(self, deep: bool) -> None:
        before, self.cache = self.cache, copy.deepcopy(self.cache) if deep else self.cache.clone()
        before.clear()
        before.append_tensor(np.zeros((min(5, self.max_tokens), DIM)))

    @rule(i=st.integers(-3, 83))
    def get_token(self, i: int) -> None:
        if 0 <= i < len(self.tokens):
            assert same_bits(self.cache.get_token(i), self.tokens[i])
        else:
            with pytest.raises(InvalidSlotError):
                self.cache.get_token(i)

    @rule(key=st.slices(80))
    def take_a_slice(self, key: slice) -> None:
        assert same_bits(self.cache[key], self.tokens[key].copy())

    @invariant()
    def agrees(self) -> None:
        cache, n = self.cache, len(self.tokens)
        assert (cache.len, cache.is_empty, cache.blocks_in_use) == (n, n == 0, -(-n // 16))
        assert same_bits(cache.as_tensor(), self.tokens)
        out = np.full((n, DIM), np.nan)
        assert same_bits(cache.as_tensor(out=out), self.tokens)
        if self.in_order():
            assert same_bits(cache.as_tensor(copy=False), self.tokens)
        else:
            with pytest.raises(ShapeError):
                cache.as_tensor(copy=False)


TestPagedKvCache = PagedKvCacheMachine.TestCase
