"""Times of what an engine does for each sequence, and that they do not grow with the pool."""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import pagedkv
from pagedkv.bench.copies import random_values, same_bits


def test_making_sure_of_room_that_is_there(benchmark: BenchmarkFixture) -> None:
    alloc = pagedkv.BlockAllocator(256)
    state = pagedkv.PagedSeqState(16, 64)
    state.ensure_capacity(alloc, 1000)
    table = state.block_table_buf.copy()
    benchmark(lambda: state.ensure_capacity(alloc, 1000))
    assert alloc.in_use == 63
    assert np.array_equal(state.block_table_buf, table)


def test_growing_by_a_block_and_giving_all_back(benchmark: BenchmarkFixture) -> None:
    alloc = pagedkv.BlockAllocator(256)
    state = pagedkv.PagedSeqState(16, 64)

    def grow() -> None:
        for target in range(16, 1025, 16):
            state.ensure_capacity(alloc, target)
        state.release(alloc)

    grow()
    assert alloc.peak_in_use == 64
    benchmark(grow)
    assert alloc.in_use == 0


@pytest.mark.parametrize("slots", [64, 1024, 65_536])
def test_taking_and_releasing_a_slot(benchmark: BenchmarkFixture, slots: int) -> None:
    pool = pagedkv.SequencePool.ssm(slots, pagedkv.SsmStateSpec(1, 1, 4, 4, 4, 4))
    for request in range(slots):
        pool.alloc_ssm(request)

    def pair() -> int:
        pool.release_ssm(slots // 2)
        return pool.alloc_ssm(7)

    assert pair() == slots // 2
    benchmark(pair)
    assert pool.pool.free_count == 0


@pytest.mark.parametrize("tokens_a_call", [1, 256])
def test_filling_a_paged_kv_cache(benchmark: BenchmarkFixture, tokens_a_call: int) -> None:
    heads, dim, tokens = 8, 128, 256
    alloc = pagedkv.BlockAllocator(tokens // 16)
    cache = pagedkv.KvCache.paged(
        tokens // 16, heads, dim, 16, tokens // 16, alloc, dtype="float64"
    )
    k, v = random_values(tokens, heads, dim), random_values(tokens, heads, dim)
    parts = [
        (k[i : i + tokens_a_call], v[i : i + tokens_a_call])
        for i in range(0, tokens, tokens_a_call)
    ]

    def fill() -> None:
        cache.release()
        for part in parts:
            cache.append(*part)

    fill()
    benchmark(fill)
    keys, values = cache.to_dense()
    assert same_bits(keys, k)
    assert same_bits(values, v)
