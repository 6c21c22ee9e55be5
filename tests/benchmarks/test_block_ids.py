"""Times of handing out and giving back ids, for comparison with an earlier run of this machine."""

import numpy as np
from pytest_benchmark.fixture import BenchmarkFixture

import pagedkv
from pagedkv.bench.figure import Scale


def test_allocating_and_freeing_one_id(benchmark: BenchmarkFixture) -> None:
    alloc = pagedkv.BlockAllocator(4096)

    def pair() -> int:
        block = alloc.allocate()
        alloc.free(block)
        return block

    assert pair() == 0
    benchmark(pair)
    assert alloc.in_use == 0
    assert alloc.peak_in_use == 1


def test_allocating_and_freeing_a_thousand_ids(benchmark: BenchmarkFixture) -> None:
    alloc = pagedkv.BlockAllocator(4096)
    ids = alloc.allocate_n(1000)
    assert np.array_equal(ids, np.arange(1000))
    alloc.free(ids)
    benchmark(lambda: alloc.free(alloc.allocate_n(1000)))
    assert alloc.in_use == 0
    assert alloc.peak_in_use == 1000


def test_freeing_a_python_list_of_a_thousand_ids(benchmark: BenchmarkFixture) -> None:
    alloc = pagedkv.BlockAllocator(4096)
    ids = alloc.allocate_n(1000).tolist()
    benchmark(lambda: (alloc.free(ids), alloc.allocate_n(1000)))
    assert alloc.in_use == 1000


def test_allocating_and_freeing_one_page(benchmark: BenchmarkFixture) -> None:
    pool = pagedkv.BlockPool(64, 16, 2, 2, 16)

    def pair() -> int | None:
        page = pool.allocate()
        assert page is not None
        pool.free(page)
        return page

    assert pair() == 0
    benchmark(pair)
    assert pool.free_count == 64


def test_making_an_allocator_of_a_million_ids(benchmark: BenchmarkFixture, scale: Scale) -> None:
    capacity = 50 * scale.calls
    alloc = benchmark(lambda: pagedkv.BlockAllocator(capacity))
    assert alloc.free_count == capacity
