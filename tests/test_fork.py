"""After fork(): objects on the CPU go on working, in the child and in the parent."""

import os
import sys
import threading
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from pagedkv import (
    BlockAllocator,
    BlockPool,
    KvCache,
    PagedKvCache,
    PagedSeqState,
    SequencePool,
    SsmStateSpec,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")


def in_child(work: Callable[[], None]) -> None:
    """Does `work` in a forked process, which must end well."""
    with warnings.catch_warnings():
        # Python 3.12 warns when other threads run; this child leaves their locks alone.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            print(f"in the child: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_every_object_works_in_the_child_and_the_parents_is_untouched() -> None:
    alloc, state = BlockAllocator(8), PagedSeqState(4, 4)
    state.ensure_capacity(alloc, 5)
    pages = BlockPool(2, 4, 1, 2, 4)
    first = KvCache.paged(8, 2, 4, 4, 4, BlockAllocator(8))
    values = np.arange(3 * 2 * 4, dtype=np.float32).reshape(3, 2, 4)
    first.append(values, values)
    cache = PagedKvCache(40, 4)
    cache.append_tensor(np.ones((20, 4)))
    view = cache.as_tensor(copy=False)
    slots = SequencePool.ssm(2, SsmStateSpec(1, 1, 2, 2, 2, 3))
    slot = slots.ssm_slot_mut(slots.alloc_ssm(1))
    assert slot is not None

    def work() -> None:
        state.ensure_capacity(alloc, 16)
        state.len = 16
        state.sync_context_len()
        assert state.block_table_buf.tolist() == [0, 1, 2, 3]
        assert pages.allocate() == 0
        pages.keys(0)[:] = 1
        with first.share() as other:
            other.append(values, values)
            assert (other.to_dense()[0] == values).all()
        cache.append_tensor(np.zeros((20, 4)))
        cache.as_tensor(copy=False)
        slot.ssm_state[:] = 2
        slot.advance()
        assert slot.snapshot().position == 1
        slots.release_ssm(0)

    in_child(work)
    assert (state.blocks, state.len, alloc.in_use) == ([0, 1], 0, 2)
    assert pages.free_count == 2
    assert cache.len == 20
    assert (view == 1).all()
    assert (slot.position, slot.ssm_state.any()) == (0, False)


def test_a_child_of_a_busy_process_uses_what_is_its_own() -> None:
    cache, values = PagedKvCache(60_000, 128), np.ones((60_000, 128))
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            cache.clear()
            cache.append_tensor(values)

    other = threading.Thread(target=work)
    other.start()

    def in_the_child() -> None:
        mine = PagedKvCache(40, 4)
        mine.append_tensor(np.ones((40, 4)))
        assert mine.as_tensor().sum() == 160

    try:
        for _ in range(3):
            in_child(in_the_child)
    finally:
        stop.set()
        other.join()
