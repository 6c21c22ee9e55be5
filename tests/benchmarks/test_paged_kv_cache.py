"""Times of moving 128 MiB in and out of a PagedKvCache."""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import pagedkv
from pagedkv.bench.copies import random_values, same_bits
from pagedkv.bench.figure import Scale


@pytest.fixture
def source(scale: Scale) -> np.ndarray:
    return random_values(scale.tokens, scale.dim)


@pytest.fixture(params=[False, True], ids=["in order", "shuffled"])
def cache(request: pytest.FixtureRequest, scale: Scale) -> pagedkv.PagedKvCache:
    """Empty; its blocks in order in memory, or shuffled."""
    made = pagedkv.PagedKvCache(scale.tokens, scale.dim)
    if request.param:
        order = np.random.default_rng().permutation(made.num_blocks)
        made._permute_blocks(order.astype(np.int32))
    return made


def test_appending_a_tensor(
    benchmark: BenchmarkFixture, cache: pagedkv.PagedKvCache, source: np.ndarray
) -> None:
    def append() -> None:
        cache.clear()
        cache.append_tensor(source)

    append()
    assert same_bits(cache.as_tensor(), source)
    benchmark(append)
    assert same_bits(cache.as_tensor(), source)


def test_appending_token_after_token(
    benchmark: BenchmarkFixture, cache: pagedkv.PagedKvCache, source: np.ndarray
) -> None:
    rows = list(source)

    def append() -> None:
        cache.clear()
        for row in rows:
            cache.append(row)

    append()
    assert same_bits(cache.as_tensor(), source)
    benchmark(append)
    assert same_bits(cache.as_tensor(), source)


def test_filling_an_array(
    benchmark: BenchmarkFixture, cache: pagedkv.PagedKvCache, source: np.ndarray
) -> None:
    cache.append_tensor(source)
    out = np.zeros_like(source)
    assert cache.as_tensor(out=out) is out
    assert same_bits(out, source)
    out[:] = 0
    benchmark(lambda: cache.as_tensor(out=out))
    assert same_bits(out, source)


def test_a_new_array(
    benchmark: BenchmarkFixture, cache: pagedkv.PagedKvCache, source: np.ndarray
) -> None:
    cache.append_tensor(source)
    assert same_bits(benchmark(cache.as_tensor), source)


def test_cloning(
    benchmark: BenchmarkFixture, cache: pagedkv.PagedKvCache, source: np.ndarray
) -> None:
    cache.append_tensor(source)
    assert same_bits(benchmark(cache.clone).as_tensor(), source)


def test_a_view(benchmark: BenchmarkFixture, scale: Scale, source: np.ndarray) -> None:
    cache = pagedkv.PagedKvCache(scale.tokens, scale.dim)
    cache.append_tensor(source)
    view = benchmark(lambda: cache.as_tensor(copy=False))
    assert not view.flags.owndata
    assert same_bits(view, source)
