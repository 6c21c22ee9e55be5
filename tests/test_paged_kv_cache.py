"""PagedKvCache: the CPU cache of float64 vectors."""

import copy
import struct
from typing import Any

import numpy as np
import pytest
from support.errors import refuses
from support.values import same_bits, tokens

from pagedkv import CapacityError, InvalidSlotError, PagedKvCache, ShapeError

DIM = 4


def shuffled(max_tokens: int, dim: int = DIM) -> PagedKvCache:
    cache = PagedKvCache(max_tokens, dim)
    order = np.random.default_rng(5).permutation(cache.num_blocks)
    cache._permute_blocks(order.tolist())
    return cache


def filled(n: int, max_tokens: int, rng: np.random.Generator, make: Any = PagedKvCache) -> Any:
    cache, values = make(max_tokens, DIM), tokens(rng, "float64", n, DIM)
    cache.append_tensor(values)
    return cache, values


@pytest.mark.parametrize("max_tokens", [0, 1, 15, 16, 17, 100])
def test_blocks_of_sixteen_tokens_are_allocated_up_front(max_tokens: int) -> None:
    cache = PagedKvCache(max_tokens, DIM)
    assert cache.num_blocks == -(-max_tokens // 16)
    assert (cache.max_tokens, cache.dim, cache.len, cache.blocks_in_use) == (max_tokens, DIM, 0, 0)
    assert cache.is_empty


@pytest.mark.parametrize("n", [1, 15, 16, 17, 32, 33, 64])
def test_blocks_in_use_follow_the_tokens(n: int, rng: np.random.Generator) -> None:
    cache, _ = filled(n, 64, rng)
    assert (cache.len, len(cache), cache.blocks_in_use) == (n, n, -(-n // 16))
    assert not cache.is_empty


def test_appending_allocates_nothing(rng: np.random.Generator) -> None:
    cache = PagedKvCache(64, DIM)
    cache.append(tokens(rng, "float64", DIM))
    where = cache.as_tensor(copy=False).ctypes.data
    for _ in range(63):
        cache.append(tokens(rng, "float64", DIM))
    assert cache.as_tensor(copy=False).ctypes.data == where
    assert cache.num_blocks == 4


@pytest.mark.parametrize("make", [PagedKvCache, shuffled])
def test_any_float64_survives_bit_for_bit(make: Any, rng: np.random.Generator) -> None:
    patterns = [
        0x7FF8000000000001,  # a quiet NaN with a payload
        0x7FF0000000000001,  # a signalling NaN
        0xFFF8DEADBEEF0000,  # a negative NaN
        0x7FF0000000000000,  # infinity
        0xFFF0000000000000,
        0x8000000000000000,  # -0.0
        0x0000000000000001,  # the smallest subnormal
        0x800FFFFFFFFFFFFF,
    ]
    special = np.frombuffer(struct.pack("<8Q", *patterns), dtype=np.float64).reshape(2, DIM)
    cache = make(64, DIM)
    cache.append(special[0])
    cache.append_tensor(special)
    more = tokens(rng, "float64", 40, DIM)
    cache.append_tensor(more)
    expected = np.concatenate([special[:1], special, more])
    assert same_bits(cache.as_tensor(), expected)
    assert same_bits(np.stack([cache.get_token(i) for i in range(43)]), expected)
    assert same_bits(cache.clone().as_tensor(), expected)


def test_a_token_of_the_wrong_size_is_a_shape_error_checked_first_also_when_full() -> None:
    cache = PagedKvCache(1, DIM)
    for wrong in 3, 5, 0:
        with refuses(
            ShapeError, "PagedKvCache.append", f"{wrong} values", "4 (dim)", unchanged=cache
        ):
            cache.append(np.zeros(wrong))
    cache.append(np.zeros(DIM))
    with refuses(ShapeError, "PagedKvCache.append", "3 values", unchanged=cache):
        cache.append(np.zeros(3))
    for shape in (1, DIM), (), (DIM, 1):
        with refuses(ShapeError, "PagedKvCache.append", f"shape {shape}", "(4,)", unchanged=cache):
            cache.append(np.zeros(shape))


@pytest.mark.parametrize("max_tokens", [1, 15, 16, 20, 32])
def test_a_full_cache_is_a_capacity_error_even_if_the_last_block_has_room(
    max_tokens: int, rng: np.random.Generator
) -> None:
    cache, _ = filled(max_tokens, max_tokens, rng)
    with refuses(
        CapacityError,
        "PagedKvCache.append",
        f"{max_tokens} tokens held and 1 more",
        f"at most {max_tokens}",
        unchanged=cache,
    ):
        cache.append(np.zeros(DIM))
    with refuses(CapacityError, "PagedKvCache.append_tensor", unchanged=cache):
        cache.append_tensor(np.zeros((1, DIM)))


@pytest.mark.parametrize("make", [PagedKvCache, shuffled])
def test_append_tensor_is_all_or_nothing(make: Any, rng: np.random.Generator) -> None:
    cache, values = filled(18, 40, rng, make)
    with refuses(
        CapacityError,
        "PagedKvCache.append_tensor",
        "18 tokens held and 23 more",
        "at most 40",
        unchanged=cache,
    ):
        cache.append_tensor(np.zeros((23, DIM)))
    more = tokens(rng, "float64", 22, DIM)
    cache.append_tensor(more)
    assert same_bits(cache.as_tensor(), np.concatenate([values, more]))


def test_a_tensor_of_no_tokens_is_fine_also_when_full(rng: np.random.Generator) -> None:
    cache, values = filled(20, 20, rng)
    cache.append_tensor(np.zeros((0, DIM)))
    assert same_bits(cache.as_tensor(), values)


@pytest.mark.parametrize("shape", [(DIM,), (0,), (1, 2, DIM), (2, 3), (2, 5), (), (0, 3), (DIM, 2)])
def test_a_tensor_that_is_not_n_by_dim_is_a_shape_error(shape: tuple[int, ...]) -> None:
    cache = PagedKvCache(16, DIM)
    with refuses(
        ShapeError, "PagedKvCache.append_tensor", f"shape {shape}", "(n, 4)", unchanged=cache
    ):
        cache.append_tensor(np.zeros(shape))


@pytest.mark.parametrize("make", [PagedKvCache, shuffled])
@pytest.mark.parametrize("n", [0, 1, 16, 17, 50, 64])
def test_as_tensor_is_a_contiguous_float64_copy(
    make: Any, n: int, rng: np.random.Generator
) -> None:
    cache, values = filled(n, 64, rng, make)
    tensor = cache.as_tensor()
    assert same_bits(tensor, values)
    assert tensor.flags.c_contiguous
    assert tensor.flags.owndata
    tensor[:] = 0
    assert same_bits(cache.as_tensor(copy=True), values)


def test_as_tensor_of_an_empty_cache_has_no_rows() -> None:
    for cache in PagedKvCache(16, DIM), PagedKvCache(0, DIM):
        for tensor in cache.as_tensor(), cache.as_tensor(copy=False):
            assert tensor.shape == (0, DIM)
            assert tensor.dtype == np.float64


@pytest.mark.parametrize("make", [PagedKvCache, shuffled])
def test_out_reuses_the_callers_buffer(make: Any, rng: np.random.Generator) -> None:
    cache, values = filled(50, 64, rng, make)
    out = np.empty((50, DIM))
    assert cache.as_tensor(out=out) is out
    assert same_bits(out, values)
    larger = np.zeros((60, DIM))
    view = larger[5:55]
    assert cache.as_tensor(out=view, copy=True) is view
    assert same_bits(larger[5:55], values)
    assert not larger[:5].any()
    assert not larger[55:].any()


def test_an_out_that_does_not_fit_is_a_shape_error(rng: np.random.Generator) -> None:
    cache, values = filled(20, 64, rng)
    frozen = np.zeros((20, DIM))
    frozen.flags.writeable = False
    unaligned = np.zeros(20 * DIM * 8 + 1, np.uint8)[1:].view(np.float64).reshape(20, DIM)
    for out in (
        np.zeros((19, DIM)),
        np.zeros((20, DIM + 1)),
        np.zeros(20 * DIM),
        np.zeros((20, DIM), np.float32),
        np.zeros((20, DIM), ">f8"),
        np.zeros((20, DIM), order="F"),
        np.zeros((20, 2 * DIM))[:, ::2],
        np.zeros((40, DIM))[::-2],
        frozen,
        unaligned,
    ):
        before = out.copy()
        with refuses(
            ShapeError,
            "PagedKvCache.as_tensor",
            f"out of shape {out.shape}",
            "writable C-contiguous float64 (20, 4)",
            unchanged=cache,
        ):
            cache.as_tensor(out=out)
        assert same_bits(out.copy(), before)
    with refuses(ShapeError, "PagedKvCache.as_tensor", "no ndarray", unchanged=cache):
        cache.as_tensor(out=values.tolist())


def test_copy_false_is_a_read_only_view_where_blocks_lie_in_order(
    rng: np.random.Generator,
) -> None:
    cache, values = filled(50, 64, rng)
    view = cache.as_tensor(copy=False)
    assert same_bits(view, values)
    assert not view.flags.owndata
    assert not view.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.flags.writeable = True


def test_copy_false_raises_where_blocks_lie_out_of_order(rng: np.random.Generator) -> None:
    cache = PagedKvCache(64, DIM)
    cache._permute_blocks([1, 2, 0, 3])
    values = tokens(rng, "float64", 33, DIM)
    cache.append_tensor(values[:32])
    assert same_bits(cache.as_tensor(copy=False), values[:32])
    cache.append(values[32])
    with refuses(ShapeError, "PagedKvCache.as_tensor", "copy=False", "copy=True", unchanged=cache):
        cache.as_tensor(copy=False)
    with pytest.raises(ValueError, match="copy=False"):
        np.asarray(cache, copy=False)


def test_copy_false_together_with_out_is_a_shape_error(rng: np.random.Generator) -> None:
    cache, _ = filled(3, 16, rng)
    with refuses(ShapeError, "PagedKvCache.as_tensor", "out together with copy=False"):
        cache.as_tensor(out=np.zeros((3, DIM)), copy=False)


def test_a_view_shows_its_tokens_also_after_append_and_clear(rng: np.random.Generator) -> None:
    cache, values = filled(5, 64, rng)
    view = cache.as_tensor(copy=False)
    cache.append_tensor(tokens(rng, "float64", 40, DIM))
    assert same_bits(view, values)
    cache.clear()
    assert same_bits(view, values)
    cache.append(np.full(DIM, 7.0))
    assert (view[0] == 7.0).all()
    assert same_bits(view[1:], values[1:])


@pytest.mark.parametrize("start", [0, 1, 3, 16])
def test_a_view_of_the_cache_itself_can_be_appended(start: int, rng: np.random.Generator) -> None:
    cache, _ = filled(40, 64, rng)
    view = cache.as_tensor(copy=False)
    cache.clear()
    first = tokens(rng, "float64", 1, DIM)
    cache.append_tensor(first)
    held = view[start : start + 20].copy()
    cache.append_tensor(view[start : start + 20])
    assert same_bits(cache.as_tensor(), np.concatenate([first, held]))
    cache.clear()
    row = view.reshape(-1)[1 : 1 + DIM].copy()
    cache.append(view.reshape(-1)[1 : 1 + DIM])
    assert same_bits(cache.get_token(0), row)


def test_get_token_is_a_copy(rng: np.random.Generator) -> None:
    cache, values = filled(20, 64, rng, shuffled)
    token = cache.get_token(17)
    assert same_bits(token, values[17])
    token[:] = 0
    assert same_bits(cache.get_token(17), values[17])


@pytest.mark.parametrize("i", [20, 63, 64, -1, 2**64])
def test_get_token_of_a_token_that_is_not_there_is_an_invalid_slot(
    i: int, rng: np.random.Generator
) -> None:
    cache, _ = filled(20, 64, rng)
    with refuses(
        InvalidSlotError,
        "PagedKvCache.get_token",
        f"token {i} is out of range",
        "less than 20",
        unchanged=cache,
    ) as raised:
        cache.get_token(i)
    assert raised.value.slot == i


def test_indexing_counts_from_the_end_and_slices(rng: np.random.Generator) -> None:
    cache, values = filled(20, 64, rng, shuffled)
    assert same_bits(cache[3], values[3])
    assert same_bits(cache[-1], values[-1])
    assert same_bits(cache[np.int64(-20)], values[0])
    for key in (
        slice(None),
        slice(3, 18),
        slice(18, 3, -4),
        slice(5, 5),
        slice(-3, None),
        slice(100, 200),
        slice(None, None, -1),
    ):
        assert same_bits(cache[key], values[key].copy())
    for outside in 20, -21, 2**64, -(2**64):
        with refuses(
            InvalidSlotError, "PagedKvCache.__getitem__", f"token {outside}", unchanged=cache
        ):
            cache[outside]
    with pytest.raises(ValueError, match="zero"):
        cache[::0]
    for key in 1.0, "0", None, (0, 1), [0]:
        with pytest.raises(TypeError):
            cache[key]


def test_iteration_gives_the_tokens_in_order(rng: np.random.Generator) -> None:
    cache, values = filled(20, 64, rng, shuffled)
    assert same_bits(np.stack(list(cache)), values)
    assert same_bits(np.stack(list(reversed(cache))), values[::-1].copy())
    assert list(PagedKvCache(4, 2)) == []


def test_numpy_reads_a_cache_as_an_array(rng: np.random.Generator) -> None:
    cache, values = filled(20, 64, rng)
    assert same_bits(np.asarray(cache), values)
    assert np.asarray(cache).flags.writeable
    with np.errstate(all="ignore"):
        assert same_bits(np.asarray(cache, dtype=np.float32), values.astype(np.float32))
    assert cache.__array__(copy=False).ctypes.data == cache.as_tensor(copy=False).ctypes.data
    with refuses(ShapeError, "PagedKvCache.__array__", "copy=False with a dtype"):
        cache.__array__(np.dtype(np.float32), copy=False)


def test_clear_keeps_the_memory(rng: np.random.Generator) -> None:
    cache, _ = filled(50, 64, rng)
    where = cache.as_tensor(copy=False).ctypes.data
    cache.clear()
    assert (cache.len, cache.is_empty, cache.blocks_in_use, cache.num_blocks) == (0, True, 0, 4)
    assert cache.as_tensor().shape == (0, DIM)
    values = tokens(rng, "float64", 64, DIM)
    cache.append_tensor(values)
    assert cache.as_tensor(copy=False).ctypes.data == where
    assert same_bits(cache.as_tensor(), values)
    cache.clear()
    cache.clear()


@pytest.mark.parametrize("cloned", [PagedKvCache.clone, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("make", [PagedKvCache, shuffled])
def test_a_clone_is_deep(cloned: Any, make: Any, rng: np.random.Generator) -> None:
    cache, values = filled(20, 64, rng, make)
    twin = cloned(cache)
    assert repr(twin) == repr(cache)
    more = tokens(rng, "float64", 10, DIM)
    twin.append_tensor(more)
    cache.append_tensor(more[::-1])
    assert same_bits(twin.as_tensor(), np.concatenate([values, more]))
    assert same_bits(cache.as_tensor(), np.concatenate([values, more[::-1]]))
    cache.clear()
    del cache
    assert same_bits(twin.as_tensor(), np.concatenate([values, more]))


def test_max_tokens_zero_is_legal_and_always_full() -> None:
    cache = PagedKvCache(0, DIM)
    assert (cache.max_tokens, cache.num_blocks, cache.len, cache.is_empty) == (0, 0, 0, True)
    with refuses(ShapeError, "PagedKvCache.append", "3 values", unchanged=cache):
        cache.append(np.zeros(3))
    with refuses(CapacityError, "PagedKvCache.append", "0 tokens held", unchanged=cache):
        cache.append(np.zeros(DIM))
    cache.append_tensor(np.zeros((0, DIM)))
    cache.clear()
    assert cache.clone().max_tokens == 0
    assert repr(cache) == "PagedKvCache(len=0, max=0, dim=4, blocks=0/0)"


def test_repr_shows_length_and_blocks() -> None:
    cache = PagedKvCache(64, 8)
    cache.append_tensor(np.zeros((20, 8)))
    assert repr(cache) == "PagedKvCache(len=20, max=64, dim=8, blocks=2/4)"


def test_a_dim_of_zero_is_a_shape_error() -> None:
    with refuses(ShapeError, "PagedKvCache", "dim is 0", "at least 1"):
        PagedKvCache(4, 0)
    for size in -1, 2**64:
        with refuses(ShapeError, "PagedKvCache", f"max_tokens is {size}"):
            PagedKvCache(size, 4)
    with refuses(ShapeError, "PagedKvCache", "a size beyond"):
        PagedKvCache(2**34, 2**40)
    with refuses(CapacityError, "PagedKvCache", str(2**36), "2^31 blocks"):
        PagedKvCache(2**36, 1)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "float16", "float32", "bool", ">f8"])
def test_what_casts_safely_to_float64_is_cast(dtype: str) -> None:
    cache = PagedKvCache(4, 2)
    values = np.array([[0, 1], [1, 0]], dtype=dtype)
    cache.append(values[0])
    cache.append_tensor(values)
    assert cache.as_tensor().tolist() == [[0, 1], [0, 1], [1, 0]]


@pytest.mark.parametrize("dtype", ["complex128", "O", "U3", "S3", "M8[s]", "f8,f8", "longdouble"])
def test_what_does_not_cast_safely_is_a_shape_error(dtype: str) -> None:
    if np.dtype(dtype) == np.float64:
        pytest.skip("long double is double on this platform")
    cache = PagedKvCache(4, 2)
    with refuses(
        ShapeError, "PagedKvCache.append", f"dtype {np.dtype(dtype)}", "float64", unchanged=cache
    ):
        cache.append(np.zeros(2, dtype))
    with refuses(ShapeError, "PagedKvCache.append_tensor", "dtype", unchanged=cache):
        cache.append_tensor(np.zeros((1, 2), dtype))


def test_arrays_may_lie_in_memory_as_they_like(rng: np.random.Generator) -> None:
    cache, values = PagedKvCache(64, DIM), tokens(rng, "float64", 6, DIM)
    raw = np.zeros(values.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float64).reshape(values.shape)
    unaligned[:] = values
    frozen = values.copy()
    frozen.flags.writeable = False
    cache.append_tensor(np.asfortranarray(values))
    cache.append_tensor(np.repeat(values, 2, axis=0)[::2])
    cache.append_tensor(unaligned)
    cache.append_tensor(frozen)
    cache.append_tensor(memoryview(values))
    cache.append_tensor(list(values))
    cache.append(np.repeat(values[0], 2)[::2])
    cache.append(unaligned[1])
    assert same_bits(cache.as_tensor(), np.concatenate([*[values] * 6, values[:2]]))


@pytest.mark.parametrize("nothing", [None, "token", {}, [[1], [2, 3]], object(), [None], ["1"]])
def test_what_is_no_array_is_a_shape_error(nothing: Any) -> None:
    cache = PagedKvCache(4, 2)
    for append in cache.append, cache.append_tensor:
        with refuses(ShapeError, f"PagedKvCache.{append.__name__}", unchanged=cache):
            append(nothing)


def test_lists_of_numbers_are_taken() -> None:
    cache = PagedKvCache(4, 2)
    cache.append([1, 2.5])
    cache.append_tensor(((True, -3),))
    assert cache.as_tensor().tolist() == [[1.0, 2.5], [1.0, -3.0]]


def test_the_hook_takes_permutations_of_an_empty_cache_alone(rng: np.random.Generator) -> None:
    cache = PagedKvCache(64, DIM)
    where = "PagedKvCache.permute_blocks"
    for order in [0, 1, 2], [0, 1, 2, 2], [0, 1, 2, 3, 3], []:
        with refuses(ShapeError, where, expected="permutation of the 4", unchanged=cache):
            cache._permute_blocks(order)
    with refuses(InvalidSlotError, "PagedKvCache._permute_blocks", "block id 4", unchanged=cache):
        cache._permute_blocks([0, 1, 2, 4])
    cache._permute_blocks(np.array([3, 2, 1, 0]))
    cache.append_tensor(tokens(rng, "float64", 3, DIM))
    with refuses(CapacityError, where, "tokens are held", unchanged=cache):
        cache._permute_blocks([0, 1, 2, 3])


def test_a_cache_without_tokens_is_still_true() -> None:
    assert PagedKvCache(4, 2)
