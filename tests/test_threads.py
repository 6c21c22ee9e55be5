"""Threads: big copies let others run, a busy object refuses, shared pools stay exact."""

import gc
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

import numpy as np
import pytest
from support.busy import refusal, repeated
from support.values import same_bits

from pagedkv import (
    BlockAllocator,
    CapacityError,
    KvCache,
    PagedKvCache,
    PagedKvError,
    PoolExhaustedError,
    SsmSlot,
    SsmSnapshot,
    SsmStatePool,
    SsmStateSpec,
)

ROWS, DIM = 60_000, 128  # 61 MB: a copy takes many times the tick of the other thread
BIG_SPEC = SsmStateSpec(8, 64, 64, 256, 0, 1)  # 32 MiB a slot


def paged_kv_cache(full: bool) -> PagedKvCache:
    cache = PagedKvCache(ROWS, DIM)
    if full:
        cache.append_tensor(np.ones((ROWS, DIM)))
    return cache


def kv_cache(full: bool) -> KvCache:
    cache = KvCache.contiguous(30_000, 2, DIM)
    if full:
        cache.append(*ones())
    return cache


def ones() -> tuple[Any, Any]:
    array = np.ones((30_000, 2, DIM), np.float32)
    return array, array


def big_slot() -> SsmSlot:
    pool = SsmStatePool(2, BIG_SPEC)
    slot = pool.slot(pool.alloc(1))
    assert slot is not None
    return slot


def append_tensor() -> Callable[[], object]:
    cache, values = paged_kv_cache(full=False), np.ones((ROWS, DIM))
    return lambda: (cache.clear(), cache.append_tensor(values))


def as_tensor() -> Callable[[], object]:
    cache, out = paged_kv_cache(full=True), np.empty((ROWS, DIM))
    return lambda: cache.as_tensor(out=out)


def clone() -> Callable[[], object]:
    cache = paged_kv_cache(full=True)
    return lambda: cache.clone()


def slice_of_tokens() -> Callable[[], object]:
    cache = paged_kv_cache(full=True)
    return lambda: cache[:]


def append() -> Callable[[], object]:
    cache, (k, v) = kv_cache(full=False), ones()
    return lambda: (cache.release(), cache.append(k, v))


def to_dense() -> Callable[[], object]:
    cache = kv_cache(full=True)
    return lambda: cache.to_dense()


def construction() -> Callable[[], object]:
    return lambda: PagedKvCache(ROWS, DIM)


def snapshot() -> Callable[[], object]:
    slot = big_slot()
    return lambda: slot.snapshot()


def restore() -> Callable[[], object]:
    slot = big_slot()
    taken = slot.snapshot()
    return lambda: slot.restore(taken)


def to_bytes() -> Callable[[], object]:
    taken = big_slot().snapshot()
    return lambda: taken.to_bytes()


def from_bytes() -> Callable[[], object]:
    saved = big_slot().snapshot().to_bytes()
    return lambda: SsmSnapshot.from_bytes(saved)


@pytest.mark.parametrize(
    "make",
    [
        append_tensor,
        as_tensor,
        clone,
        slice_of_tokens,
        append,
        to_dense,
        construction,
        snapshot,
        restore,
        to_bytes,
        from_bytes,
    ],
)
def test_another_thread_makes_progress_during_a_big_copy(
    make: Callable[[], Callable[[], object]],
) -> None:
    copy = make()
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0002)

    other = threading.Thread(target=tick)
    other.start()
    try:
        # Only ticks well inside a call count: at its edges the GIL changes hands anyway.
        for _ in range(200):
            begin = time.perf_counter()
            copy()
            end = time.perf_counter()
            third = (end - begin) / 3
            if any(begin + third < at < end - third for at in list(ticks)[-10_000:]):
                return
    finally:
        stop.set()
        other.join()
    pytest.fail("no tick of the other thread fell inside any of the copies")


def busy(work: Callable[[], object]) -> AbstractContextManager[None]:
    """Another thread does `work`, which is mostly one long copy, again and again."""

    def attempt() -> None:
        # What the test does between two copies may make one of them impossible.
        with suppress(PagedKvError):
            work()

    return repeated(attempt)


def refused_by(where: str) -> str:
    return f"[{where}] the object is busy in another thread; expected one thread at a time"


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("append", lambda cache: cache.append(np.zeros(DIM))),
        ("append_tensor", lambda cache: cache.append_tensor(np.zeros((1, DIM)))),
        ("as_tensor", lambda cache: cache.as_tensor(copy=False)),
        ("get_token", lambda cache: cache.get_token(0)),
        ("__getitem__", lambda cache: cache[0]),
        ("clear", lambda cache: cache.clear()),
        ("clone", lambda cache: cache.clone()),
        ("len", lambda cache: cache.len),
        ("__len__", len),
        ("is_empty", lambda cache: cache.is_empty),
        ("blocks_in_use", lambda cache: cache.blocks_in_use),
        ("_permute_blocks", lambda cache: cache._permute_blocks(range(cache.num_blocks))),
    ],
)
def test_a_paged_kv_cache_that_is_busy_refuses_a_second_thread(
    where: str, call: Callable[[PagedKvCache], object]
) -> None:
    cache, values = PagedKvCache(ROWS, DIM), np.ones((ROWS, DIM))
    with busy(lambda: (cache.clear(), cache.append_tensor(values))):
        assert refusal(lambda: call(cache)) == refused_by(f"PagedKvCache.{where}")
    assert cache.len <= ROWS
    cache.clear()
    cache.append_tensor(values)
    assert same_bits(cache.as_tensor(), values)


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("append", lambda cache: cache.append(*[np.zeros((1, 2, DIM), np.float32)] * 2)),
        ("to_dense", lambda cache: cache.to_dense()),
        ("truncate", lambda cache: cache.truncate(5)),
        ("release", lambda cache: cache.release()),
        ("__exit__", lambda cache: cache.__exit__(None, None, None)),
        ("len", lambda cache: cache.len),
        ("len", len),
        ("paged_block_indices", lambda cache: cache.paged_block_indices),
        ("share", lambda cache: cache.share()),
    ],
)
def test_a_kv_cache_that_is_busy_refuses_a_second_thread(
    where: str, call: Callable[[KvCache], object]
) -> None:
    k, v = ones()
    cache = KvCache.paged(1000, 2, DIM, 32, 1000, BlockAllocator(1000))
    with busy(lambda: (cache.release(), cache.append(k, v))):
        assert refusal(lambda: call(cache)) == refused_by(f"KvCache.{where}")
    cache.release()
    cache.append(k, v)
    assert same_bits(cache.to_dense()[0], k)


def test_a_busy_cache_can_still_be_shown_and_asked_for_what_never_changes() -> None:
    cache, values = PagedKvCache(ROWS, DIM), np.ones((ROWS, DIM))
    seen = set()
    with busy(lambda: (cache.clear(), cache.append_tensor(values))):
        deadline = time.monotonic() + 30
        while "PagedKvCache(busy)" not in seen and time.monotonic() < deadline:
            seen.add(repr(cache))
            assert (cache.max_tokens, cache.dim, cache.num_blocks) == (ROWS, DIM, ROWS // 16)
    assert "PagedKvCache(busy)" in seen


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("SsmSlot.snapshot", lambda slot, _: slot.snapshot()),
        ("SsmSlot.restore", lambda slot, taken: slot.restore(taken)),
    ],
)
def test_a_slot_that_is_busy_refuses_and_the_others_do_not(
    where: str, call: Callable[[SsmSlot, SsmSnapshot], object]
) -> None:
    pool = SsmStatePool(3, BIG_SPEC)
    slot, other = pool.slot(pool.alloc(1)), pool.slot(pool.alloc(2))
    assert slot is not None
    assert other is not None
    slot.ssm_state[:] = 3
    taken = slot.snapshot()

    def attempt() -> None:
        pool.release(pool.alloc(3))
        other.advance()
        call(slot, taken)

    with busy(lambda: slot.restore(taken)):
        assert refusal(attempt) == refused_by(where)
    assert (slot.ssm_state == 3).all()


def test_a_slot_that_is_busy_cannot_be_released() -> None:
    pool = SsmStatePool(1, BIG_SPEC)
    taken = big_slot().snapshot()

    def work() -> None:
        slot = pool.slot(pool.alloc(1))
        if slot is not None:  # else the test has released it already
            slot.restore(taken)
            pool.release(slot.index)

    with busy(work):
        assert refusal(lambda: pool.release(0)) == refused_by("SsmStatePool.release")


@pytest.mark.parametrize("num_threads", [2, 4])
def test_caches_that_share_one_pool_are_exact_from_several_threads(num_threads: int) -> None:
    heads, dim, blocks = 4, 64, 64
    alloc = BlockAllocator(blocks)
    first = KvCache.paged(blocks, heads, dim, 16, blocks, alloc)
    failures: list[str] = []

    def run(seed: int) -> None:
        rng = np.random.default_rng(seed)
        cache = first.share()
        held: list[Any] = []
        for _ in range(60):
            n = int(rng.integers(1, 300))  # up to 600 KB, with and without the GIL
            k = rng.standard_normal((n, heads, dim)).astype(np.float32)
            try:
                cache.append(k, -k)
                held.append(k)
            except (PoolExhaustedError, CapacityError):
                cache.release()
                held.clear()
            if rng.random() < 0.2 and held:
                cache.truncate(cache.len - len(held.pop()))
            if held:
                dense_k, dense_v = cache.to_dense()
                expected = np.concatenate(held)
                if not (same_bits(dense_k, expected) and same_bits(dense_v, -expected)):
                    failures.append(f"seed {seed}: {cache!r}")
                    return

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    gc.collect()
    assert alloc.in_use == 0


def test_different_caches_and_slots_are_used_side_by_side() -> None:
    failures: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            values = np.random.default_rng(seed).standard_normal((2000, DIM))
            cache = PagedKvCache(2000, DIM)
            for _ in range(20):
                cache.clear()
                cache.append_tensor(values)
                assert same_bits(cache.as_tensor(), values)
                assert same_bits(cache.clone().as_tensor(copy=False), values)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_callback_that_uses_the_cache_it_is_appended_to_is_no_deadlock() -> None:
    cache = PagedKvCache(4, 2)

    class Nested:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
            cache.append([1.0, 2.0])
            return np.array([3.0, 4.0])

    cache.append(Nested())
    assert cache.as_tensor().tolist() == [[1.0, 2.0], [3.0, 4.0]]
