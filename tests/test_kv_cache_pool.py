"""KvCachePool: slabs of values whose meaning is the caller's."""

import numpy as np
import pytest
from support.errors import refuses
from support.values import DTYPES, SHOWN_AS, same_bits, tokens

from pagedkv import (
    CapacityError,
    InvalidSlotError,
    KvCachePool,
    PoolExhaustedError,
    ShapeError,
    UnsupportedError,
)


def test_pages_come_zero_first_and_are_reused_last_in_first_out() -> None:
    pool = KvCachePool(8, 4)
    assert [pool.alloc() for _ in range(3)] == [0, 1, 2]
    pool.free(0)
    pool.free(2)
    assert [pool.alloc() for _ in range(3)] == [2, 0, 3]


def test_a_full_pool_raises() -> None:
    pool = KvCachePool(8, 1)
    pool.alloc()
    with refuses(
        PoolExhaustedError, "KvCachePool.alloc", "1 needed, 0 free", unchanged=pool
    ) as raised:
        pool.alloc()
    assert (raised.value.needed, raised.value.free) == (1, 0)
    with refuses(PoolExhaustedError, "KvCachePool.alloc"):
        KvCachePool(8, 0).alloc()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_page_is_zeroed_at_construction_and_holds_page_size_values(
    dtype: str, rng: np.random.Generator
) -> None:
    pool = KvCachePool(6, 3, dtype)
    pages = [pool.alloc() for _ in range(3)]
    written = [tokens(rng, dtype, 6) for _ in pages]
    for page, values in zip(pages, written, strict=True):
        assert not pool.page(page).any()
        pool.page(page)[:] = values
    for page, values in zip(pages, written, strict=True):
        assert pool.page(page).dtype == SHOWN_AS[dtype]
        assert same_bits(pool.page(page), values)
    assert pool.dtype == dtype


@pytest.mark.parametrize("page", [0, 2, 4, -1, 2**32, 2**64])
@pytest.mark.parametrize("function", ["free", "page"])
def test_a_page_that_is_out_of_range_or_already_free_is_an_invalid_slot(
    function: str, page: int
) -> None:
    pool = KvCachePool(8, 4)
    pool.alloc()
    pool.alloc()
    pool.free(0)
    with refuses(
        InvalidSlotError, f"KvCachePool.{function}", f"page {page} is", unchanged=pool
    ) as raised:
        getattr(pool, function)(page)
    assert raised.value.slot == page


def test_contents_are_not_zeroed_by_free() -> None:
    pool = KvCachePool(8, 2)
    page = pool.alloc()
    pool.page(page)[:] = 7
    pool.free(page)
    assert pool.alloc() == page
    assert (pool.page(page) == 7).all()


def test_counts_add_up() -> None:
    pool = KvCachePool(8, 3)
    assert (pool.page_size, pool.num_pages, pool.free_count, pool.used_count) == (8, 3, 3, 0)
    page = pool.alloc()
    assert (pool.free_count, pool.used_count) == (2, 1)
    pool.free(page)
    assert (pool.free_count, pool.used_count) == (3, 0)


def test_sizes_that_make_no_pool_are_refused() -> None:
    with refuses(ShapeError, "KvCachePool", "page_size is 0", "at least 1"):
        KvCachePool(0, 4)
    with refuses(ShapeError, "KvCachePool", "num_pages is -1"):
        KvCachePool(4, -1)
    with refuses(ShapeError, "KvCachePool", "a size beyond"):
        KvCachePool(2**40, 2**30)
    with refuses(ShapeError, "KvCachePool", "int4", "even"):
        KvCachePool(3, 4, "int4")
    with refuses(UnsupportedError, "KvCachePool", "dtype int32"):
        KvCachePool(4, 4, "int32")
    with pytest.raises(CapacityError, match="2147483648"):
        KvCachePool(1, 2**31)


def test_repr_shows_the_shape() -> None:
    assert repr(KvCachePool(8, 3)) == (
        "KvCachePool(page_size=8, num_pages=3, dtype=float32, free=3)"
    )
