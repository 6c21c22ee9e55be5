"""Nothing is pickled: the objects refuse and say what to do instead."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import pagedkv
from pagedkv import (
    BlockAllocator,
    BlockPool,
    BlockTable,
    FullAttention,
    KvCache,
    KVCacheManager,
    KvCachePool,
    PagedKvCache,
    PagedSeqState,
    SequencePool,
    SsmStatePool,
    SsmStateSpec,
)

SPEC = SsmStateSpec(1, 2, 3, 4, 5, 4)


def slots() -> tuple[Any, ...]:
    pool = SsmStatePool(1, SPEC)
    index = pool.alloc(1)
    slot = pool.slot(index)
    assert slot is not None
    return slot, pool.slot_view(index), slot.snapshot()


def manager() -> KVCacheManager:
    m = KVCacheManager(2, 1, events=True)
    m.add(1, [5])
    m.acquire([1])
    m.schedule([1], [1])
    m.commit([1], [1])
    return m


OBJECTS: dict[str, Callable[[], Any]] = {
    "Batch": lambda: manager().schedule([], []),
    "BlockAllocator": lambda: BlockAllocator(2),
    "BlockPool": lambda: BlockPool(2, 4, 1, 2, 4),
    "BlockTable": lambda: BlockTable(2, 4),
    "CacheEvent": lambda: manager().take_events()[0],
    "GroupBatch": lambda: manager().schedule([], [])[0],
    "GroupSpec": lambda: FullAttention(block_size=4),
    "KVCacheManager": manager,
    "KvCache": lambda: KvCache.contiguous(4, 2, 4),
    "KvCachePool": lambda: KvCachePool(4, 2),
    "PagedKvCache": lambda: PagedKvCache(4, 2),
    "PagedSeqState": lambda: PagedSeqState(4, 4),
    "ReuseStats": lambda: manager().salt_stats(b""),
    "SequencePool": lambda: SequencePool.kv(4, 2),
    "SsmSlot": lambda: slots()[0],
    "SsmSlotView": lambda: slots()[1],
    "SsmSnapshot": lambda: slots()[2],
    "SsmStatePool": lambda: SsmStatePool(2, SPEC),
    "SsmStateSpec": lambda: SPEC,
    "Stats": lambda: manager().stats(),
}
COPYABLE = {
    "BlockTable",
    "CacheEvent",
    "GroupSpec",
    "PagedKvCache",
    "ReuseStats",
    "SsmSnapshot",
    "SsmStateSpec",
    "Stats",
}


def test_every_class_is_tried_here() -> None:
    classes = {
        name
        for name in pagedkv.__all__
        if isinstance(getattr(pagedkv, name), type) and not name.endswith("Error")
    }
    assert classes == set(OBJECTS)
    for name, make in OBJECTS.items():
        assert type(make()) is getattr(pagedkv, name)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", OBJECTS)
def test_pickling_is_a_type_error_that_says_what_to_do(name: str, protocol: int) -> None:
    form = rf"^\[{name}\] cannot be pickled or copied; \w.+"
    for value in OBJECTS[name](), [OBJECTS[name]()], {"key": OBJECTS[name]()}:
        with pytest.raises(TypeError, match=form):
            pickle.dumps(value, protocol)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("name", sorted(OBJECTS.keys() - COPYABLE))
def test_copying_what_holds_blocks_is_a_type_error(name: str, copied: Any) -> None:
    with pytest.raises(TypeError, match=rf"^\[{name}\] cannot be pickled or copied; \w.+"):
        copied(OBJECTS[name]())


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("name", sorted(COPYABLE))
def test_copying_what_holds_values_alone_works(name: str, copied: Any) -> None:
    value = OBJECTS[name]()
    assert repr(copied(value)) == repr(value)
    assert repr(copied([value])[0]) == repr(value)
