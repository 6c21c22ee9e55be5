"""BlockPool: pages of keys and values."""

from typing import Any

import numpy as np
import pytest
from support.errors import refuses
from support.values import DTYPES, SHOWN_AS, same_bits, tokens

from pagedkv import BlockPool, CapacityError, InvalidSlotError, ShapeError, UnsupportedError


def pool(capacity: int = 4, **changes: Any) -> BlockPool:
    shape = {"block_size": 3, "num_layers": 5, "num_kv_heads": 2, "head_dim": 4} | changes
    return BlockPool(capacity, **shape)


def some_page(pages: BlockPool) -> int:
    page = pages.allocate()
    assert page is not None
    return page


def test_every_page_is_zeroed_at_construction() -> None:
    pages = pool(8, dtype="float64")
    for _ in range(8):
        page = some_page(pages)
        assert not pages.keys(page).any()
        assert not pages.values(page).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_page_holds_the_keys_and_the_values_of_one_layer(
    dtype: str, rng: np.random.Generator
) -> None:
    pages = pool(3, dtype=dtype)
    written = {}
    for _ in range(3):
        page = some_page(pages)
        keys, values = tokens(rng, dtype, 2, 3, 4), tokens(rng, dtype, 2, 3, 4)
        pages.keys(page)[:] = keys
        pages.values(page)[:] = values
        written[page] = keys, values
    for page, (keys, values) in written.items():
        assert pages.keys(page).dtype == SHOWN_AS[dtype]
        assert same_bits(pages.keys(page), keys)
        assert same_bits(pages.values(page), values)


def test_num_layers_is_informational() -> None:
    few, many = pool(num_layers=1), pool(num_layers=1000)
    assert few.total_count == many.total_count == 4
    assert few.keys(some_page(few)).shape == many.keys(some_page(many)).shape == (2, 3, 4)
    assert many.num_layers == 1000


def test_allocate_gives_none_when_the_pool_is_exhausted() -> None:
    pages = pool(2)
    assert [pages.allocate() for _ in range(4)] == [0, 1, None, None]
    pages.free(0)
    assert [pages.allocate() for _ in range(2)] == [0, None]


@pytest.mark.parametrize("page", [0, 2, 4, -1, 2**32, 2**64])
@pytest.mark.parametrize("function", ["free", "keys", "values"])
def test_a_page_that_is_out_of_range_or_not_live_is_an_invalid_slot(
    function: str, page: int
) -> None:
    pages = pool(4)
    for _ in range(2):
        pages.allocate()
    pages.free(0)
    with refuses(
        InvalidSlotError, f"BlockPool.{function}", f"page id {page} is", unchanged=pages
    ) as raised:
        getattr(pages, function)(page)
    assert raised.value.slot == page


def test_contents_are_not_zeroed_by_free() -> None:
    pages = pool(2)
    page = some_page(pages)
    pages.keys(page)[:] = 7
    pages.values(page)[:] = 9
    pages.free(page)
    assert pages.allocate() == page
    assert (pages.keys(page) == 7).all()
    assert (pages.values(page) == 9).all()


def test_counts_and_utilization_follow_the_pages_in_use() -> None:
    pages = pool(4)
    assert (pages.free_count, pages.total_count, pages.utilization()) == (4, 4, 0.0)
    for used in range(1, 5):
        pages.allocate()
        assert (pages.free_count, pages.utilization()) == (4 - used, used / 4)
    pages.free(2)
    assert (pages.free_count, pages.total_count, pages.utilization()) == (1, 4, 0.75)


def test_utilization_is_zero_at_capacity_zero() -> None:
    pages = pool(0)
    assert pages.utilization() == 0.0
    assert (pages.free_count, pages.total_count) == (0, 0)
    assert pages.allocate() is None
    with refuses(InvalidSlotError, "BlockPool.free", "page id 0", unchanged=pages):
        pages.free(0)


def test_dimensions_can_be_read_back() -> None:
    pages = pool(dtype="float16")
    dimensions = pages.block_size, pages.num_layers, pages.num_kv_heads, pages.head_dim
    assert dimensions == (3, 5, 2, 4)
    assert pages.dtype == "float16"
    assert pool().dtype == "float32"


@pytest.mark.parametrize("name", ["block_size", "num_layers", "num_kv_heads", "head_dim"])
def test_a_dimension_below_one_is_a_shape_error(name: str) -> None:
    with refuses(ShapeError, "BlockPool", f"{name} is 0", "at least 1"):
        pool(**{name: 0})
    with refuses(ShapeError, "BlockPool", f"{name} is -3"):
        pool(**{name: -3})


def test_dimensions_that_no_array_can_have_are_a_shape_error() -> None:
    with refuses(ShapeError, "BlockPool", "a size beyond"):
        pool(num_kv_heads=2**40, head_dim=2**40)
    with refuses(ShapeError, "BlockPool", "a size beyond"):
        pool(2**31 - 1, num_kv_heads=2**20, head_dim=2**20)
    with refuses(CapacityError, "BlockAllocator", "capacity 2147483648"):
        pool(2**31)


def test_int4_rows_end_on_a_whole_byte() -> None:
    with refuses(ShapeError, "BlockPool", "head_dim 5 with int4", "even"):
        pool(head_dim=5, dtype="int4")


def test_an_unknown_dtype_is_unsupported() -> None:
    with refuses(UnsupportedError, "BlockPool", "complex64", "float64, float32"):
        pool(dtype="complex64")


def test_repr_shows_the_shape() -> None:
    assert repr(pool()) == (
        "BlockPool(capacity=4, block_size=3, num_layers=5, num_kv_heads=2, head_dim=4, "
        "dtype=float32, free=4)"
    )
