"""BlockAllocator: ids alone, reference-counted."""

from typing import Any

import numpy as np
import pytest
from support.errors import refuses

from pagedkv import (
    BlockAllocator,
    CapacityError,
    InvalidSlotError,
    PoolExhaustedError,
    ShapeError,
)

LISTS = [
    pytest.param(list, id="list"),
    pytest.param(tuple, id="tuple"),
    pytest.param(lambda ids: np.array(ids, dtype=np.int32), id="int32"),
    pytest.param(lambda ids: np.array(ids, dtype=np.int64), id="int64"),
    pytest.param(lambda ids: np.array(ids, dtype=np.uint8), id="uint8"),
    pytest.param(lambda ids: np.array(ids, dtype=">i4"), id="big-endian"),
    pytest.param(lambda ids: np.repeat(np.array(ids, dtype=np.int32), 2)[::2], id="strided"),
    pytest.param(lambda ids: unaligned(ids), id="unaligned"),
]


def unaligned(ids: list[int]) -> np.ndarray[Any, Any]:
    raw = np.zeros(4 * len(ids) + 1, dtype=np.uint8)
    view = raw[1:].view(np.int32)
    view[:] = ids
    assert not view.flags.aligned
    return view


def test_fresh_ids_come_zero_first() -> None:
    alloc = BlockAllocator(3)
    assert [alloc.allocate() for _ in range(3)] == [0, 1, 2]


def test_an_id_that_was_given_back_comes_again_before_a_fresh_one_last_in_first_out() -> None:
    alloc = BlockAllocator(10)
    alloc.allocate_n(4)
    alloc.free(1)
    alloc.free(3)
    assert [alloc.allocate() for _ in range(3)] == [3, 1, 4]


def test_allocate_n_takes_ids_in_the_order_of_single_allocations() -> None:
    alloc, other = BlockAllocator(10), BlockAllocator(10)
    for each in (alloc, other):
        each.allocate_n(5)
        each.free([0, 4, 2])
    assert alloc.allocate_n(6).tolist() == [other.allocate() for _ in range(6)]


def test_allocate_n_gives_an_int32_array() -> None:
    ids = BlockAllocator(4).allocate_n(3)
    assert ids.dtype == np.int32
    assert ids.shape == (3,)
    assert ids.flags.owndata
    assert BlockAllocator(4).allocate_n(0).shape == (0,)
    assert BlockAllocator(4).allocate_n(np.int64(2)).tolist() == [0, 1]


def test_allocate_raises_when_none_is_free() -> None:
    alloc = BlockAllocator(1)
    alloc.allocate()
    with refuses(
        PoolExhaustedError, "BlockAllocator.allocate", "1 needed, 0 free", unchanged=alloc
    ) as raised:
        alloc.allocate()
    assert (raised.value.needed, raised.value.free) == (1, 0)


@pytest.mark.parametrize("n", [3, 5, 2**31, 2**64 - 1])
def test_allocate_n_is_all_or_nothing(n: int) -> None:
    alloc = BlockAllocator(4)
    alloc.allocate_n(2)
    with refuses(
        PoolExhaustedError, "BlockAllocator.allocate_n", f"{n} needed, 2 free", unchanged=alloc
    ):
        alloc.allocate_n(n)
    assert alloc.allocate_n(2).tolist() == [2, 3]


@pytest.mark.parametrize("n", [-1, 2**64, -(2**80)])
def test_allocate_n_of_no_size_is_a_shape_error(n: int) -> None:
    alloc = BlockAllocator(4)
    with refuses(
        ShapeError, "BlockAllocator.allocate_n", f"n is {n}", "0 to 2^64 - 1", unchanged=alloc
    ):
        alloc.allocate_n(n)


def test_acquire_holds_an_id_once_more() -> None:
    alloc = BlockAllocator(4)
    block = alloc.allocate()
    alloc.acquire(block)
    alloc.acquire([block, block])
    assert alloc.ref_count(block) == 4
    for _ in range(3):
        alloc.free(block)
        assert block in alloc
    alloc.free(block)
    assert block not in alloc
    assert alloc.in_use == 0


@pytest.mark.parametrize("make", LISTS)
def test_lists_and_arrays_of_ids_are_taken_whatever_their_kind(make: Any) -> None:
    alloc = BlockAllocator(8)
    alloc.allocate_n(5)
    alloc.acquire(make([1, 3, 1]))
    assert [alloc.ref_count(block) for block in range(5)] == [1, 3, 1, 2, 1]
    alloc.free(make([1, 4, 1, 3]))
    assert [alloc.ref_count(block) for block in range(5)] == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("function", ["acquire", "free"])
@pytest.mark.parametrize("make", LISTS)
def test_a_list_with_an_id_that_is_not_live_changes_nothing(make: Any, function: str) -> None:
    alloc = BlockAllocator(8)
    alloc.allocate_n(5)
    alloc.free(2)
    for ids, culprit in ([0, 1, 2, 3], 2), ([0, 7], 7), ([0, 8], 8), ([9, 0], 9):
        with refuses(
            InvalidSlotError,
            f"BlockAllocator.{function}",
            f"block id {culprit} is",
            unchanged=alloc,
        ) as raised:
            getattr(alloc, function)(make(ids))
        assert raised.value.slot == culprit


@pytest.mark.parametrize("function", ["acquire", "free"])
@pytest.mark.parametrize("ids", [[0, -1], [0, 2**31], [0, 2**32], [0, 2**63], [-(2**63)]])
@pytest.mark.parametrize("make", [list, np.array])
def test_an_id_that_no_int32_holds_is_an_invalid_slot(
    ids: list[int], function: str, make: Any
) -> None:
    alloc = BlockAllocator(8)
    alloc.allocate_n(5)
    given = np.array(ids, dtype=np.uint64) if make is np.array and max(ids) == 2**63 else make(ids)
    with refuses(
        InvalidSlotError, f"BlockAllocator.{function}", str(ids[-1]), "less than 8", unchanged=alloc
    ) as raised:
        getattr(alloc, function)(given)
    assert raised.value.slot == ids[-1]


def test_freeing_an_id_more_often_than_it_is_held_changes_nothing() -> None:
    alloc = BlockAllocator(4)
    alloc.allocate_n(2)
    alloc.acquire(0)
    alloc.free([0, 1, 0])
    alloc.allocate_n(2)
    alloc.acquire(1)
    with refuses(
        InvalidSlotError,
        "BlockAllocator.free",
        "block id 0 is not live",
        "one that is held",
        unchanged=alloc,
    ):
        alloc.free([0, 1, 1, 0])


def test_a_failed_free_leaves_the_order_of_reuse_as_it_was() -> None:
    alloc, other = BlockAllocator(6), BlockAllocator(6)
    for each in (alloc, other):
        each.allocate_n(6)
        each.free([2, 5])
    with pytest.raises(InvalidSlotError):
        alloc.free([0, 1, 3, 2])
    assert alloc.allocate_n(2).tolist() == other.allocate_n(2).tolist()


def test_a_single_id_that_is_not_live_is_an_invalid_slot() -> None:
    alloc = BlockAllocator(2)
    for block in (0, 1, 2, 10**30, -1):
        for call in (alloc.free, alloc.acquire):
            where = f"BlockAllocator.{call.__name__}"
            with refuses(InvalidSlotError, where, f"block id {block} is", unchanged=alloc):
                call(block)


def test_ref_count_is_zero_for_a_free_id_and_an_error_out_of_range() -> None:
    alloc = BlockAllocator(2)
    assert alloc.ref_count(1) == 0
    block = alloc.allocate()
    assert alloc.ref_count(block) == 1
    for outside in (2, -1):
        with refuses(
            InvalidSlotError,
            "BlockAllocator.ref_count",
            f"{outside} is out of range",
            "less than 2",
        ):
            alloc.ref_count(outside)


def test_any_integer_may_be_asked_whether_it_is_live() -> None:
    alloc = BlockAllocator(3)
    alloc.allocate()
    assert alloc.is_live(0)
    assert 0 in alloc
    assert np.int32(0) in alloc
    for block in (1, 3, -1, 2**40, 2**64, -(2**90)):
        assert not alloc.is_live(block)
        assert block not in alloc


def test_counts_add_up() -> None:
    alloc = BlockAllocator(5)
    assert (alloc.capacity, alloc.free_count, alloc.in_use, alloc.peak_in_use) == (5, 5, 0, 0)
    ids = alloc.allocate_n(4)
    alloc.acquire(ids)
    alloc.free(ids)
    alloc.free(ids[:3])
    assert (alloc.capacity, alloc.free_count, alloc.in_use, alloc.peak_in_use) == (5, 4, 1, 4)
    alloc.allocate()
    assert alloc.peak_in_use == 4


def test_a_capacity_of_zero_is_legal_and_always_exhausted() -> None:
    alloc = BlockAllocator(0)
    assert (alloc.capacity, alloc.free_count, alloc.in_use) == (0, 0, 0)
    assert alloc.allocate_n(0).size == 0
    with refuses(PoolExhaustedError, "BlockAllocator.allocate", unchanged=alloc):
        alloc.allocate()
    with refuses(InvalidSlotError, "BlockAllocator.free", "block id 0", unchanged=alloc):
        alloc.free(0)


def test_a_capacity_is_what_int32_ids_allow() -> None:
    with refuses(CapacityError, "BlockAllocator", "2147483648", "at most 2147483647"):
        BlockAllocator(2**31)
    for capacity in (-1, 2**64):
        with refuses(ShapeError, "BlockAllocator", f"capacity is {capacity}"):
            BlockAllocator(capacity)


@pytest.mark.parametrize(
    "ids",
    [np.zeros((1, 1), np.int32), np.array(0), np.array([0.0]), np.array([True]), np.array(["a"])],
)
def test_an_array_that_is_no_list_of_integers_is_a_shape_error(ids: Any) -> None:
    alloc = BlockAllocator(2)
    alloc.allocate()
    for call in (alloc.free, alloc.acquire):
        with refuses(
            ShapeError,
            f"BlockAllocator.{call.__name__}",
            str(ids.dtype),
            "1-D array of integers",
            unchanged=alloc,
        ):
            call(ids)


@pytest.mark.parametrize("ids", [[0, 0.0], [[0]], ["0"], "0", [None], {"0": 0}])
def test_a_list_of_anything_but_integers_is_a_type_error(ids: Any) -> None:
    alloc = BlockAllocator(2)
    alloc.allocate()
    for call in (alloc.free, alloc.acquire):
        with refuses(
            TypeError,
            f"BlockAllocator.{call.__name__}",
            "a block id of type",
            "integers",
            unchanged=alloc,
        ):
            call(ids)


def test_empty_lists_of_ids_are_fine() -> None:
    alloc = BlockAllocator(2)
    for nothing in ([], (), np.array([], dtype=np.int32), np.array([], dtype=np.int64)):
        alloc.acquire(nothing)
        alloc.free(nothing)


def test_repr_shows_capacity_and_use() -> None:
    alloc = BlockAllocator(4)
    alloc.allocate_n(3)
    assert repr(alloc) == "BlockAllocator(capacity=4, in_use=3)"
