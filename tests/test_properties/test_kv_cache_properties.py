"""KvCache beside plain arrays: several sequences over one small pool, and one in one piece."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.values import DTYPES, same_bits, tokens

from pagedkv import BlockAllocator, CapacityError, KvCache, PoolExhaustedError

NUM_TOKENS = st.integers(0, 9)
SEEDS = st.integers(0, 2**32 - 1)
SEQUENCES = st.integers(0, 2)


class Tokens:
    """The keys and values that one sequence should hold."""

    def __init__(self, dtype: str, heads: int, dim: int) -> None:
        self.k: npt.NDArray[Any] = tokens(np.random.default_rng(0), dtype, 0, heads, dim)
        self.v = self.k

    def __len__(self) -> int:
        return len(self.k)

    def append(self, k: npt.NDArray[Any], v: npt.NDArray[Any]) -> None:
        self.k, self.v = np.concatenate([self.k, k]), np.concatenate([self.v, v])

    def truncate(self, n: int) -> None:
        self.k, self.v = self.k[:n], self.v[:n]

    def agrees_with(self, cache: KvCache) -> bool:
        k, v = cache.to_dense()
        return cache.len == len(self) and same_bits(k, self.k) and same_bits(v, self.v)


class ContiguousMachine(RuleBasedStateMachine):
    @initialize(capacity=st.integers(0, 20), dtype=st.sampled_from(DTYPES))
    def make(self, capacity: int, dtype: str) -> None:
        self.cache = KvCache.contiguous(capacity, 2, 4, dtype)
        self.dtype, self.capacity = dtype, capacity
        self.tokens = Tokens(dtype, 2, 4)

    @rule(n=NUM_TOKENS, seed=SEEDS)
    def append(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        k, v = (tokens(rng, self.dtype, n, 2, 4) for _ in "kv")
        if len(self.tokens) + n > self.capacity:
            with pytest.raises(CapacityError):
                self.cache.append(k, v)
        else:
            self.cache.append(k, v)
            self.tokens.append(k, v)

    @rule(n=st.integers(0, 20))
    def truncate(self, n: int) -> None:
        self.cache.truncate(n)
        self.tokens.truncate(n)

    @rule()
    def release(self) -> None:
        self.cache.release()
        self.tokens.truncate(0)

    @invariant()
    def agrees(self) -> None:
        assert self.tokens.agrees_with(self.cache)
        held = self.cache.k[:, : len(self.tokens)].transpose(1, 0, 2)
        assert same_bits(np.ascontiguousarray(held), self.tokens.k)


class SharedPoolMachine(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(0, 8),
        heads=st.integers(1, 3),
        block_size=st.integers(1, 4),
        max_blocks=st.integers(0, 6),
        dtype=st.sampled_from(DTYPES),
    )
    def make(
        self, num_blocks: int, heads: int, block_size: int, max_blocks: int, dtype: str
    ) -> None:
        self.alloc = BlockAllocator(num_blocks)
        self.heads, self.block_size, self.max_blocks = heads, block_size, max_blocks
        self.dtype = dtype
        first = KvCache.paged(num_blocks, heads, 4, block_size, max_blocks, self.alloc, dtype)
        self.caches = [first, first.share(), first.share()]
        self.sequences = [Tokens(dtype, heads, 4) for _ in range(3)]
        self.written_lengths = [0, 0, 0]  # a release leaves the device as it is

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    @rule(index=SEQUENCES, n=NUM_TOKENS, seed=SEEDS)
    def append(self, index: int, n: int, seed: int) -> None:
        cache, held = self.caches[index], self.sequences[index]
        rng = np.random.default_rng(seed)
        k, v = (tokens(rng, self.dtype, n, self.heads, 4) for _ in "kv")
        more = self.blocks_for(len(held) + n) - self.blocks_for(len(held))
        if len(held) + n > self.max_blocks * self.block_size:
            with pytest.raises(CapacityError):
                cache.append(k, v)
        elif more > self.alloc.free_count:
            with pytest.raises(PoolExhaustedError):
                cache.append(k, v)
        else:
            cache.append(k, v)
            held.append(k, v)
            self.written_lengths[index] = len(held)

    @rule(index=SEQUENCES, n=st.integers(0, 20))
    def truncate(self, index: int, n: int) -> None:
        self.caches[index].truncate(n)
        if n < len(self.sequences[index]):
            self.sequences[index].truncate(n)
            self.written_lengths[index] = n

    @rule(index=SEQUENCES)
    def release(self, index: int) -> None:
        self.caches[index].release()
        self.sequences[index].truncate(0)

    @rule(index=SEQUENCES, source=SEQUENCES)
    def begin_another_sequence(self, index: int, source: int) -> None:
        self.caches[index] = self.caches[source].share()
        self.sequences[index] = Tokens(self.dtype, self.heads, 4)
        self.written_lengths[index] = 0

    @invariant()
    def agrees(self) -> None:
        taken: list[int] = []
        for cache, held, written in zip(
            self.caches, self.sequences, self.written_lengths, strict=True
        ):
            assert held.agrees_with(cache)
            blocks = cache.paged_block_indices
            assert len(blocks) == self.blocks_for(len(held))
            assert cache.block_table is not None
            assert cache.context_lens is not None
            assert cache.context_lens.tolist() == [written]
            assert cache.block_table[: len(blocks)].tolist() == blocks
            for logical, block in enumerate(blocks):
                span = slice(logical * self.block_size, (logical + 1) * self.block_size)
                rows = held.k[span].transpose(1, 0, 2)
                assert same_bits(cache.k[block, :, : rows.shape[1]].copy(), rows.copy())
            taken += blocks
        assert sorted(taken) == sorted(set(taken))
        assert self.alloc.in_use == len(taken)


TestContiguous = ContiguousMachine.TestCase
TestSharedPool = SharedPoolMachine.TestCase
