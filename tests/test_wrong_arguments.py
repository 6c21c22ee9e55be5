"""Every function with every kind of wrong argument: a clear error or a right result, no crash."""

import itertools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from support.errors import FORM
from support.state import state_of

import pagedkv
from pagedkv import (
    BlockAllocator,
    BlockPool,
    BlockTable,
    KvCache,
    KvCachePool,
    PagedKvCache,
    PagedKvError,
    PagedSeqState,
    SequencePool,
    SsmSnapshot,
    SsmStatePool,
    SsmStateSpec,
)

SPEC = SsmStateSpec(1, 2, 3, 4, 5, 4)


class Broken:
    """Fails whatever it is asked for."""

    def __index__(self) -> int:
        raise TypeError("broken")

    def __array__(self, *args: object, **kwargs: object) -> Any:
        raise ValueError("broken")


WRONG: dict[str, Any] = {
    "None": None,
    "negative": -1,
    "2**31": 2**31,
    "2**63": 2**63,
    "2**64": 2**64,
    "a googol": 10**100,
    "float": 1.0,
    "nan": float("nan"),
    "Decimal": Decimal(1),
    "complex": 1j,
    "str": "1",
    "str with NUL": "cpu\0",
    "lone surrogate": "\ud800",
    "bytes": b"\1\0\0\0",
    "list": [1, 2],
    "nested list": [[1], [2, 3]],
    "list of None": [None],
    "dict": {},
    "object": object(),
    "class": int,
    "broken": Broken(),
    "0-d array": np.array(1.0),
    "float array": np.ones(3),
    "float matrix": np.ones((2, 3)),
    "4-D array": np.ones((1, 1, 1, 1)),
    "empty array": np.ones(0),
    "huge dimension": np.ones((0, 2**40)),
    "int64 array": np.array([-1, 2**40]),
    "uint64 array": np.array([2**64 - 1], np.uint64),
    "big-endian array": np.ones((2, 3), ">f4"),
    "object array": np.array([object(), None]),
    "strings": np.array(["a", "b"]),
    "records": np.zeros(2, "i4,f4"),
    "dates": np.zeros(2, "M8[s]"),
    "broadcast": np.broadcast_to(np.ones(1), (2, 3)),
    "allocator": BlockAllocator(1),
    "snapshot": None,  # of another spec; made below
}


def other_snapshot() -> SsmSnapshot:
    pool = SsmStatePool(1, SsmStateSpec(2, 2, 2, 2, 2, 2))
    slot = pool.slot(pool.alloc(1))
    assert slot is not None
    return slot.snapshot()


WRONG["snapshot"] = other_snapshot()


def allocator() -> BlockAllocator:
    alloc = BlockAllocator(4)
    alloc.allocate_n(2)
    return alloc


def block_pool() -> BlockPool:
    pool = BlockPool(4, 2, 1, 2, 4)
    pool.allocate()
    return pool


def table() -> BlockTable:
    blocks = BlockTable(2, 4)
    blocks.append_block(0, 3)
    return blocks


def seq_state() -> PagedSeqState:
    state = PagedSeqState(4, 4)
    state.ensure_capacity(BlockAllocator(4), 6)
    return state


def kv_cache() -> KvCache:
    cache = KvCache.paged(4, 2, 4, 2, 3, BlockAllocator(4))
    cache.append(np.ones((3, 2, 4), np.float32), np.ones((3, 2, 4), np.float32))
    return cache


def paged_kv_cache() -> PagedKvCache:
    cache = PagedKvCache(20, 3)
    cache.append_tensor(np.ones((5, 3)))
    return cache


def kv_cache_pool() -> KvCachePool:
    pool = KvCachePool(4, 3)
    pool.alloc()
    return pool


def ssm_pool() -> SsmStatePool:
    pool = SsmStatePool(3, SPEC)
    pool.alloc(1)
    return pool


def ssm_slot() -> Any:
    return ssm_pool().slot(0)


def pages() -> SequencePool:
    return SequencePool(kv_cache_pool())


def slots() -> SequencePool:
    return SequencePool(ssm_pool())


# What is called, and right arguments, each of which is replaced in turn.
CALLS: list[tuple[Callable[[], Any], str, tuple[Any, ...]]] = [
    (allocator, "allocate_n", (1,)),
    (allocator, "acquire", (1,)),
    (allocator, "free", (1,)),
    (allocator, "ref_count", (1,)),
    (allocator, "is_live", (1,)),
    (allocator, "__contains__", (1,)),
    (block_pool, "free", (0,)),
    (block_pool, "keys", (0,)),
    (block_pool, "values", (0,)),
    (table, "append_block", (0, 1)),
    (table, "get_block", (0, 0)),
    (table, "num_blocks", (0,)),
    (table, "token_capacity", (0,)),
    (table, "truncate", (0, 4)),
    (table, "__getitem__", (0,)),
    (table, "__eq__", (table(),)),
    (seq_state, "ensure_capacity", (BlockAllocator(4), 4)),
    (seq_state, "ensure_capacity", (BlockAllocator(4), 4, None)),
    (seq_state, "sync_context_len", (None,)),
    (seq_state, "release", (BlockAllocator(4), None)),
    (seq_state, "truncate", (BlockAllocator(4), 8)),
    (kv_cache, "append", (np.ones((1, 2, 4), np.float32), np.ones((1, 2, 4), np.float32))),
    (kv_cache, "truncate", (1,)),
    (paged_kv_cache, "append", (np.ones(3),)),
    (paged_kv_cache, "append_tensor", (np.ones((1, 3)),)),
    (paged_kv_cache, "get_token", (1,)),
    (paged_kv_cache, "__getitem__", (1,)),
    (paged_kv_cache, "_permute_blocks", ([0, 1],)),
    (kv_cache_pool, "free", (0,)),
    (kv_cache_pool, "page", (0,)),
    (ssm_pool, "alloc", (1,)),
    (ssm_pool, "release", (0,)),
    (ssm_pool, "slot", (0,)),
    (ssm_pool, "slot_view", (0,)),
    (ssm_slot, "advance", (1,)),
    (ssm_slot, "restore", (other_snapshot(),)),
    (pages, "free_kv", (0,)),
    (pages, "release_ssm", (0,)),
    (slots, "alloc_ssm", (1,)),
    (slots, "release_ssm", (0,)),
    (slots, "free_kv", (0,)),
    (slots, "ssm_slot", (0,)),
    (slots, "ssm_slot_mut", (0,)),
]
CONSTRUCTORS: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (BlockAllocator, (4,)),
    (BlockPool, (1, 2, 3, 4, 5, "float32")),
    (BlockTable, (2, 4)),
    (PagedSeqState, (4, 4, "cpu")),
    (KvCache.contiguous, (4, 2, 4, "float32")),
    (KvCache.paged, (4, 2, 4, 4, 4, BlockAllocator(4), "float32")),
    (PagedKvCache, (20, 3)),
    (KvCachePool, (4, 3, "float32")),
    (SsmStateSpec, (1, 1, 1, 1, 1, 1, "float32")),
    (SsmStatePool, (2, SPEC)),
    (SsmSnapshot.from_bytes, (other_snapshot().to_bytes(),)),
    (SequencePool, (KvCachePool(1, 1),)),
    (SequencePool.kv, (4, 3, "float32")),
    (SequencePool.ssm, (2, SPEC)),
]


def short(value: Any) -> str:
    """A test's name without its arguments."""
    return value if isinstance(value, str) else getattr(value, "__qualname__", "with")


def with_each_wrong(right: tuple[Any, ...]) -> list[tuple[str, tuple[Any, ...]]]:
    """The arguments with each wrong value in each place."""
    return [
        (f"{name} in place {place}", (*right[:place], value, *right[place + 1 :]))
        for place, (name, value) in itertools.product(range(len(right)), WRONG.items())
    ]


def error_of(call: Callable[..., Any], arguments: tuple[Any, ...]) -> Exception | None:
    try:
        call(*arguments)
    except Exception as error:
        return error
    return None


def is_clear(error: Exception) -> bool:
    """An error of the tree in the project's form, or Python's own about a type or memory."""
    if isinstance(error, PagedKvError):
        return FORM.fullmatch(str(error)) is not None
    return isinstance(error, TypeError | MemoryError)


@pytest.mark.parametrize(("make", "name", "right"), CALLS, ids=short)
def test_a_call_with_a_wrong_argument_fails_clearly_and_changes_nothing(
    make: Callable[[], Any], name: str, right: tuple[Any, ...]
) -> None:
    for description, arguments in with_each_wrong(right):
        target = make()
        before = state_of(target)
        error = error_of(getattr(target, name), arguments)
        if error is not None:
            assert is_clear(error), (description, error)
            assert state_of(target) == before, description


@pytest.mark.parametrize(("make", "right"), CONSTRUCTORS, ids=short)
def test_a_constructor_with_a_wrong_argument_fails_clearly(
    make: Callable[..., Any], right: tuple[Any, ...]
) -> None:
    make(*right)
    for description, arguments in with_each_wrong(right):
        if any(isinstance(value, int) and 2**31 <= value < 2**63 for value in arguments):
            continue  # some machines have the memory
        error = error_of(make, arguments)
        assert error is None or is_clear(error), (description, error)


@pytest.mark.parametrize(("make", "name", "right"), CALLS, ids=short)
def test_a_call_with_too_many_or_too_few_arguments_is_a_type_error(
    make: Callable[[], Any], name: str, right: tuple[Any, ...]
) -> None:
    target = make()
    before = state_of(target)
    with pytest.raises(TypeError):
        getattr(target, name)(*right, *right, 1)
    with pytest.raises(TypeError):
        getattr(target, name)(*right, unknown=1)
    assert state_of(target) == before


def test_a_method_of_another_class_is_a_type_error() -> None:
    for make, name, right in CALLS:
        method = getattr(type(make()), name)
        for wrong in None, 5, object(), KvCachePool(1, 1) if make is not kv_cache_pool else "":
            if name == "__eq__" or isinstance(make(), SequencePool):
                continue
            with pytest.raises(TypeError):
                method(wrong, *right)


CLASSES = [
    value
    for value in (getattr(pagedkv, name) for name in pagedkv.__all__)
    if isinstance(value, type) and not issubclass(value, Exception) and value is not SequencePool
]


@pytest.mark.parametrize("cls", CLASSES)
def test_an_object_that_was_never_initialised_is_a_type_error_not_a_crash(cls: Any) -> None:
    empty = cls.__new__(cls)
    for name in dir(cls):
        if name.startswith("__") and name not in {"__repr__", "__len__", "__iter__"}:
            continue
        attribute = getattr(cls, name)
        if isinstance(attribute, property):
            with pytest.raises(TypeError, match="__init__ never ran"):
                getattr(empty, name)
    with pytest.raises(TypeError, match="__init__ never ran"):
        repr(empty)


def test_a_subclass_that_forgets_its_base_is_a_type_error() -> None:
    class Forgetful(BlockAllocator):
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="__init__"):
        Forgetful()


def test_initialising_twice_keeps_the_first_object() -> None:
    cache = paged_kv_cache()
    view = cache.as_tensor(copy=False)
    cache.__init__(1, 1)  # type: ignore[misc]
    assert cache.max_tokens == 20
    assert (view == 1).all()


def test_arguments_are_taken_by_name() -> None:
    alloc = BlockAllocator(capacity=4)
    ids = alloc.allocate_n(n=2)
    alloc.acquire(ids=ids)
    alloc.free(ids=ids)
    assert alloc.ref_count(id=0) == 1
    cache = KvCache.paged(
        num_blocks=4,
        num_kv_heads=1,
        head_dim=2,
        block_size=2,
        max_blocks_per_seq=2,
        allocator=BlockAllocator(4),
        dtype="float32",
    )
    cache.append(k=[[[1, 2]]], v=[[[3, 4]]])
    tokens = PagedKvCache(max_tokens=4, dim=2)
    tokens.append(token=[1, 2])
    tokens.append_tensor(t=[[3, 4]])
    assert tokens.get_token(i=1).tolist() == [3, 4]
    state = PagedSeqState(block_size=4, max_blocks_per_seq=2, device="cpu")
    state.ensure_capacity(alloc=alloc, target_len=4, ctx=None)
    state.release(alloc=alloc)
