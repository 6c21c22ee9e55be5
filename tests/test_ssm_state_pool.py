"""SsmStatePool: slots of recurrent state, their tenancies and snapshots."""

import copy
import struct
from typing import Any

import numpy as np
import pytest
from support.errors import refuses
from support.values import DTYPES, SHOWN_AS, same_bits, tokens

from pagedkv import (
    CapacityError,
    InvalidSlotError,
    PoolExhaustedError,
    ShapeError,
    SsmSlot,
    SsmSnapshot,
    SsmStatePool,
    SsmStateSpec,
    UnsupportedError,
)

SSM, CONV = (2, 3, 4, 5), (2, 6, 3)
SHAPE = {"num_layers": 2, "num_heads": 3, "head_dim": 4, "d_state": 5, "conv_dim": 6, "d_conv": 4}


def spec(dtype: str = "float32", **changes: int) -> SsmStateSpec:
    return SsmStateSpec(**(SHAPE | changes), dtype=dtype)


def slot_of(pool: SsmStatePool, request_id: int = 1) -> SsmSlot:
    slot = pool.slot(pool.alloc(request_id))
    assert slot is not None
    return slot


def fill(slot: SsmSlot, rng: np.random.Generator, dtype: str = "float32") -> tuple[Any, Any]:
    ssm, conv = tokens(rng, dtype, *SSM), tokens(rng, dtype, *CONV)
    slot.ssm_state[:] = ssm
    slot.conv_state[:] = conv
    return ssm, conv


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "int4"])
def test_a_slot_holds_the_recurrent_state_and_the_convolutions_history_of_every_layer(
    dtype: str, rng: np.random.Generator
) -> None:
    pool = SsmStatePool(3, spec(dtype))
    slots = [slot_of(pool, request_id) for request_id in (10, 11, 12)]
    written = [fill(slot, rng, dtype) for slot in slots]
    for request_id, slot, (ssm, conv) in zip((10, 11, 12), slots, written, strict=True):
        assert slot.ssm_state.dtype == slot.conv_state.dtype == SHOWN_AS[dtype]
        assert same_bits(slot.ssm_state, ssm)
        assert same_bits(slot.conv_state, conv)
        assert (slot.request_id, slot.position) == (request_id, 0)
    assert pool.spec == spec(dtype)


def test_a_convolution_of_width_one_has_no_history() -> None:
    slot = slot_of(SsmStatePool(1, spec(d_conv=1)))
    assert slot.conv_state.shape == (2, 6, 0)
    assert slot_of(SsmStatePool(1, spec(conv_dim=0))).conv_state.shape == (2, 0, 3)


def test_a_slot_reads_as_zero_at_position_zero_when_it_is_handed_out_again(
    rng: np.random.Generator,
) -> None:
    pool = SsmStatePool(2, spec())
    for request_id in range(5):
        slot = slot_of(pool, request_id)
        assert not slot.ssm_state.any()
        assert not slot.conv_state.any()
        assert (slot.position, slot.request_id) == (0, request_id)
        fill(slot, rng)
        slot.advance(9)
        pool.release(slot.index)


def test_a_full_pool_raises() -> None:
    pool = SsmStatePool(1, spec())
    pool.alloc(1)
    with refuses(
        PoolExhaustedError, "SsmStatePool.alloc", "1 needed, 0 free", unchanged=pool
    ) as raised:
        pool.alloc(2)
    assert (raised.value.needed, raised.value.free) == (1, 0)
    with refuses(PoolExhaustedError, "SsmStatePool.alloc"):
        SsmStatePool(0, spec()).alloc(1)


@pytest.mark.parametrize("slot", [0, 2, 3, -1, 2**32, 2**64])
def test_releasing_a_slot_that_is_out_of_range_or_already_free_is_an_invalid_slot(
    slot: int,
) -> None:
    pool = SsmStatePool(3, spec())
    pool.alloc(1)
    pool.alloc(2)
    pool.release(0)
    with refuses(
        InvalidSlotError, "SsmStatePool.release", f"slot {slot} is", unchanged=pool
    ) as raised:
        pool.release(slot)
    assert raised.value.slot == slot


@pytest.mark.parametrize("index", [0, 2, 3, -1, 2**32, 2**64])
def test_a_slot_that_is_not_live_is_none(index: int) -> None:
    pool = SsmStatePool(3, spec())
    pool.alloc(1)
    pool.alloc(2)
    pool.release(0)
    assert pool.slot(index) is None
    assert pool.slot_view(index) is None
    assert pool.slot(1) is not None


@pytest.mark.parametrize("again", [False, True])
def test_nobody_reads_another_requests_state(again: bool, rng: np.random.Generator) -> None:
    pool = SsmStatePool(1, spec())
    slot = slot_of(pool)
    view = pool.slot_view(0)
    assert view is not None
    snapshot = slot.snapshot()
    pool.release(0)
    if again:
        fill(slot_of(pool, 2), rng)
    for each in slot, view:
        assert not each.is_live
        assert each.index == 0
        for name in "ssm_state", "conv_state", "position", "request_id":
            with pytest.raises(InvalidSlotError, match=rf"^\[SsmSlot.{name}\] slot 0 is not live"):
                getattr(each, name)
        with pytest.raises(InvalidSlotError, match="slot 0 is not live"):
            each.snapshot()
    with refuses(InvalidSlotError, "SsmSlot.advance", "slot 0 is not live", unchanged=pool):
        slot.advance()
    with pytest.raises(InvalidSlotError, match="slot 0 is not live"):
        slot.restore(snapshot)
    with refuses(InvalidSlotError, "SsmSlot.set_position", "not live", unchanged=pool):
        slot.position = 3


def test_a_view_of_a_slot_is_read_only(rng: np.random.Generator) -> None:
    pool = SsmStatePool(1, spec())
    slot = slot_of(pool, 7)
    view = pool.slot_view(0)
    assert view is not None
    ssm, conv = fill(slot, rng)
    slot.advance()
    assert same_bits(view.ssm_state, ssm)
    assert same_bits(view.conv_state, conv)
    assert (view.position, view.request_id, view.index) == (1, 7, 0)
    for array in view.ssm_state, view.conv_state:
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
    for name in "advance", "restore":
        assert not hasattr(view, name)
    with pytest.raises(AttributeError):
        view.position = 3  # type: ignore[misc]


def test_advance_counts_tokens() -> None:
    slot = slot_of(SsmStatePool(1, spec()))
    slot.advance()
    slot.advance(5)
    slot.advance(0)
    slot.advance(n=np.int64(2))
    assert slot.position == 8
    for n in (-1, 2**64):
        with refuses(ShapeError, "SsmSlot.advance", f"n is {n}", unchanged=slot):
            slot.advance(n)


def test_a_position_beyond_64_bits_is_a_capacity_error() -> None:
    slot = slot_of(SsmStatePool(1, spec()))
    slot.advance(2**64 - 1)
    with refuses(CapacityError, "SsmSlot.advance", str(2**64 - 1), "below 2^64", unchanged=slot):
        slot.advance()


def test_a_position_can_be_set() -> None:
    slot = slot_of(SsmStatePool(1, spec()))
    slot.advance(9)
    slot.position = 3
    assert slot.position == 3
    with refuses(ShapeError, "SsmSlot.position", "position is -1", unchanged=slot):
        slot.position = -1


def test_request_ids_are_of_64_bits() -> None:
    pool = SsmStatePool(2, spec())
    assert slot_of(pool, 2**64 - 1).request_id == 2**64 - 1
    for request_id in (-1, 2**64):
        with refuses(ShapeError, "SsmStatePool.alloc", "request_id is", unchanged=pool):
            pool.alloc(request_id)


def test_counts_add_up() -> None:
    pool = SsmStatePool(3, spec())
    assert (pool.capacity, pool.free_count, pool.used_count) == (3, 3, 0)
    assert [pool.alloc(request_id) for request_id in (5, 5)] == [0, 1]
    assert (pool.free_count, pool.used_count) == (1, 2)
    pool.release(0)
    assert (pool.free_count, pool.used_count) == (2, 1)


def test_a_snapshot_outlives_its_slot_and_restores_it(rng: np.random.Generator) -> None:
    pool = SsmStatePool(2, spec())
    slot = slot_of(pool, 1)
    ssm, conv = fill(slot, rng)
    slot.advance(6)
    snapshot = slot.snapshot()
    fill(slot, rng)
    slot.advance()
    assert (snapshot.position, snapshot.spec) == (6, spec())
    assert same_bits(snapshot.ssm_state, ssm)
    assert same_bits(snapshot.conv_state, conv)
    slot.restore(snapshot)
    assert same_bits(slot.ssm_state, ssm)
    assert slot.position == 6
    pool.release(slot.index)
    other = slot_of(pool, 2)
    other.restore(snapshot)
    assert same_bits(other.conv_state, conv)
    assert (other.position, other.request_id) == (6, 2)


def test_a_snapshot_never_changes(rng: np.random.Generator) -> None:
    slot = slot_of(SsmStatePool(1, spec()))
    fill(slot, rng)
    snapshot = slot.snapshot()
    for array in snapshot.ssm_state, snapshot.conv_state:
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
    assert copy.copy(snapshot) is snapshot
    assert copy.deepcopy(snapshot) is snapshot
    same, other = slot.snapshot(), slot.snapshot
    assert same == snapshot
    slot.advance()
    assert other() != snapshot
    assert snapshot != b"snapshot"
    with pytest.raises(TypeError, match="unhashable"):
        hash(snapshot)


@pytest.mark.parametrize(
    "changes",
    [{name: size + 1} for name, size in SHAPE.items()]
    + [{"num_heads": 4, "head_dim": 3}, {"dtype": "float16"}, {"dtype": "float64"}],
)
def test_a_snapshot_of_another_shape_or_dtype_is_an_error_never_a_truncation(
    changes: dict[str, Any], rng: np.random.Generator
) -> None:
    slot = slot_of(SsmStatePool(1, spec()))
    fill(slot, rng)
    other = slot_of(SsmStatePool(1, spec(**changes))).snapshot()
    with refuses(
        ShapeError,
        "SsmSlot.restore",
        "a snapshot of SsmStateSpec(",
        "SsmStateSpec(",
        unchanged=slot,
    ):
        slot.restore(other)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_snapshot_travels_as_bytes(dtype: str, rng: np.random.Generator) -> None:
    slot = slot_of(SsmStatePool(1, spec(dtype)))
    ssm, conv = fill(slot, rng, dtype)
    slot.advance(2**60)
    snapshot = SsmSnapshot.from_bytes(slot.snapshot().to_bytes())
    assert snapshot == slot.snapshot()
    assert snapshot.position == 2**60
    assert same_bits(snapshot.ssm_state, ssm)
    assert same_bits(snapshot.conv_state, conv)
    assert snapshot.to_bytes().endswith(ssm.tobytes() + conv.tobytes())


def test_the_bytes_of_a_snapshot_are_a_header_and_the_state() -> None:
    slot = slot_of(SsmStatePool(1, spec()))
    slot.advance(7)
    saved = slot.snapshot().to_bytes()
    assert saved[:8] == b"PKVSSM01"
    assert struct.unpack("<8Q", saved[8:72]) == (*SHAPE.values(), 1, 7)
    assert len(saved) == 80 + 4 * (np.prod(SSM) + np.prod(CONV))


def test_damaged_bytes_are_a_shape_error(rng: np.random.Generator) -> None:
    slot = slot_of(SsmStatePool(1, spec()))
    fill(slot, rng)
    saved = slot.snapshot().to_bytes()
    damaged = [saved[:-1], saved + b"\0", saved[:79], saved[:80], b"", b"x" * 200]
    for at in [*range(80), 80, len(saved) // 2, len(saved) - 1]:
        flipped = bytearray(saved)
        flipped[at] ^= 0x40
        damaged.append(bytes(flipped))
    for at in range(8, 72, 8):  # each field too large, and zero
        damaged.append(saved[:at] + b"\xff" * 8 + saved[at + 8 :])
        damaged.append(saved[:at] + b"\0" * 8 + saved[at + 8 :])
    for data in damaged:
        if data == saved:
            continue
        with pytest.raises((ShapeError, UnsupportedError), match=r"^\[Ssm\w+(\.from_bytes)?\] .+;"):
            SsmSnapshot.from_bytes(data)
    for wrong in bytearray(saved), "text", None, slot:
        with pytest.raises(TypeError):
            SsmSnapshot.from_bytes(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["num_layers", "num_heads", "head_dim", "d_state", "d_conv"])
def test_a_dimension_of_zero_is_a_shape_error(name: str) -> None:
    with refuses(ShapeError, "SsmStateSpec", f"{name} is 0", "at least 1"):
        spec(**{name: 0})
    with refuses(ShapeError, "SsmStateSpec", f"{name} is -1"):
        spec(**{name: -1})


def test_specs_that_no_slot_can_have_are_refused() -> None:
    with refuses(UnsupportedError, "SsmStateSpec", "dtype int4", "at least 8 bits"):
        spec("int4")
    with refuses(UnsupportedError, "SsmStateSpec", "dtype float128"):
        spec("float128")
    with refuses(ShapeError, "SsmStateSpec", "a size beyond"):
        spec(num_heads=2**40, head_dim=2**40)
    with pytest.raises(ShapeError, match="a size beyond"):
        SsmStatePool(2**31 - 1, spec(num_heads=2**30, head_dim=2**20))
    with pytest.raises(CapacityError, match="2147483648"):
        SsmStatePool(2**31, spec())
    with refuses(ShapeError, "SsmStatePool", "capacity is -1"):
        SsmStatePool(-1, spec())


def test_specs_compare_hash_and_copy_by_their_fields() -> None:
    assert spec() == spec()
    assert hash(spec()) == hash(spec())
    assert len({spec(), spec(), spec("float64"), spec(d_conv=1)}) == 3
    assert spec() != spec("float64")
    assert spec() != "SsmStateSpec"
    assert copy.deepcopy(spec()) == copy.copy(spec()) == spec()
    fields = {name: getattr(spec(), name) for name in SHAPE}
    assert fields == SHAPE
    assert spec().dtype == "float32"
    assert spec().slot_bytes == 4 * (np.prod(SSM) + np.prod(CONV))
    with pytest.raises(AttributeError):
        spec().num_layers = 3  # type: ignore[misc]


def test_reprs_show_what_matters() -> None:
    pool = SsmStatePool(2, spec())
    slot = slot_of(pool, 7)
    slot.advance(3)
    shape = ", ".join(f"{name}={size}" for name, size in SHAPE.items())
    assert repr(spec()) == f"SsmStateSpec({shape}, dtype=float32)"
    assert repr(pool) == f"SsmStatePool(capacity=2, used=1, spec={spec()!r})"
    assert repr(slot) == "SsmSlot(0, request_id=7, position=3)"
    assert repr(pool.slot_view(0)) == "SsmSlotView(0, request_id=7, position=3)"
    assert repr(slot.snapshot()) == f"SsmSnapshot(position=3, spec={spec()!r})"
    pool.release(0)
    assert repr(slot) == "SsmSlot(0, released)"
