"""PagedSeqState: one sequence's blocks, mirrored on the device."""

import numpy as np
import pytest
from support.errors import refuses

from pagedkv import (
    BlockAllocator,
    CapacityError,
    InvalidSlotError,
    PagedSeqState,
    PoolExhaustedError,
    ShapeError,
    UnsupportedError,
)


def table(state: PagedSeqState) -> list[int]:
    return state.block_table_buf.tolist()


def length(state: PagedSeqState) -> int:
    return int(state.context_lens_buf[0])


def test_a_new_state_touches_no_allocator() -> None:
    state = PagedSeqState(16, 4)
    assert (state.blocks, state.len, state.block_size, state.max_blocks_per_seq) == ([], 0, 16, 4)
    assert state.device == "cpu"
    assert table(state) == [-1, -1, -1, -1]
    assert length(state) == 0


def test_the_device_buffers_are_read_only_int32() -> None:
    state = PagedSeqState(16, 4)
    for buffer, shape in (state.block_table_buf, (4,)), (state.context_lens_buf, (1,)):
        assert buffer.dtype == np.int32
        assert buffer.shape == shape
        with pytest.raises(ValueError, match="read-only"):
            buffer[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            buffer.flags.writeable = True


def test_a_block_size_of_zero_is_a_shape_error() -> None:
    with refuses(ShapeError, "PagedSeqState", "block_size is 0", "at least 1"):
        PagedSeqState(0, 4)
    for size in (-1, 2**64):
        with refuses(ShapeError, "PagedSeqState", f"block_size is {size}"):
            PagedSeqState(size, 4)
        with refuses(ShapeError, "PagedSeqState", f"max_blocks_per_seq is {size}"):
            PagedSeqState(4, size)


def test_ensure_capacity_takes_the_blocks_that_the_tokens_need() -> None:
    alloc = BlockAllocator(8)
    for target_len, blocks in (0, 0), (1, 1), (4, 1), (5, 2), (16, 4):
        state = PagedSeqState(4, 4)
        state.ensure_capacity(alloc, target_len)
        assert len(state.blocks) == blocks
        assert table(state) == state.blocks + [-1] * (4 - blocks)
        assert state.len == length(state) == 0
        state.release(alloc)


def test_ensure_capacity_is_idempotent() -> None:
    alloc, state = BlockAllocator(8), PagedSeqState(4, 4)
    state.ensure_capacity(alloc, 7)
    for _ in range(3):
        state.ensure_capacity(alloc, 7)
        assert state.blocks == [0, 1]
        assert alloc.in_use == 2


def test_ensure_capacity_never_shrinks() -> None:
    alloc, state = BlockAllocator(8), PagedSeqState(4, 4)
    state.ensure_capacity(alloc, 16)
    for target_len in (12, 1, 0):
        state.ensure_capacity(alloc, target_len)
        assert state.blocks == [0, 1, 2, 3]


def test_ensure_capacity_keeps_the_blocks_that_are_there() -> None:
    alloc, state, other = BlockAllocator(8), PagedSeqState(4, 4), PagedSeqState(4, 4)
    state.ensure_capacity(alloc, 4)
    other.ensure_capacity(alloc, 8)
    state.ensure_capacity(alloc, 9)
    assert state.blocks == [0, 3, 4]
    assert table(state) == [0, 3, 4, -1]
    assert other.blocks == [1, 2]


def test_more_than_max_blocks_per_seq_is_a_capacity_error() -> None:
    alloc, state = BlockAllocator(100), PagedSeqState(4, 3)
    state.ensure_capacity(alloc, 5)
    for target_len in (13, 2**40, 2**64 - 1):
        with refuses(
            CapacityError,
            "PagedSeqState.ensure_capacity",
            f"target_len {target_len}",
            "at most 3",
            unchanged=(alloc, state),
        ):
            state.ensure_capacity(alloc, target_len)
    state.ensure_capacity(alloc, 12)


def test_exhaustion_gives_back_what_it_took_and_leaves_host_and_device() -> None:
    alloc, state = BlockAllocator(3), PagedSeqState(4, 8)
    alloc.allocate()
    state.ensure_capacity(alloc, 3)
    state.len = 3
    state.sync_context_len()
    with refuses(
        PoolExhaustedError,
        "BlockAllocator.allocate_n",
        "2 needed, 1 free",
        unchanged=(alloc, state),
    ):
        state.ensure_capacity(alloc, 12)
    assert alloc.allocate() == 2


def test_sync_context_len_writes_len() -> None:
    alloc, state = BlockAllocator(3), PagedSeqState(4, 3)
    state.ensure_capacity(alloc, 12)
    for tokens in (0, 5, 12, 1):
        state.len = tokens
        state.sync_context_len()
        assert length(state) == len(state) == tokens


def test_a_len_beyond_the_blocks_held_is_a_capacity_error() -> None:
    alloc, state = BlockAllocator(3), PagedSeqState(4, 3)
    state.ensure_capacity(alloc, 8)
    state.len = 8
    state.sync_context_len()
    for tokens in (9, 2**31, 2**64 - 1):
        state.len = tokens
        with refuses(
            CapacityError,
            "PagedSeqState.sync_context_len",
            f"len {tokens} with 2 blocks of 4",
            "have room for",
            unchanged=(alloc, state),
        ):
            state.sync_context_len()
        assert length(state) == 8


def test_a_len_beyond_int32_cannot_be_written() -> None:
    alloc, state = BlockAllocator(1), PagedSeqState(2**40, 1)
    state.ensure_capacity(alloc, 1)
    state.len = 2**31
    with refuses(CapacityError, "PagedSeqState.sync_context_len", expected="below 2^31"):
        state.sync_context_len()


def test_len_can_be_set_to_sizes_alone() -> None:
    state = PagedSeqState(4, 3)
    state.len = np.int64(3)
    assert len(state) == 3
    for tokens in (-1, 2**64):
        with refuses(ShapeError, "PagedSeqState.len", f"len is {tokens}", unchanged=state):
            state.len = tokens
    with pytest.raises(TypeError):
        state.len = 1.5  # type: ignore[assignment]


def test_release_frees_and_twice_is_harmless() -> None:
    alloc, state = BlockAllocator(8), PagedSeqState(4, 4)
    state.ensure_capacity(alloc, 10)
    state.len = 10
    for _ in range(2):
        state.release(alloc)
        assert (state.blocks, state.len, alloc.in_use) == ([], 0, 0)


def test_release_changes_the_host_alone() -> None:
    alloc, state = BlockAllocator(8), PagedSeqState(4, 4)
    state.ensure_capacity(alloc, 10)
    state.len = 10
    state.sync_context_len()
    state.release(alloc)
    assert table(state) == [0, 1, 2, -1]
    assert length(state) == 10


def test_the_calls_after_a_release_rewrite_what_is_stale_on_the_device() -> None:
    alloc, state = BlockAllocator(8), PagedSeqState(4, 4)
    state.ensure_capacity(alloc, 12)
    state.len = 12
    state.sync_context_len()
    state.release(alloc)
    state.ensure_capacity(alloc, 1)
    assert table(state) == [state.blocks[0], -1, -1, -1]
    state.sync_context_len()
    assert length(state) == 0
    state.release(alloc)
    state.ensure_capacity(alloc, 0)
    assert table(state) == [-1, -1, -1, -1]


def test_buffers_are_kept_for_reuse() -> None:
    alloc, state = BlockAllocator(8), PagedSeqState(4, 4)
    before = state.block_table_buf.ctypes.data, state.context_lens_buf.ctypes.data
    state.ensure_capacity(alloc, 10)
    state.release(alloc)
    state.ensure_capacity(alloc, 10)
    assert (state.block_table_buf.ctypes.data, state.context_lens_buf.ctypes.data) == before


def test_blocks_that_were_released_can_be_taken_by_another_sequence() -> None:
    alloc, state, other = BlockAllocator(2), PagedSeqState(4, 4), PagedSeqState(4, 4)
    state.ensure_capacity(alloc, 8)
    state.release(alloc)
    other.ensure_capacity(alloc, 8)
    assert sorted(other.blocks) == [0, 1]


def test_release_to_an_allocator_that_does_not_hold_the_blocks_changes_nothing() -> None:
    alloc, other, state = BlockAllocator(8), BlockAllocator(8), PagedSeqState(4, 4)
    state.ensure_capacity(alloc, 8)
    state.len = 5
    with refuses(
        InvalidSlotError, "BlockAllocator.free", "is not live", unchanged=(alloc, other, state)
    ):
        state.release(other)
    state.release(alloc)
    assert alloc.in_use == 0


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (9, 3), (99, 3)])
def test_truncate_gives_back_the_blocks_that_are_not_needed(tokens: int, blocks: int) -> None:
    alloc, state = BlockAllocator(8), PagedSeqState(4, 4)
    state.ensure_capacity(alloc, 12)
    state.len = 10
    state.truncate(alloc, tokens)
    assert state.blocks == [0, 1, 2][:blocks]
    assert state.len == min(10, tokens)
    assert alloc.in_use == blocks


def test_the_cpu_has_no_context() -> None:
    alloc, state = BlockAllocator(8), PagedSeqState(4, 4)
    state.ensure_capacity(alloc, 4, None)
    state.ensure_capacity(alloc, 8, ctx=None)
    state.sync_context_len(ctx=None)
    for call in (
        lambda ctx: state.ensure_capacity(alloc, 12, ctx),
        lambda ctx: state.sync_context_len(ctx),
        lambda ctx: state.release(alloc, ctx),
    ):
        with pytest.raises(UnsupportedError, match="a ctx of type <class 'object'>"):
            call(object())
    assert state.blocks == [0, 1]
    state.release(alloc, ctx=None)
    assert alloc.in_use == 0


@pytest.mark.parametrize("device", ["cuda", "metal", "tpu", "CPU", ""])
def test_a_device_that_is_not_there_is_unsupported(device: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"^\[PagedSeqState\] device '{device}'; "):
        PagedSeqState(4, 4, device=device)


def test_a_state_without_tokens_is_still_true() -> None:
    assert PagedSeqState(4, 4)
    assert len(PagedSeqState(4, 4)) == 0


def test_repr_shows_length_and_blocks() -> None:
    alloc, state = BlockAllocator(8), PagedSeqState(4, 4)
    state.ensure_capacity(alloc, 7)
    state.len = 6
    assert repr(state) == "PagedSeqState(len=6, block_size=4, blocks=2/4, device=cpu)"
