"""KvCache: one layer's keys and values, contiguous or in blocks of a shared pool."""

from typing import Any

import numpy as np
import pytest
from support.errors import refuses
from support.values import DTYPES, SHOWN_AS, same_bits, tokens

from pagedkv import (
    BlockAllocator,
    CapacityError,
    InvalidSlotError,
    KvCache,
    PoolExhaustedError,
    ShapeError,
    UnsupportedError,
)

HEADS, DIM = 2, 4


def contiguous(capacity: int = 10, dtype: str = "float32") -> KvCache:
    return KvCache.contiguous(capacity, HEADS, DIM, dtype)


def paged(
    num_blocks: int = 6,
    max_blocks_per_seq: int = 4,
    dtype: str = "float32",
    allocator: BlockAllocator | None = None,
) -> KvCache:
    alloc = allocator or BlockAllocator(num_blocks)
    return KvCache.paged(num_blocks, HEADS, DIM, 3, max_blocks_per_seq, alloc, dtype)


def pair(rng: np.random.Generator, n: int, dtype: str = "float32") -> tuple[Any, Any]:
    return tokens(rng, dtype, n, HEADS, DIM), tokens(rng, dtype, n, HEADS, DIM)


def scatter(allocator: BlockAllocator) -> None:
    """Makes the free ids come in no order."""
    ids = allocator.allocate_n(allocator.capacity)
    np.random.default_rng(3).shuffle(ids)
    for block in ids.tolist():
        allocator.free(block)


@pytest.mark.parametrize("make", [contiguous, paged])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_appended_comes_back_bit_for_bit(
    make: Any, dtype: str, rng: np.random.Generator
) -> None:
    cache = make(dtype=dtype)
    if cache.allocator:
        scatter(cache.allocator)
    appended = [pair(rng, n, dtype) for n in (1, 3, 0, 4, 2)]
    for k, v in appended:
        cache.append(k, v)
    assert cache.len == len(cache) == 10
    k, v = cache.to_dense()
    assert k.dtype == v.dtype == SHOWN_AS[dtype]
    assert same_bits(k, np.concatenate([each for each, _ in appended]))
    assert same_bits(v, np.concatenate([each for _, each in appended]))


def test_the_dtype_is_float32_unless_told() -> None:
    assert KvCache.contiguous(1, 1, 1).dtype == "float32"
    assert KvCache.paged(1, 1, 1, 1, 1, BlockAllocator(1)).dtype == "float32"


def test_the_contiguous_layout_is_heads_by_capacity_by_dim(rng: np.random.Generator) -> None:
    cache = contiguous()
    k, v = pair(rng, 7)
    cache.append(k, v)
    assert cache.k.shape == cache.v.shape == (HEADS, 10, DIM)
    assert same_bits(cache.k[:, :7].transpose(1, 0, 2), k)
    assert same_bits(cache.v[:, :7].transpose(1, 0, 2), v)
    assert not cache.k[:, 7:].any()
    assert cache.block_size == cache.num_blocks == 0
    assert cache.block_table is cache.context_lens is cache.allocator is None
    assert cache.paged_block_indices == []
    assert (cache.capacity, cache.num_kv_heads, cache.head_dim) == (10, HEADS, DIM)


def test_the_paged_layout_is_a_pool_of_blocks_and_a_table(rng: np.random.Generator) -> None:
    cache = paged()
    assert cache.allocator is not None
    assert cache.block_table is not None
    assert cache.context_lens is not None
    scatter(cache.allocator)
    k, v = pair(rng, 7)
    cache.append(k, v)
    assert cache.k.shape == cache.v.shape == (6, HEADS, 3, DIM)
    assert (cache.block_size, cache.num_blocks, cache.capacity) == (3, 6, 12)
    assert cache.block_table.dtype == cache.context_lens.dtype == np.int32
    blocks = cache.paged_block_indices
    assert cache.block_table.tolist() == [*blocks, -1]
    assert cache.context_lens.tolist() == [7]
    for token in range(7):
        block, offset = blocks[token // 3], token % 3
        assert same_bits(cache.k[block, :, offset], k[token])
        assert same_bits(cache.v[block, :, offset], v[token])


def test_many_sequences_share_one_pool(rng: np.random.Generator) -> None:
    first = paged(num_blocks=6, max_blocks_per_seq=6)
    caches = [first, first.share(), first.share()]
    appended: list[list[Any]] = [[], [], []]
    for _ in range(5):
        for cache, kept in zip(caches, appended, strict=True):
            kept.append(pair(rng, 1))
            cache.append(*kept[-1])
    held = [block for cache in caches for block in cache.paged_block_indices]
    assert sorted(held) == list(range(6))
    for cache, kept in zip(caches, appended, strict=True):
        k, v = cache.to_dense()
        assert same_bits(k, np.concatenate([each for each, _ in kept]))
        assert same_bits(v, np.concatenate([each for _, each in kept]))
        assert cache.k.ctypes.data == first.k.ctypes.data
        assert cache.allocator is first.allocator


def test_a_shared_cache_outlives_the_one_it_came_from(rng: np.random.Generator) -> None:
    first = paged()
    alloc = first.allocator
    assert alloc is not None
    second = first.share()
    k, v = pair(rng, 5)
    second.append(k, v)
    first.append(*pair(rng, 3))
    del first
    assert alloc.in_use == 2
    assert same_bits(second.to_dense()[0], k)
    del second
    assert alloc.in_use == 0


def test_a_contiguous_cache_cannot_be_shared() -> None:
    cache = contiguous()
    with refuses(UnsupportedError, "KvCache.share", "contiguous", "paged", unchanged=cache):
        cache.share()


@pytest.mark.parametrize("make", [contiguous, lambda: paged(8, 3), lambda: paged(3, 3)])
def test_capacity_is_a_hard_limit_never_a_silent_drop(make: Any, rng: np.random.Generator) -> None:
    cache = make()
    cache.append(*pair(rng, 4))
    more = cache.capacity - 4 + 1
    with refuses(
        CapacityError,
        "KvCache.append",
        f"4 tokens held and {more} more",
        f"at most {cache.capacity}",
        unchanged=cache,
    ):
        cache.append(*pair(rng, more))
    cache.append(*pair(rng, more - 1))
    assert cache.len == cache.capacity
    with refuses(CapacityError, "KvCache.append", unchanged=cache):
        cache.append(*pair(rng, 1))
    cache.append(*pair(rng, 0))


def test_append_is_all_or_nothing_when_blocks_are_short(rng: np.random.Generator) -> None:
    cache = paged(num_blocks=4)
    other = cache.share()
    other.append(*pair(rng, 5))
    cache.append(*pair(rng, 2))
    with refuses(
        PoolExhaustedError,
        "BlockAllocator.allocate_n",
        "2 needed, 1 free",
        unchanged=(cache, other),
    ):
        cache.append(*pair(rng, 6))
    other.release()
    cache.append(*pair(rng, 6))
    assert cache.len == 8


def test_release_gives_the_blocks_back_and_twice_is_harmless(rng: np.random.Generator) -> None:
    cache = paged()
    assert cache.allocator is not None
    cache.append(*pair(rng, 7))
    for _ in range(2):
        cache.release()
        assert (cache.len, cache.allocator.in_use, cache.paged_block_indices) == (0, 0, [])
    k, v = pair(rng, 4)
    cache.append(k, v)
    assert cache.block_table is not None
    assert cache.block_table.tolist() == [*cache.paged_block_indices, -1, -1]
    assert same_bits(cache.to_dense()[1], v)


def test_release_empties_a_contiguous_cache(rng: np.random.Generator) -> None:
    cache = contiguous()
    cache.append(*pair(rng, 10))
    cache.release()
    assert cache.len == 0
    cache.append(*pair(rng, 10))


def test_a_context_manager_releases_at_the_end_also_after_an_error(
    rng: np.random.Generator,
) -> None:
    alloc = BlockAllocator(6)
    with paged(allocator=alloc) as cache:
        cache.append(*pair(rng, 7))
        with cache.share() as other:
            other.append(*pair(rng, 1))
            assert alloc.in_use == 4
        assert alloc.in_use == 3
    assert alloc.in_use == 0

    def fail_inside() -> None:
        with paged(allocator=alloc) as cache:
            cache.append(*pair(rng, 7))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert alloc.in_use == 0


@pytest.mark.parametrize("make", [contiguous, paged])
def test_truncate_goes_back_to_fewer_tokens(make: Any, rng: np.random.Generator) -> None:
    cache = make()
    k, v = pair(rng, 8)
    cache.append(k, v)
    cache.truncate(9)
    assert cache.len == 8
    cache.truncate(4)
    assert cache.len == 4
    assert same_bits(cache.to_dense()[0], k[:4])
    if cache.allocator is not None:
        assert cache.allocator.in_use == 2
        assert cache.context_lens.tolist() == [4]
    more_k, more_v = pair(rng, 2)
    cache.append(more_k, more_v)
    assert same_bits(cache.to_dense()[1], np.concatenate([v[:4], more_v]))
    with refuses(ShapeError, "KvCache.truncate", "num_tokens is -1", unchanged=cache):
        cache.truncate(-1)


@pytest.mark.parametrize("make", [contiguous, paged])
@pytest.mark.parametrize(
    ("k_shape", "v_shape", "given"),
    [
        ((1, 2, 4), (2, 2, 4), "1 tokens in k and 2 in v"),
        ((2, 4), (2, 4), "k of shape (2, 4)"),
        ((1, 1, 2, 4), (1, 2, 4), "k of shape (1, 1, 2, 4)"),
        ((1, 4, 2), (1, 4, 2), "k of shape (1, 4, 2)"),
        ((1, 2, 4), (1, 2, 5), "v of shape (1, 2, 5)"),
        ((1, 1, 8), (1, 2, 4), "k of shape (1, 1, 8)"),
        ((0,), (0,), "k of shape (0,)"),
    ],
)
def test_arrays_of_another_shape_are_a_shape_error(
    make: Any, k_shape: tuple[int, ...], v_shape: tuple[int, ...], given: str
) -> None:
    cache = make()
    with refuses(ShapeError, "KvCache.append", given, unchanged=cache):
        cache.append(np.zeros(k_shape, np.float32), np.zeros(v_shape, np.float32))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint32", ">f4", "bool", "O"])
def test_arrays_of_another_dtype_are_a_shape_error(dtype: str) -> None:
    cache = contiguous()
    right, wrong = np.zeros((1, HEADS, DIM), np.float32), np.zeros((1, HEADS, DIM), dtype)
    for argument, given in ("k", (wrong, right)), ("v", (right, wrong)):
        with refuses(
            ShapeError,
            "KvCache.append",
            f"{argument} of dtype {np.dtype(dtype)}",
            "float32",
            unchanged=cache,
        ):
            cache.append(*given)


def test_arrays_may_lie_in_memory_as_they_like(rng: np.random.Generator) -> None:
    cache = contiguous(12)
    k, v = pair(rng, 3)
    fortran = np.asfortranarray(k)
    strided = np.repeat(v, 2, axis=2)[:, :, ::2]
    backwards = np.ascontiguousarray(k[::-1])[::-1]
    raw = np.zeros(v.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(v.shape)
    unaligned[:] = v
    frozen = k.copy()
    frozen.flags.writeable = False
    cache.append(fortran, strided)
    cache.append(backwards, unaligned)
    cache.append(frozen, memoryview(v))
    dense_k, dense_v = cache.to_dense()
    assert same_bits(dense_k, np.concatenate([k, k, k]))
    assert same_bits(dense_v, np.concatenate([v, v, v]))


def test_lists_of_numbers_are_converted() -> None:
    cache = KvCache.contiguous(4, 1, 2)
    cache.append([[[1, 2.5]]], (((True, -0.0),),))
    k, v = cache.to_dense()
    assert k.tolist() == [[[1.0, 2.5]]]
    assert v.tolist() == [[[1.0, -0.0]]]


def test_lists_that_would_lose_more_than_rounding_are_a_shape_error() -> None:
    cache = KvCache.contiguous(4, 1, 2, "int8")
    cache.append([[[1, -128]]], [[[0, 127]]])
    for numbers in [[[1.5, 1]]], [[[128, 0]]], [[[2**70, 0]]], [[["1", "2"]]], [[[None, 1]]]:
        with refuses(ShapeError, "KvCache.append", "k ", unchanged=cache):
            cache.append(numbers, [[[0, 0]]])
    half = KvCache.contiguous(4, 1, 2, "bfloat16")
    with refuses(ShapeError, "KvCache.append", "k of dtype float64", "bfloat16", unchanged=half):
        half.append([[[1.0, 2.0]]], [[[1.0, 2.0]]])
    half.append([[[0x3F80, 0x4000]]], [[[0, 0xFFFF]]])
    assert half.to_dense()[1].tolist() == [[[0, 0xFFFF]]]


@pytest.mark.parametrize("nothing", [None, "keys", {}, [[1], [2, 3]], object()])
def test_what_is_no_array_is_a_shape_error(nothing: Any) -> None:
    cache = contiguous()
    with refuses(ShapeError, "KvCache.append", "k ", unchanged=cache):
        cache.append(nothing, nothing)


@pytest.mark.parametrize(
    "make",
    [lambda: KvCache.contiguous(8, 1, 4), lambda: KvCache.paged(4, 1, 4, 2, 4, BlockAllocator(4))],
)
def test_a_view_of_the_cache_itself_can_be_appended(make: Any, rng: np.random.Generator) -> None:
    cache = make()
    k, v = tokens(rng, "float32", 4, 1, 4), tokens(rng, "float32", 4, 1, 4)
    cache.append(k, v)
    cache.truncate(1)
    own_k, own_v = cache.k.reshape(-1, 1, 4)[:4], cache.v.reshape(-1, 1, 4)[:4]
    cache.append(own_k, own_v)
    dense_k, dense_v = cache.to_dense()
    assert same_bits(dense_k, np.concatenate([k[:1], k]))
    assert same_bits(dense_v, np.concatenate([v[:1], v]))


def test_a_capacity_of_zero_is_legal_and_always_full(rng: np.random.Generator) -> None:
    for cache in contiguous(0), paged(0, 0), paged(2, 0):
        assert cache.capacity == 0
        cache.append(*pair(rng, 0))
        with refuses(CapacityError, "KvCache.append", unchanged=cache):
            cache.append(*pair(rng, 1))
        assert cache.to_dense()[0].shape == (0, HEADS, DIM)


@pytest.mark.parametrize("name", ["num_kv_heads", "head_dim"])
def test_a_dimension_of_zero_is_a_shape_error(name: str) -> None:
    shape = {"num_kv_heads": 2, "head_dim": 4} | {name: 0}
    with refuses(ShapeError, "KvCache.contiguous", f"{name} is 0"):
        KvCache.contiguous(4, **shape)
    rest = {"num_blocks": 4, "block_size": 4, "max_blocks_per_seq": 4}
    with refuses(ShapeError, "KvCache.paged", f"{name} is 0"):
        KvCache.paged(**rest, **shape, allocator=BlockAllocator(4))


def test_a_block_size_of_zero_is_a_shape_error() -> None:
    with refuses(ShapeError, "KvCache.paged", "block_size is 0"):
        KvCache.paged(4, 1, 1, 0, 4, BlockAllocator(4))


def test_an_allocator_hands_out_no_more_ids_than_the_pool_has_blocks() -> None:
    with refuses(ShapeError, "KvCache.paged", "an allocator of 5 ids for a pool of 4 blocks"):
        paged(4, allocator=BlockAllocator(5))
    assert paged(4, allocator=BlockAllocator(3)).num_blocks == 4
    with refuses(ShapeError, "KvCache.paged", "no allocator"):
        KvCache.paged(4, 1, 1, 4, 4, None)  # type: ignore[arg-type]


def test_sizes_that_overflow_are_a_shape_error() -> None:
    with refuses(ShapeError, "KvCache.contiguous", "a size beyond"):
        KvCache.contiguous(2**40, 2**20, 2**20)
    with refuses(ShapeError, "KvCache.contiguous", "capacity is -1"):
        KvCache.contiguous(-1, 2, 4)
    with pytest.raises(ShapeError, match=r"^\[KvCache.*\] a size beyond"):
        KvCache.paged(4, 2**32, 2**32, 4, 4, BlockAllocator(4))
    with pytest.raises(ShapeError, match=r"^\[KvCache.*\] a size beyond"):
        KvCache.paged(1, 1, 1, 2**61, 2**61, BlockAllocator(1))


def test_int4_rows_end_on_a_whole_byte() -> None:
    with pytest.raises(ShapeError, match="int4"):
        KvCache.contiguous(4, 2, 3, "int4")


def test_blocks_freed_behind_its_back_are_refused_once_and_lose_nothing(
    rng: np.random.Generator,
) -> None:
    cache = paged()
    assert cache.allocator is not None
    cache.append(*pair(rng, 7))
    cache.allocator.free(cache.paged_block_indices[1])
    with refuses(InvalidSlotError, "BlockAllocator.free", "not live", unchanged=cache):
        cache.release()
    del cache


def test_a_cache_is_made_by_its_two_constructors_alone() -> None:
    with pytest.raises(TypeError, match="No constructor"):
        KvCache()


def test_a_cache_without_tokens_is_still_true() -> None:
    assert contiguous()
    assert paged()


def test_repr_shows_length_and_shape(rng: np.random.Generator) -> None:
    cache = paged()
    cache.append(*pair(rng, 2))
    assert repr(cache) == (
        "KvCache(len=2, capacity=12, num_kv_heads=2, head_dim=4, block_size=3, dtype=float32)"
    )
