"""Keys and values go to their slots, back to dense arrays, and from block to block."""

from typing import Any

import numpy as np
import pytest
from support.attention_oracle import Options, attention, relative_error
from support.devices import Device
from support.elements import Array, decode, encode, poison
from support.errors import refuses
from support.paged_cases import Sizes, make_case
from support.values import DTYPES, same_bits, tokens

from pagedkv import InvalidSlotError, ShapeError, UnsupportedError, ops

pytestmark = pytest.mark.usefixtures("device")

FLOATS = ["float64", "float32", "float16", "bfloat16"]
QUANTISED = ["float8_e4m3", "float8_e5m2", "int8", "int4"]
LARGEST = {"float8_e4m3": 448, "float8_e5m2": 57344, "int8": 127, "int4": 7}
# Half a step between neighbours, relative to the largest value of a row.
STEP = {"float8_e4m3": 1 / 16, "float8_e5m2": 1 / 8, "int8": 0.6 / 127, "int4": 0.6 / 7}


def slots_of(rng: np.random.Generator, count: int, num_slots: int) -> Array:
    return rng.permutation(num_slots)[:count].astype(np.int64)


def rows_at(cache: Array, slots: Array, layout: str) -> Array:
    """``[slot, head, ...]`` of a cache, by indexing."""
    by_token = cache if layout == "NHD" else np.moveaxis(cache, 1, 2)
    size = by_token.shape[1]
    return by_token[slots // size, slots % size]


@pytest.mark.parametrize("layout", ["HND", "NHD"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_the_caches_dtype_are_copied_bit_for_bit(
    rng: np.random.Generator, dtype: str, layout: str
) -> None:
    shape = (6, 3, 16) if layout == "HND" else (6, 16, 3)
    k_cache, v_cache = tokens(rng, dtype, *shape, 24), tokens(rng, dtype, *shape, 40)
    k, v = tokens(rng, dtype, 50, 3, 24), tokens(rng, dtype, 50, 3, 40)
    slots = slots_of(rng, 50, 96)
    slots[::7] = -1
    before = k_cache.copy(), v_cache.copy()
    ops.write_kv(k, v, k_cache, v_cache, slots, layout=layout, dtype=dtype)
    written = slots >= 0
    for cache, rows, old in ((k_cache, k, before[0]), (v_cache, v, before[1])):
        assert same_bits(rows_at(cache, slots[written], layout), rows[written])
        others = np.setdiff1d(np.arange(96), slots)
        assert same_bits(rows_at(cache, others, layout), rows_at(old, others, layout))


@pytest.mark.parametrize("scales", ["tensor", "head", "token"])
@pytest.mark.parametrize("dtype", QUANTISED)
@pytest.mark.parametrize("given", FLOATS)
def test_floats_are_quantised_as_they_are_written(
    rng: np.random.Generator, given: str, dtype: str, scales: str
) -> None:
    heads, size, blocks, dim = 2, 8, 5, 40
    cache = tokens(rng, dtype, blocks, heads, size, dim)
    other = cache.copy()
    rows = encode(rng.standard_normal((30, heads, dim)), given)
    slots = slots_of(rng, 30, blocks * size)
    largest = np.abs(decode(rows, given)).max()
    scale: Any = largest / LARGEST[dtype]
    if scales == "head":
        scale = np.full((blocks, heads), scale, np.float32)
    if scales == "token":
        scale = np.full((blocks, heads, size), np.nan, np.float32)
    kept = None if scales != "head" else scale.copy()
    second = scale.copy() if isinstance(scale, np.ndarray) else scale
    ops.write_kv(rows, rows, cache, other, slots, k_scale=scale, v_scale=second, dtype=dtype)
    assert same_bits(cache, other)
    if kept is not None:
        assert same_bits(scale, kept)
    factor: Any = np.float32(scale) if scales == "tensor" else largest / LARGEST[dtype]
    if scales == "token":
        factor = rows_at(scale, slots, "HND")[..., None].astype(np.float64)
        expected = np.abs(decode(rows, given)).max(axis=-1, keepdims=True) / LARGEST[dtype]
        np.testing.assert_allclose(factor, expected, rtol=1e-5)
    came = decode(rows_at(cache, slots, "HND"), dtype) * factor
    assert np.all(np.abs(came - decode(rows, given)) <= STEP[dtype] * largest)


@pytest.mark.elements("int8")
def test_written_tokens_are_what_attention_reads(rng: np.random.Generator) -> None:
    k, v = rng.standard_normal((2, 40, 2, 64)).astype(np.float32)
    k_cache, v_cache = (np.full((5, 2, 16, 64), -128, np.int8) for _ in range(2))
    k_scale, v_scale = (np.full((5, 2, 16), np.nan, np.float32) for _ in range(2))
    table = np.array([[4, 0, 2]], np.int32)
    slots = [int(table[0, t // 16]) * 16 + t % 16 for t in range(40)]
    ops.write_kv(k, v, k_cache, v_cache, slots, k_scale=k_scale, v_scale=v_scale)
    q = rng.standard_normal((1, 8, 64)).astype(np.float32)
    out = ops.paged_attention(q, k_cache, v_cache, table, [40], k_scale=k_scale, v_scale=v_scale)
    expected, _ = attention(*(x.astype(np.float64) for x in (q, k, v)), Options())
    assert relative_error(out.astype(np.float64), expected) < 2e-2


@pytest.mark.parametrize("layout", ["HND", "NHD"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gathered_tokens_are_those_of_the_sequences(
    rng: np.random.Generator, dtype: str, layout: str
) -> None:
    sizes = Sizes([40, 0, 1, 33], block_size=8, layout=layout, v_head_dim=24)
    case = make_case(rng, sizes, dtype, scales="head" if dtype in QUANTISED else None)
    arrays = [case.arrays[n] for n in ("k_cache", "v_cache", "block_tables", "seq_lens")]
    named = {"layout": layout, "dtype": dtype}
    k, v = ops.gather_kv(*arrays, **named)
    assert (k.dtype, v.dtype) == (arrays[0].dtype, arrays[1].dtype)
    assert k.shape[0] == 74
    if dtype not in QUANTISED:
        np.testing.assert_array_equal(decode(k, dtype), np.concatenate(case.k))
        np.testing.assert_array_equal(decode(v, dtype), np.concatenate(case.v))
    scales = {name: case.keywords[name] for name in ("k_scale", "v_scale")}
    wide = "float64" if dtype == "float64" else "float32"
    k, v = ops.gather_kv(*arrays, **named, **scales, out_dtype=wide)
    np.testing.assert_allclose(k, np.concatenate(case.k), rtol=1e-6)
    np.testing.assert_allclose(v, np.concatenate(case.v), rtol=1e-6)
    out = np.empty_like(k), np.empty_like(v)
    again = ops.gather_kv(*arrays, **named, **scales, out=out)
    assert again[0] is out[0]
    assert same_bits(out[0], k)
    assert same_bits(out[1], v)


def test_sequences_of_no_tokens_are_gathered_to_no_rows(rng: np.random.Generator) -> None:
    case = make_case(rng, Sizes([0, 0]))
    arrays = [case.arrays[n] for n in ("k_cache", "v_cache", "block_tables", "seq_lens")]
    k, v = ops.gather_kv(*arrays)
    assert k.shape == v.shape == (0, 2, 64)


def test_blocks_are_copied_in_order_within_arrays_of_any_kind(rng: np.random.Generator) -> None:
    caches = [
        tokens(rng, "float32", 7, 2, 4, 8),
        tokens(rng, "bfloat16", 7, 4, 8),
        rng.standard_normal((7, 2)).astype(np.float32),
        tokens(rng, "int4", 7, 2, 4, 16).transpose(0, 2, 1, 3),
    ]
    expected = [cache.copy() for cache in caches]
    pairs = [(0, 1), (1, 2), (5, 5), (6, 0)]
    for source, target in pairs:
        for cache in expected:
            cache[target] = cache[source]
    ops.copy_blocks(caches, pairs)
    for cache, other in zip(caches, expected, strict=True):
        assert same_bits(cache, other)


def test_slots_are_moved_in_order_with_their_scales(rng: np.random.Generator) -> None:
    hnd, nhd = tokens(rng, "int8", 5, 2, 4, 8), tokens(rng, "int8", 5, 4, 2, 8)
    scales = rng.standard_normal((5, 2, 4)).astype(np.float32)
    latent = tokens(rng, "float16", 5, 4, 8)
    pairs = np.array([[0, 3], [3, 19], [7, 7], [12, 0]])
    expected = [x.copy() for x in (hnd, nhd, scales, latent)]
    for source, target in pairs:
        (a, i), (b, j) = divmod(source, 4), divmod(target, 4)
        for of_head in (expected[0], expected[2]):
            of_head[b, :, j] = of_head[a, :, i]
        for of_token in (expected[1], expected[3]):
            of_token[b, j] = of_token[a, i]
    ops.move_slots([hnd, latent], pairs, scales=[scales])
    ops.move_slots([nhd], pairs, layout="NHD")
    for came, other in zip((hnd, nhd, scales, latent), expected, strict=True):
        assert same_bits(came, other)


def test_blocks_are_swapped_between_pools(rng: np.random.Generator) -> None:
    source, target = tokens(rng, "float16", 4, 2, 4, 8), tokens(rng, "float16", 9, 2, 4, 8)
    source.flags.writeable = False
    expected = target.copy()
    expected[[8, 0]] = source[[1, 3]]
    ops.swap_blocks(source, target, [[1, 8], [3, 0]])
    assert same_bits(target, expected)


def test_no_pairs_move_nothing(rng: np.random.Generator) -> None:
    cache = tokens(rng, "float32", 4, 2, 4, 8)
    before = cache.copy()
    for none in ([], np.zeros((0, 2), np.int64)):
        ops.copy_blocks([cache], none)
        ops.move_slots([cache], none)
        ops.swap_blocks(before, cache, none)
    ops.copy_blocks([], [[1, 2]])
    assert same_bits(cache, before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3"])
def test_latent_rows_go_to_views_of_one_cache(rng: np.random.Generator, dtype: str) -> None:
    joined = encode(np.zeros((3, 16, 72)), dtype)
    ckv, kpe = (encode(rng.standard_normal((20, n)), dtype) for n in (64, 8))
    slots = slots_of(rng, 20, 48)
    ops.mla_write(ckv, kpe, joined[..., :64], joined[..., 64:], slots, dtype=dtype)
    rows = joined[slots // 16, slots % 16]
    assert same_bits(np.ascontiguousarray(rows[:, :64]), ckv)
    assert same_bits(np.ascontiguousarray(rows[:, 64:]), kpe)


# RoPE


def rotated(x: Array, positions: Array, angles: Array, *, interleaved: bool) -> Array:
    half = angles.shape[1] // 2
    cos, sin = (part[:, None] for part in np.split(angles[positions].astype(np.float64), 2, axis=1))
    out = x.copy()
    a, b = (
        (np.s_[..., 0 : 2 * half : 2], np.s_[..., 1 : 2 * half : 2])
        if interleaved
        else (np.s_[..., :half], np.s_[..., half : 2 * half])
    )
    out[a] = x[a] * cos - x[b] * sin
    out[b] = x[b] * cos + x[a] * sin
    return out


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("rotary_dim", [64, 32])
@pytest.mark.parametrize("dtype", FLOATS)
def test_queries_and_keys_are_normed_and_rotated_as_keys_are_written(
    rng: np.random.Generator, dtype: str, rotary_dim: int, norm: bool, interleaved: bool
) -> None:
    q, k, v = (encode(rng.standard_normal((9, heads, 64)), dtype) for heads in (4, 2, 2))
    angles = rng.standard_normal((50, rotary_dim)).astype(np.float32)
    positions = rng.integers(0, 50, 9)
    slots = slots_of(rng, 9, 32)
    slots[4] = -1
    k_cache, v_cache = (encode(np.zeros((4, 2, 8, 64)), dtype) for _ in range(2))
    weights = [rng.standard_normal(64).astype(np.float32) for _ in range(2)] if norm else [None] * 2
    out = ops.rope_write_kv(
        q, k, v, positions, angles, k_cache, v_cache, slots, interleaved=interleaved,
        q_norm_weight=weights[0], k_norm_weight=weights[1], norm_eps=1e-5,
    )  # fmt: skip
    limit = {"float64": 1e-6, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}[dtype]

    def expected(x: Array, weight: Array | None) -> Array:
        x = decode(x, dtype)
        if weight is not None:
            x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * weight
        return rotated(x, positions, angles, interleaved=interleaved)

    assert out.dtype == q.dtype
    assert relative_error(decode(out, dtype), expected(q, weights[0])) < limit
    there = slots >= 0
    keys = decode(rows_at(k_cache, slots[there], "HND"), dtype)
    assert relative_error(keys, expected(k, weights[1])[there]) < limit
    assert same_bits(rows_at(v_cache, slots[there], "HND"), v[there])


def test_keys_may_be_rotated_alone_and_queries_in_place(rng: np.random.Generator) -> None:
    q, k, v = (rng.standard_normal((5, 2, 16)).astype(np.float32) for _ in range(3))
    angles = rng.standard_normal((8, 16)).astype(np.float32)
    caches = [np.zeros((1, 2, 8, 16), np.float32) for _ in range(4)]
    given: Any = (k, v, [0, 1, 2, 3, 4], angles)
    expected = ops.rope_write_kv(q, *given, *caches[:2], [4, 3, 2, 1, 0])
    assert ops.rope_write_kv(None, *given, *caches[2:], [4, 3, 2, 1, 0]) is None
    assert same_bits(caches[0], caches[2])
    assert ops.rope_write_kv(q, *given, *caches[:2], [4, 3, 2, 1, 0], out=q) is q
    assert same_bits(q, expected)


# Merging


@pytest.mark.parametrize("dtype", FLOATS)
def test_two_parts_of_a_context_merge_to_the_whole(rng: np.random.Generator, dtype: str) -> None:
    case = make_case(rng, Sizes([48, 20], block_size=4), dtype)
    tables = case.arrays["block_tables"]
    whole, whole_lse = ops.paged_attention(**case.arrays, **case.keywords, return_lse=True)
    keywords = case.keywords | {"causal": False}
    front = case.arrays | {"seq_lens": [28, 0]}
    back = case.arrays | {"block_tables": tables[:, 7:].copy(), "seq_lens": [20, 20]}
    back["block_tables"][1] = -1
    back["block_tables"][1, :5] = tables[1, :5]
    parts = [
        part
        for arrays in (front, back)
        for part in ops.paged_attention(**arrays, **keywords, return_lse=True)
    ]
    out, lse = ops.merge_attention_states(*parts)
    # The weights of the parts are those of a float32 LSE.
    limit = max(case.limit, 1e-6)
    assert relative_error(case.values_of(out), case.values_of(whole)) < limit
    np.testing.assert_allclose(lse, whole_lse, rtol=1e-5)
    again = ops.merge_attention_states(*parts, out=(parts[0], parts[1]))
    assert again[0] is parts[0]
    assert same_bits(parts[0], out)
    assert same_bits(parts[1], lse)


def test_parts_that_saw_nothing_merge_to_nothing() -> None:
    nothing = np.full((2, 3, 8), np.nan, np.float32), np.full((2, 3), -np.inf, np.float32)
    out, lse = ops.merge_attention_states(*nothing, *(x.copy() for x in nothing))
    assert np.all(out == 0)
    assert np.all(np.isneginf(lse))


# torch


@pytest.mark.only_on("cpu")
def test_torch_tensors_are_written_and_gathered() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    k, v = torch.randn((2, 5, 2, 8)).to(torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        k_cache, v_cache = (torch.zeros((3, 2, 4, 8), dtype=dtype) for _ in range(2))
        ops.write_kv(k, v, k_cache, v_cache, torch.tensor([0, 1, 2, 3, 8]))
        tables = torch.tensor([[0, 2]], dtype=torch.int32)
        keys, values = ops.gather_kv(k_cache, v_cache, tables, [5], out_dtype=torch.bfloat16)
        assert torch.equal(keys, k.to(dtype).to(torch.bfloat16))
        assert torch.equal(values, v.to(dtype).to(torch.bfloat16))
        keys, _ = ops.gather_kv(k_cache, v_cache, tables, [5])
        assert keys.dtype == dtype
    q = torch.randn((5, 4, 8))
    angles = torch.randn((9, 8))
    caches = [torch.zeros((3, 2, 4, 8)) for _ in range(2)]
    out = ops.rope_write_kv(q, k, v, torch.arange(5), angles, *caches, torch.arange(5))
    assert isinstance(out, torch.Tensor)


# What is refused


def pool(dtype: Any = np.float32) -> Array:
    return np.zeros((3, 2, 4, 8), dtype)


def rows(count: int = 2, dtype: Any = np.float32) -> Array:
    return np.ones((count, 2, 8), dtype)


@pytest.mark.only_on("cpu", "cuda")  # Metal's kernels do not say which
def test_slots_outside_the_cache_are_refused(device: Device) -> None:
    k_cache, v_cache = pool(), pool()
    # What only a kernel sees comes too late for the other tokens.
    unchanged = (k_cache, v_cache) if device.name == "cpu" else ()
    for slot in (12, -2, 2**40):
        with refuses(InvalidSlotError, "ops.write_kv", str(slot), unchanged=unchanged):
            ops.write_kv(rows(), rows(), k_cache, v_cache, [0, slot])


def test_blocks_outside_the_cache_are_refused() -> None:
    cache = pool()
    for pair in ((0, 3), (-1, 0)):
        with pytest.raises(InvalidSlotError):
            ops.copy_blocks([cache], [pair])
        with pytest.raises(InvalidSlotError):
            ops.swap_blocks(pool(), cache, [pair])
    with pytest.raises(InvalidSlotError):
        ops.move_slots([cache], [(0, 12)])
    with pytest.raises(InvalidSlotError):
        ops.gather_kv(cache, pool(), [[0, 3]], [5])
    assert np.all(cache == 0)


WRITES: list[tuple[dict[str, Any], str]] = [
    ({"k": rows(3)}, "slot_mapping of 2"),
    ({"v": rows(3)}, "v [3, 2, 8]"),
    ({"k": rows(dtype=np.int8)}, "int8"),
    ({"k": rows()[:, :1]}, "k [2, 1, 8]"),
    ({"v_cache": np.zeros((3, 1, 4, 8), np.float32)}, "v_cache"),
    ({"slot_mapping": [0.0, 1.0]}, "slot_mapping of float64"),
    ({"slot_mapping": [[0, 1]]}, "slot_mapping of shape (1, 2)"),
    ({"k_scale": 0.5}, "scale"),
    ({"layout": "NHDX"}, "layout 'NHDX'"),
]


@pytest.mark.parametrize(("wrong", "given"), WRITES, ids=[given for _, given in WRITES])
def test_writes_that_do_not_go_together_are_refused(wrong: dict[str, Any], given: str) -> None:
    call = {"k": rows(), "v": rows(), "k_cache": pool(), "v_cache": pool(), "slot_mapping": [0, 1]}
    call |= wrong
    with refuses(ShapeError, "ops.write_kv", given, unchanged=(call["k_cache"], call["v_cache"])):
        ops.write_kv(**call)


def test_what_is_read_only_is_not_written_to() -> None:
    locked = pool()
    locked.flags.writeable = False
    scale = np.ones((3, 2, 4), np.float32)
    scale.flags.writeable = False
    with refuses(ShapeError, "ops.write_kv", "v_cache that is read-only"):
        ops.write_kv(rows(), rows(), pool(), locked, [0, 1])
    with refuses(ShapeError, "ops.write_kv", "k_scale that is read-only"):
        ops.write_kv(rows(), rows(), pool(np.int8), pool(np.int8), [0, 1], k_scale=scale)
    with refuses(ShapeError, "ops.copy_blocks", "a cache that is read-only"):
        ops.copy_blocks([locked], [(0, 1)])
    with refuses(ShapeError, "ops.swap_blocks", "dst_cache that is read-only"):
        ops.swap_blocks(pool(), locked, [(0, 1)])
    with refuses(ShapeError, "ops.move_slots", "a scale that is read-only"):
        ops.move_slots([pool()], [(0, 1)], scales=[scale])


def test_caches_that_share_memory_are_refused() -> None:
    cache = pool()
    with refuses(ShapeError, "ops.write_kv", "k_cache"):
        ops.write_kv(rows(), rows(), cache, cache, [0, 1])
    with pytest.raises(ShapeError):
        ops.copy_blocks([cache, cache[1:]], [(0, 1)])


def test_unknown_output_dtypes_are_refused() -> None:
    with refuses(UnsupportedError, "ops.gather_kv", "dtype complex64"):
        ops.gather_kv(pool(), pool(), [[0]], [1], out_dtype="complex64")
    with refuses(ShapeError, "ops.gather_kv", "out[0] of float32", "float16"):
        ops.gather_kv(pool(), pool(), [[0]], [1], out_dtype="float16", out=(rows(1), rows(1)))


def test_the_poison_of_other_slots_stays_there() -> None:
    cache = encode(np.zeros((2, 1, 4, 8)), "float16")
    cache[:] = poison("float16")
    ops.write_kv(
        np.ones((1, 1, 8), np.float16), np.ones((1, 1, 8), np.float16), cache, cache.copy(), [5]
    )
    assert np.isnan(cache).sum() == 56
