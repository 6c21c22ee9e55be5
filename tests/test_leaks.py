"""No call, also none that fails, keeps a reference or memory behind."""

import gc
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
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
    SequencePool,
    SsmSnapshot,
    SsmStatePool,
    SsmStateSpec,
)

TIMES = 100
SPEC = SsmStateSpec(1, 2, 3, 4, 5, 4)

alloc = BlockAllocator(64)
ids = alloc.allocate_n(8)
listed = [int(block) for block in ids]
pool = BlockPool(4, 4, 1, 2, 4)
pool.allocate()
table = BlockTable(2, 4)
table.append_block(0, 1)
state = PagedSeqState(4, 16)
keys = np.ones((3, 2, 4), np.float32)
shared = KvCache.paged(16, 2, 4, 4, 8, BlockAllocator(16))
cache = PagedKvCache(64, 4)
cache.append_tensor(np.ones((20, 4)))
token = np.ones(4)
other_token = [1.0, 2.0, 3.0, 4.0]
slabs = KvCachePool(8, 4)
slabs.alloc()
slots = SequencePool.ssm(4, SPEC)
slots.alloc_ssm(1)
slot = slots.ssm_slot_mut(0)
assert slot is not None
saved = slot.snapshot()
damaged = saved.to_bytes()[:-1]


def grow_and_release() -> None:
    state.ensure_capacity(alloc, 20)
    state.len = 20
    state.sync_context_len()
    state.release(alloc)


def append_and_release() -> None:
    with shared.share() as sequence:
        sequence.append(keys, keys)
        sequence.append(keys.tolist(), keys.transpose(0, 1, 2))
        sequence.to_dense()
        sequence.truncate(1)


def append_and_clear() -> None:
    cache.clear()
    cache.append(token)
    cache.append(other_token)
    cache.append_tensor(cache.as_tensor(copy=False))


def fails(call: Callable[..., object], *arguments: Any) -> Callable[[], object]:
    def attempt() -> None:
        with suppress(Exception):
            call(*arguments)
            raise AssertionError("it did not fail")

    return attempt


CALLS: dict[str, Callable[[], object]] = {
    "allocate": lambda: alloc.free(alloc.allocate()),
    "allocate_n": lambda: alloc.free(alloc.allocate_n(20)),
    "acquire": lambda: (alloc.acquire(ids), alloc.free(ids)),
    "ids in a list": lambda: (alloc.acquire(listed), alloc.free(listed)),
    "ids as int64": lambda: (alloc.acquire(ids.astype(np.int64)), alloc.free(ids)),
    "ref_count": lambda: (alloc.ref_count(3), 3 in alloc, alloc.in_use, repr(alloc)),
    "block pool": lambda: (pool.free(pool.allocate() or 0), pool.keys(0), pool.values(0)),
    "table": lambda: (table.append_block(1, 2), table.as_array(), list(table), table == table),
    "table truncate": lambda: table.truncate(1, 0),
    "sequence state": grow_and_release,
    "state buffers": lambda: (state.blocks, state.block_table_buf, state.context_lens_buf),
    "kv cache": append_and_release,
    "kv cache views": lambda: (shared.k, shared.v, shared.block_table, shared.allocator),
    "paged kv cache": append_and_clear,
    "as_tensor": lambda: (cache.as_tensor(), cache.as_tensor(copy=False), np.asarray(cache)),
    "tokens": lambda: (cache[0], cache[-1:], cache.get_token(0), list(cache), cache.clone()),
    "slabs": lambda: (slabs.free(slabs.alloc()), slabs.page(0)),
    "slots": lambda: (slots.release_ssm(slots.alloc_ssm(2)), slots.ssm_slot(0), slots.ssm_slot(9)),
    "slot": lambda: (slot.ssm_state, slot.conv_state, slot.advance(), slot.restore(saved)),
    "snapshot": lambda: SsmSnapshot.from_bytes(slot.snapshot().to_bytes()).ssm_state,
    "constructors": lambda: (BlockAllocator(9), SsmStatePool(1, SPEC), KvCachePool(4, 2, "int8")),
    "exhausted": fails(alloc.allocate_n, 1000),
    "free of a dead id": fails(alloc.free, 60),
    "free of a dead list": fails(alloc.free, [0, 1, 60]),
    "free of a float": fails(alloc.free, 1.5),
    "size out of range": fails(alloc.allocate_n, -1),
    "wrong shape": fails(cache.append, np.ones(3)),
    "no array": fails(cache.append, None),
    "ragged list": fails(cache.append_tensor, [[1], [2, 3]]),
    "wrong dtype": fails(shared.append, keys.astype(np.float64), keys),
    "wrong out": fails(lambda: cache.as_tensor(out=token)),
    "unknown dtype": fails(KvCachePool, 4, 4, "float31"),
    "damaged snapshot": fails(SsmSnapshot.from_bytes, damaged),
    "pickle": fails(cache.__reduce_ex__, 2),
    "no overload": fails(cache.append),
}
WATCHED = [alloc, ids, listed, pool, table, state, keys, shared, cache, token, other_token, slabs,
           slots, slot, saved, damaged, SPEC, np.dtype(np.float64), np.dtype(np.float32),
           np.dtype(np.int32), BlockAllocator, KvCache, "float32", NotImplemented]  # fmt: skip


def grown_by(call: Callable[[], object]) -> int:
    """Bytes of Python's memory that TIMES calls have added."""
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(TIMES):
        call()
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - before


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_no_reference_and_no_memory_behind(name: str) -> None:
    call = CALLS[name]
    call()
    gc.collect()  # first: garbage of other tests holds references, too
    references = [sys.getrefcount(each) for each in WATCHED]
    gc.freeze()  # what the other tests hold need not be looked through again and again
    tracemalloc.start()
    try:
        # Caches of Python and NumPy fill, and are then full; a leak of the smallest object goes on.
        assert any(grown_by(call) < 10 * TIMES for _ in range(20))
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    now = [sys.getrefcount(each) for each in WATCHED]
    changed = [
        (type(each).__name__, after - count)
        for each, count, after in zip(WATCHED, references, now, strict=True)
        if abs(after - count) > TIMES // 10
    ]
    assert changed == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource module")
def test_memory_of_the_core_is_given_back() -> None:
    run_apart(
        """
        import resource
        import sys
        import numpy as np
        from pagedkv import (
            BlockAllocator, BlockPool, KvCache, KvCachePool, PagedKvCache, SsmStatePool,
            SsmStateSpec,
        )

        rows = np.ones((2048, 128))  # 2 MiB, as everything here
        keys = np.ones((400, 8, 128), np.float32)

        def round():
            cache = PagedKvCache(2048, 128)
            cache.append_tensor(rows)
            cache.clone().as_tensor()
            BlockPool(16, 16, 1, 8, 128)
            KvCachePool(1 << 19, 1)
            first = KvCache.paged(32, 8, 128, 16, 32, BlockAllocator(32))
            first.share().append(keys, keys)
            slots = SsmStatePool(2, SsmStateSpec(4, 8, 64, 128, 0, 1))
            snapshot = slots.slot(slots.alloc(1)).snapshot()
            type(snapshot).from_bytes(snapshot.to_bytes())

        def most():
            kib = 1 if sys.platform != "darwin" else 1024
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // kib

        def grown():
            before = most()
            for _ in range(10):
                round()
            return most() - before

        # The allocator's holes fill, and are then full; a leak goes on.
        windows = [grown() for _ in range(4)]
        assert min(windows) < 10_000, windows
        """
    )
