"""The error tree, and what every message looks like."""

import copy

import pytest

import pagedkv
from pagedkv import errors


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (errors.PagedKvError, {Exception}),
        (errors.PoolError, {errors.PagedKvError}),
        (errors.PoolExhaustedError, {errors.PoolError, MemoryError}),
        (errors.InvalidSlotError, {errors.PoolError, IndexError}),
        (errors.ShapeError, {errors.PagedKvError, ValueError}),
        (errors.CapacityError, {errors.PagedKvError}),
        (errors.UnsupportedError, {errors.PagedKvError}),
        (errors.SequenceError, {errors.PagedKvError, KeyError}),
    ],
)
def test_every_error_has_its_place_in_the_tree(error: type, bases: set[type]) -> None:
    assert set(error.__bases__) == bases
    assert getattr(pagedkv, error.__name__) is error
    assert error.__name__ in errors.__all__


def test_the_tree_is_complete() -> None:
    tree = {name for name in dir(errors) if name.endswith("Error")}
    assert tree == set(errors.__all__)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_shows_its_message_plainly(name: str) -> None:
    error = getattr(errors, name)("[Type.function] given; expected")
    assert str(error) == "[Type.function] given; expected"
    assert str(getattr(errors, name)()) == ""


def test_pool_exhausted_tells_how_many_were_needed_and_free() -> None:
    alloc = pagedkv.BlockAllocator(5)
    alloc.allocate_n(3)
    with pytest.raises(MemoryError) as raised:
        alloc.allocate_n(4)
    assert isinstance(raised.value, errors.PoolExhaustedError)
    assert (raised.value.needed, raised.value.free) == (4, 2)
    assert str(raised.value) == (
        "[BlockAllocator.allocate_n] 4 needed, 2 free; expected as many free as are needed"
    )


@pytest.mark.parametrize("slot", [7, -1, 2**64, -(2**70)])
def test_invalid_slot_tells_which_slot_whatever_integer_it_was(slot: int) -> None:
    alloc = pagedkv.BlockAllocator(5)
    with pytest.raises(IndexError) as raised:
        alloc.free(slot)
    assert isinstance(raised.value, errors.InvalidSlotError)
    assert raised.value.slot == slot
    assert str(slot) in str(raised.value)


def test_an_invalid_slot_that_no_slot_could_have_been_is_the_largest_of_64_bits() -> None:
    assert errors.InvalidSlotError.NO_SLOT == 2**64 - 1
    assert errors.InvalidSlotError("x").slot == 2**64 - 1


def test_a_copy_of_an_error_tells_the_same() -> None:
    alloc = pagedkv.BlockAllocator(1)
    with pytest.raises(errors.PoolExhaustedError) as exhausted:
        alloc.allocate_n(2)
    twin = copy.copy(exhausted.value)
    assert (str(twin), twin.needed, twin.free) == (str(exhausted.value), 2, 1)
    with pytest.raises(errors.InvalidSlotError) as invalid:
        alloc.free(9)
    assert copy.copy(invalid.value).slot == 9


def test_an_error_in_a_callback_of_the_caller_is_the_callers() -> None:
    class Odd:
        def __index__(self) -> int:
            raise ZeroDivisionError("mine")

    alloc = pagedkv.BlockAllocator(4)
    for call in (alloc.allocate_n, alloc.free, alloc.ref_count, alloc.is_live):
        with pytest.raises(ZeroDivisionError, match="mine"):
            call(Odd())
