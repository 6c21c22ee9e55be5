"""NumPy views share memory, keep their owner alive, and crash nobody when the page is freed."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.processes import run_apart

from pagedkv import (
    BlockAllocator,
    BlockPool,
    BlockTable,
    KvCache,
    KvCachePool,
    PagedKvCache,
    PagedSeqState,
    SsmSnapshot,
    SsmStatePool,
    SsmStateSpec,
)

Array = np.ndarray[Any, np.dtype[Any]]
SPEC = SsmStateSpec(2, 2, 3, 4, 5, 4)


def block_pool() -> tuple[Any, list[Array]]:
    pool = BlockPool(2, 4, 1, 2, 8)
    page = pool.allocate()
    assert page is not None
    return pool, [pool.keys(page), pool.values(page)]


def kv_cache_pool() -> tuple[Any, list[Array]]:
    pool = KvCachePool(8, 2)
    return pool, [pool.page(pool.alloc())]


def contiguous_cache() -> tuple[Any, list[Array]]:
    cache = KvCache.contiguous(8, 2, 4)
    return cache, [cache.k, cache.v]


def paged_cache() -> tuple[Any, list[Array]]:
    cache = KvCache.paged(4, 2, 4, 2, 3, BlockAllocator(4))
    cache.append(np.ones((3, 2, 4), np.float32), np.ones((3, 2, 4), np.float32))
    return cache, [cache.k, cache.v]


def ssm_slot() -> tuple[Any, list[Array]]:
    pool = SsmStatePool(2, SPEC)
    slot = pool.slot(pool.alloc(1))
    assert slot is not None
    return pool, [slot.ssm_state, slot.conv_state]


def paged_kv_cache() -> tuple[Any, list[Array]]:
    cache = PagedKvCache(32, 4)
    cache.append_tensor(np.ones((20, 4)))
    return cache, [cache.as_tensor(copy=False)]


def seq_state() -> tuple[Any, list[Array]]:
    state = PagedSeqState(4, 4)
    return state, [state.block_table_buf, state.context_lens_buf]


def paged_cache_tables() -> tuple[Any, list[Array]]:
    cache, _ = paged_cache()
    return cache, [cache.block_table, cache.context_lens]


def ssm_slot_view() -> tuple[Any, list[Array]]:
    pool = SsmStatePool(2, SPEC)
    view = pool.slot_view(pool.alloc(1))
    assert view is not None
    return pool, [view.ssm_state, view.conv_state]


def ssm_snapshot() -> tuple[Any, list[Array]]:
    pool = SsmStatePool(2, SPEC)
    slot = pool.slot(pool.alloc(1))
    assert slot is not None
    snapshot: SsmSnapshot = slot.snapshot()
    return snapshot, [snapshot.ssm_state, snapshot.conv_state]


WRITABLE = [block_pool, kv_cache_pool, contiguous_cache, paged_cache, ssm_slot]
READ_ONLY = [paged_kv_cache, seq_state, paged_cache_tables, ssm_slot_view, ssm_snapshot]
Make = Callable[[], tuple[Any, list[Array]]]


@pytest.mark.parametrize("make", WRITABLE + READ_ONLY)
def test_a_view_shares_memory_and_keeps_its_owner_alive(make: Make) -> None:
    owner, views = make()
    alive = weakref.ref(owner)
    before = [view.copy() for view in views]
    del owner
    gc.collect()
    assert alive() is not None
    for view, values in zip(views, before, strict=True):
        assert not view.flags.owndata
        assert view.flags.c_contiguous
        assert view.flags.aligned
        assert np.array_equal(view, values)
    del view, views[1:]
    gc.collect()
    assert alive() is not None
    views.clear()
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("make", WRITABLE)
def test_what_is_written_through_a_view_is_seen_through_another(make: Make) -> None:
    owner, views = make()
    for index, view in enumerate(views):
        view[...] = index + 1
    for index, view in enumerate(views):
        assert (view == index + 1).all()
    assert owner is not None


@pytest.mark.parametrize("make", READ_ONLY)
def test_a_read_only_view_stays_read_only(make: Make) -> None:
    owner, views = make()
    for view in views:
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
        assert not view[...].flags.writeable
        assert not np.asarray(memoryview(view)).flags.writeable
    assert owner is not None


def test_a_new_view_shows_the_same_memory() -> None:
    pool, (keys, values) = block_pool()
    assert pool.keys(0).ctypes.data == keys.ctypes.data
    assert np.shares_memory(pool.values(0), values)
    assert not np.shares_memory(keys, values)


def test_tables_and_allocated_ids_are_copies() -> None:
    table = BlockTable(1, 4)
    table.append_block(0, 3)
    for array in table[0], table.as_array(), BlockAllocator(4).allocate_n(2):
        assert array.flags.owndata
        array[...] = 9
    assert table[0].tolist() == [3]


def test_views_follow_the_device_as_it_is_written() -> None:
    alloc, state = BlockAllocator(4), PagedSeqState(4, 4)
    table, length = state.block_table_buf, state.context_lens_buf
    state.ensure_capacity(alloc, 8)
    state.len = 7
    state.sync_context_len()
    assert table.tolist() == [0, 1, -1, -1]
    assert length.tolist() == [7]


def test_views_of_freed_pages_crash_nothing() -> None:
    run_apart(
        """
        import gc
        import numpy as np
        from pagedkv import BlockPool, KvCachePool

        pool, slabs = BlockPool(8, 16, 1, 4, 64), KvCachePool(4096, 8)
        views = []
        for _ in range(50):
            pages = [pool.allocate() for _ in range(8)]
            views += [view for page in pages for view in (pool.keys(page), pool.values(page))]
            for page in pages:
                pool.free(page)
            ids = [slabs.alloc() for _ in range(8)]
            views += [slabs.page(page) for page in ids]
            for page in ids:
                slabs.free(page)
        for view in views:
            view[...] += 1  # freed, handed out again, freed again: still memory of the pool
        page = pool.allocate()
        pool.keys(page)[...] = 5
        assert (views[2 * page] == 5).all()
        del pool, slabs
        gc.collect()
        for view in views:
            view[...] += 1
        """
    )


def test_views_of_released_slots_crash_nothing() -> None:
    run_apart(
        """
        import gc
        from pagedkv import InvalidSlotError, SsmStatePool, SsmStateSpec

        pool = SsmStatePool(4, SsmStateSpec(2, 4, 16, 16, 32, 4))
        slots, views = [], []
        for request in range(200):
            slot = pool.slot(pool.alloc(request))
            slots.append(slot)
            views += [slot.ssm_state, slot.conv_state, pool.slot_view(slot.index).ssm_state]
            views[-3][...] = request
            if request % 4 == 3:
                for other in slots[-4:]:
                    pool.release(other.index)
        for view in views:
            assert view.sum() is not None
            if view.flags.writeable:
                view[...] = 1
        fresh = pool.slot(pool.alloc(9))
        assert not fresh.ssm_state.any()
        del pool
        gc.collect()
        assert fresh.request_id == 9
        for slot in slots:
            try:
                slot.ssm_state
            except InvalidSlotError:
                continue
            raise SystemExit("a released slot was readable")
        """
    )


def test_views_of_caches_crash_nothing_after_append_clear_and_del() -> None:
    run_apart(
        """
        import gc
        import numpy as np
        from pagedkv import BlockAllocator, KvCache, PagedKvCache

        cache = PagedKvCache(1000, 32)
        views = []
        for round in range(20):
            cache.append_tensor(np.full((700, 32), round))
            views.append(cache.as_tensor(copy=False))
            cache.append(np.zeros(32))
            cache.clear()
            views.append(cache.as_tensor(copy=False))
        del cache
        gc.collect()
        assert sum(view.sum() for view in views) == 20 * 19 * 700 * 32

        alloc = BlockAllocator(64)
        first = KvCache.paged(64, 2, 8, 4, 32, alloc)
        ones = np.ones((100, 2, 8), np.float32)
        for _ in range(20):
            with first.share() as other:
                other.append(ones, ones)
                views += [other.k, other.v, other.block_table, other.context_lens]
        del first, other
        gc.collect()
        for view in views:
            assert view.sum() is not None
            if view.flags.writeable:
                view[...] = 2
        """
    )
