"""SequencePool: one pool a model, of pages or of slots."""

import copy
from typing import Any

import numpy as np
import pytest
from support.errors import refuses

from pagedkv import (
    InvalidSlotError,
    KvCachePool,
    PoolExhaustedError,
    SequencePool,
    ShapeError,
    SsmSlot,
    SsmSlotView,
    SsmStatePool,
    SsmStateSpec,
)

SPEC = SsmStateSpec(1, 2, 3, 4, 5, 4)


def kv(num_pages: int = 2) -> SequencePool:
    return SequencePool.kv(8, num_pages)


def ssm(capacity: int = 2) -> SequencePool:
    return SequencePool.ssm(capacity, SPEC)


def test_a_kv_pool_hands_out_pages() -> None:
    pool = kv()
    assert (pool.is_kv_based, pool.is_ssm) == (True, False)
    assert [pool.alloc_kv(), pool.alloc_kv()] == [0, 1]
    pool.free_kv(0)
    assert pool.alloc_kv() == 0
    assert isinstance(pool.pool, KvCachePool)
    assert pool.pool.page_size == 8


def test_an_ssm_pool_hands_out_slots() -> None:
    pool = ssm()
    assert (pool.is_kv_based, pool.is_ssm) == (False, True)
    assert [pool.alloc_ssm(10), pool.alloc_ssm(11)] == [0, 1]
    pool.release_ssm(1)
    assert pool.alloc_ssm(12) == 1
    assert isinstance(pool.pool, SsmStatePool)
    assert pool.pool.spec == SPEC


def test_the_dtype_of_pages_can_be_told() -> None:
    assert SequencePool.kv(8, 1).pool.dtype == "float32"  # type: ignore[union-attr]
    assert SequencePool.kv(8, 1, "bfloat16").pool.dtype == "bfloat16"  # type: ignore[union-attr]


def test_a_full_pool_raises() -> None:
    pages, slots = kv(1), ssm(1)
    pages.alloc_kv()
    slots.alloc_ssm(1)
    with refuses(PoolExhaustedError, "KvCachePool.alloc", "0 free", unchanged=pages):
        pages.alloc_kv()
    with refuses(PoolExhaustedError, "SsmStatePool.alloc", "0 free", unchanged=slots):
        slots.alloc_ssm(2)


def test_allocating_from_a_pool_of_the_wrong_kind_is_an_invalid_slot_that_is_no_slot() -> None:
    pages, slots = kv(), ssm()
    with refuses(
        InvalidSlotError, "SequencePool.alloc_ssm", "a KV pool", "an SSM pool", unchanged=pages
    ) as raised:
        pages.alloc_ssm(1)
    assert raised.value.slot == 2**64 - 1
    with refuses(
        InvalidSlotError, "SequencePool.alloc_kv", "an SSM pool", "a KV pool", unchanged=slots
    ) as raised:
        slots.alloc_kv()
    assert raised.value.slot == 2**64 - 1


@pytest.mark.parametrize("slot", [0, 5, -1, 2**70, np.int32(3)])
def test_giving_back_to_a_pool_of_the_wrong_kind_is_an_invalid_slot(slot: Any) -> None:
    pages, slots = kv(), ssm()
    pages.alloc_kv()
    slots.alloc_ssm(1)
    with refuses(
        InvalidSlotError, "SequencePool.release_ssm", "a KV pool", unchanged=pages
    ) as raised:
        pages.release_ssm(slot)
    assert raised.value.slot == slot
    assert type(raised.value.slot) is int
    with refuses(
        InvalidSlotError, "SequencePool.free_kv", "an SSM pool", unchanged=slots
    ) as raised:
        slots.free_kv(slot)
    assert raised.value.slot == slot


def test_the_slots_of_a_kv_pool_are_none() -> None:
    pages = kv()
    page = pages.alloc_kv()
    assert pages.ssm_slot(page) is None
    assert pages.ssm_slot_mut(page) is None


@pytest.mark.parametrize("slot", [1, 2, 3, -1, 2**64])
def test_an_id_that_is_out_of_range_or_already_free_is_an_invalid_slot(slot: int) -> None:
    pages, slots = kv(3), ssm(3)
    for _ in range(2):
        pages.alloc_kv()
        slots.alloc_ssm(1)
    pages.free_kv(1)
    slots.release_ssm(1)
    with refuses(
        InvalidSlotError, "KvCachePool.free", f"page {slot} is", unchanged=pages
    ) as raised:
        pages.free_kv(slot)
    assert raised.value.slot == slot
    with refuses(
        InvalidSlotError, "SsmStatePool.release", f"slot {slot} is", unchanged=slots
    ) as raised:
        slots.release_ssm(slot)
    assert raised.value.slot == slot


def test_ssm_slot_is_for_reading_and_ssm_slot_mut_for_writing() -> None:
    pool = ssm()
    index = pool.alloc_ssm(7)
    reader, writer = pool.ssm_slot(index), pool.ssm_slot_mut(index)
    assert isinstance(reader, SsmSlotView)
    assert isinstance(writer, SsmSlot)
    writer.ssm_state[:] = 3
    writer.advance(2)
    assert (reader.ssm_state == 3).all()
    assert (reader.position, reader.request_id) == (2, 7)
    assert not reader.ssm_state.flags.writeable


@pytest.mark.parametrize("slot", [0, 1, 2, -1, 2**64])
def test_a_slot_that_is_not_live_is_none(slot: int) -> None:
    pool = ssm()
    pool.release_ssm(pool.alloc_ssm(1))
    assert pool.ssm_slot(slot) is None
    assert pool.ssm_slot_mut(slot) is None


def test_a_pool_that_is_already_there_can_be_wrapped() -> None:
    pages = KvCachePool(8, 2)
    pool = SequencePool(pages)
    assert pool.pool is pages
    pool.alloc_kv()
    assert pages.used_count == 1
    with refuses(TypeError, "SequencePool", "list", "KvCachePool or an SsmStatePool"):
        SequencePool([])  # type: ignore[arg-type]


def test_sizes_are_checked_by_the_pool_itself() -> None:
    with refuses(ShapeError, "KvCachePool", "page_size is 0"):
        SequencePool.kv(0, 1)
    with refuses(ShapeError, "SsmStatePool", "capacity is -1"):
        SequencePool.ssm(-1, SPEC)


@pytest.mark.parametrize("wrong", [None, 1.5, "0", [0]])
@pytest.mark.parametrize("make", [kv, ssm])
def test_an_id_that_is_no_integer_is_a_type_error(make: Any, wrong: Any) -> None:
    pool = make()
    for call in pool.free_kv, pool.release_ssm:
        with pytest.raises(TypeError):
            call(wrong)


@pytest.mark.parametrize("make", [kv, ssm])
def test_a_pool_cannot_be_copied(make: Any) -> None:
    with refuses(TypeError, "SequencePool", "cannot be pickled or copied"):
        copy.copy(make())


def test_repr_shows_the_pool() -> None:
    assert repr(kv()) == f"SequencePool({KvCachePool(8, 2)!r})"
    assert repr(ssm()) == f"SequencePool({SsmStatePool(2, SPEC)!r})"
