"""How users write it, for a type checker: a test runs mypy --strict over this file.

Every line with an ignored error must be an error: unused ignores are errors themselves.
"""

import collections.abc
import copy
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import pagedkv
from pagedkv.errors import InvalidSlotError, PoolExhaustedError
from pagedkv.plan import LengthFit, allocate, plan

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int32]
Singles = npt.NDArray[np.float32]


def blocks() -> None:
    alloc = pagedkv.BlockAllocator(np.int64(8))
    assert_type(alloc.allocate(), int)
    ids = alloc.allocate_n(3)
    assert_type(ids, Ids)
    for held in (ids, ids.astype(np.uint64), [1, 2], (np.int32(1),), range(2), 3):
        alloc.acquire(held)
    alloc.free("3")  # type: ignore[arg-type]
    alloc.free([1.5])  # type: ignore[list-item]
    alloc.allocate_n(1.5)  # type: ignore[arg-type]
    alloc.capacity = 3  # type: ignore[misc]
    assert_type(3 in alloc, bool)
    try:
        alloc.allocate_n(99)
    except PoolExhaustedError as exhausted:
        assert_type((exhausted.needed, exhausted.free), tuple[int, int])
    except InvalidSlotError as invalid:
        assert_type(invalid.slot, int)

    table = pagedkv.BlockTable(2, 16)
    assert_type(table.get_block(0, 0), int | None)
    assert_type(table.truncate(0, 5), Ids)
    assert_type([row for row in table], list[Ids])  # noqa: C416  the iteration is what is checked
    assert_type(table[-1], Ids)
    assert_type(copy.copy(table) == table, bool)

    pool = pagedkv.BlockPool(4, 16, 2, 8, 128, dtype=np.float16)
    page = pool.allocate()
    pool.keys(page)  # type: ignore[arg-type]
    if page is not None:
        assert_type(pool.keys(page), npt.NDArray[Any])


def sequences() -> None:
    alloc = pagedkv.BlockAllocator(8)
    state = pagedkv.PagedSeqState(16, 4, device="cpu")
    state.ensure_capacity(alloc, 40, ctx=None)
    state.len = 40
    state.len = "40"  # type: ignore[assignment]
    state.ensure_capacity(40)  # type: ignore[call-arg, arg-type]
    assert_type(state.blocks, list[int])
    assert_type(state.block_table_buf, Ids)
    assert_type(len(state), int)


def caches() -> None:
    alloc = pagedkv.BlockAllocator(8)
    with pagedkv.KvCache.paged(8, 2, 4, 16, 4, alloc, dtype="bfloat16") as cache:
        assert_type(cache, pagedkv.KvCache)
        cache.append(np.zeros((1, 2, 4), np.uint16), [[[0] * 4] * 2])
        k, _ = cache.to_dense()
        assert_type(k, npt.NDArray[Any])
        assert_type(cache.share(), pagedkv.KvCache)
        assert_type(cache.block_table, Ids | None)
        assert_type(cache.allocator, pagedkv.BlockAllocator | None)
        cache.k = k  # type: ignore[misc]

    tokens = pagedkv.PagedKvCache(64, 4)
    tokens.append([1, 2, 3, 4.5])
    tokens.append_tensor(np.zeros((2, 4)))
    assert_type(tokens.as_tensor(), Floats)
    assert_type(tokens.as_tensor(out=np.empty((3, 4)), copy=True), Floats)
    tokens.as_tensor(np.empty((3, 4)))  # type: ignore[call-arg]
    tokens.as_tensor(out=[[1.0]])  # type: ignore[arg-type]
    assert_type(tokens[0], Floats)
    assert_type(tokens[::-1], Floats)
    tokens["0"]  # type: ignore[index]
    assert_type(iter(tokens), collections.abc.Iterator[Floats])
    assert_type(np.asarray(tokens), npt.NDArray[Any])
    assert_type(copy.deepcopy(tokens), pagedkv.PagedKvCache)


def pools() -> None:
    spec = pagedkv.SsmStateSpec(2, 4, 8, 16, 32, 4)
    assert_type({spec: 1}, dict[pagedkv.SsmStateSpec, int])
    pool = pagedkv.SequencePool.ssm(4, spec)
    reader = pool.ssm_slot(pool.alloc_ssm(7))
    writer = pool.ssm_slot_mut(0)
    assert_type(reader, pagedkv.SsmSlotView | None)
    assert_type(writer, pagedkv.SsmSlot | None)
    writer.advance()  # type: ignore[union-attr]
    if reader is not None and writer is not None:
        assert_type(writer.ssm_state, npt.NDArray[Any])
        writer.advance(3)
        writer.position = 3
        reader.position = 3  # type: ignore[misc]
        reader.advance()  # type: ignore[attr-defined]
        saved = writer.snapshot().to_bytes()
        assert_type(saved, bytes)
        writer.restore(pagedkv.SsmSnapshot.from_bytes(saved))
    pages = pagedkv.SequencePool.kv(1024, 8)
    pages.free_kv(pages.alloc_kv())
    pages.free_kv(None)  # type: ignore[arg-type]


def manager() -> None:
    m = pagedkv.KVCacheManager(8, 4, groups=[pagedkv.FullAttention()], events=True)
    m.add(1, range(5), salt=b"a", extras=[(1, 2, b"cat")])
    assert_type(m.acquire([1]), Ids)
    batch = m.schedule([1], np.array([5]))
    assert_type(batch, pagedkv.Batch)
    assert_type(batch.slot_mapping, npt.NDArray[np.int64])
    assert_type(batch[0].block_tables, Ids)
    m.commit([1], [5.0])  # type: ignore[list-item]
    stats = m.stats()
    assert_type(stats, pagedkv.Stats)
    assert_type(stats.miss_reasons, dict[str, int])
    assert_type(stats.hit_rate, float)
    assert_type(m.salt_stats(b"a"), pagedkv.ReuseStats)
    stats.steps = 3  # type: ignore[misc]
    for event in m.take_events():
        assert_type(event, pagedkv.CacheEvent)
        assert_type(event.hash, bytes)
        assert event.kind in ("stored", "removed")
    assert_type(pagedkv.Batch.bytes_needed(1, 2, 3, 4), int)


def info() -> None:
    assert_type(pagedkv.__version__, str)
    assert_type(pagedkv.build_info(), dict[str, Any])


def operations(q: Singles, cache: npt.NDArray[np.int8], table: Ids) -> None:
    assert_type(pagedkv.get_num_threads(), int)
    out = pagedkv.ops.paged_attention(q, cache, cache, table, [5], window=np.int64(3), k_scale=0.5)
    assert_type(out, Singles)
    both = pagedkv.ops.paged_attention(q, cache, cache, table, [5], return_lse=True)
    assert_type(both, tuple[Singles, Singles])
    pagedkv.ops.write_kv(q, q, cache, cache, [0, 1], layout="NHD", dtype="int8")
    pagedkv.ops.copy_blocks([cache], [(0, 1)])
    assert_type(pagedkv.ops.gather_kv(cache, cache, table, [5])[0], npt.NDArray[np.int8])
    pagedkv.ops.paged_attention(q, cache, cache, table, [5], layout="hnd")  # type: ignore[call-overload]
    pagedkv.ops.paged_attention("q", cache, cache, table, [5])  # type: ignore[call-overload]


def planning(fields: dict[str, Any]) -> None:
    fits = plan(fields, "40GiB", lengths=[2048], kv_dtype="int8", tensor_parallel=2)
    assert_type(fits.sequences(8192), int)
    assert_type(fits.max_tokens, int | None)
    assert_type(fits.fits, tuple[LengthFit, ...])
    assert_type(fits.manager(eviction="lifetable"), pagedkv.KVCacheManager)
    assert_type(allocate(fits).layers[0].k_scale, Singles | None)
    plan("config.json", gpu_memory=80 * 2**30, weights="16GB")
    plan(fields, 1.5)  # type: ignore[arg-type]
    plan(fields, "1GiB", 16)  # type: ignore[call-arg]
