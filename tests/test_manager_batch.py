"""Batches: arrays that kernels take as they are, in memory that stays where it is."""

import numpy as np
import pytest
from support.errors import refuses
from support.managers import prefill

from pagedkv import (
    Batch,
    CapacityError,
    FullAttention,
    KVCacheManager,
    ShapeError,
    SlidingWindow,
    Ssm,
)

NAMES = (
    "block_tables",
    "slot_mapping",
    "kv_indptr",
    "kv_indices",
    "kv_last_page_len",
    "kv_start",
    "seq_lens",
    "query_start_loc",
    "positions",
)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def running(m: KVCacheManager, *prompts: int) -> list[int]:
    for seq_id, length in enumerate(prompts):
        m.add(seq_id, [seq_id] * length)
    ids = list(range(len(prompts)))
    m.acquire(ids)
    return ids


def aligned(size: int) -> np.ndarray:
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


def test_what_a_batch_says() -> None:
    m = KVCacheManager(20, 4)
    ids = running(m, 5, 3, 9)
    batch = m.schedule(ids, [5, 0, 9])
    assert (batch.num_seqs, batch.num_new_tokens) == (3, 14)
    assert (batch.max_query_len, batch.max_seq_len) == (9, 9)
    assert batch.seq_lens.tolist() == [5, 0, 9]
    assert batch.query_start_loc.tolist() == [0, 5, 5, 14]
    assert batch.positions.tolist() == [*range(5), *range(9)]
    assert batch.block_tables[:, :3].tolist() == [[0, 1, -1], [-1, -1, -1], [2, 3, 4]]
    assert batch.slot_mapping.tolist() == [*range(5), *range(8, 17)]
    assert batch.kv_indptr.tolist() == [0, 2, 2, 5]
    assert batch.kv_indices.tolist() == [0, 1, 2, 3, 4]
    assert batch.kv_last_page_len.tolist() == [1, 0, 1]
    assert batch.kv_start.tolist() == [0, 0, 0]
    types = {name: getattr(batch, name).dtype for name in NAMES}
    assert types.pop("slot_mapping") == np.int64
    assert set(types.values()) == {np.dtype(np.int32)}


def test_two_batches_in_turn_keep_their_addresses_and_what_they_say() -> None:
    m = KVCacheManager(100, 4)
    ids = running(m, 5, 3, 9)
    batches = [m.new_batch(4, 32, 16) for _ in range(2)]
    m.schedule(ids, [5, 3, 9], out=batches[0])
    where = {}
    for step in range(40):
        batch, other = batches[(step + 1) % 2], batches[step % 2]
        before = {name: getattr(other, name).tolist() for name in NAMES}
        assert m.step(ids, [step] * 3, out=batch) is batch
        assert {name: getattr(other, name).tolist() for name in NAMES} == before
        for name in NAMES:
            key = (step % 2, name)
            assert where.setdefault(key, address(getattr(batch, name))) == address(
                getattr(batch, name)
            )
        assert batch.block_tables.strides == (16 * 4, 4)
        for row, i in enumerate(ids):
            held = m.block_ids(i).tolist()
            assert batch.block_tables[row].tolist() == held + [-1] * (16 - len(held))


def test_a_batch_may_live_in_memory_of_the_caller() -> None:
    m = KVCacheManager(20, 4)
    ids = running(m, 5)
    memory = aligned(8192)
    batch = m.new_batch(2, 16, 8, buffers=memory)
    m.schedule(ids, [5], out=batch)
    start = memory.ctypes.data
    for name in NAMES:
        assert start <= address(getattr(batch, name)) < start + memory.nbytes
    del m
    assert batch.slot_mapping.tolist() == list(range(5))


@pytest.mark.parametrize("what", ["small", "askew", "read-only", "no array"])
def test_memory_of_the_caller_must_do(what: str) -> None:
    m = KVCacheManager(20, 4)
    memory = aligned(8192)
    if what == "small":
        memory = memory[:64]
    if what == "askew":
        memory = memory[1:]
    if what == "read-only":
        memory.flags.writeable = False
    buffers = [] if what == "no array" else memory
    with pytest.raises(ShapeError):
        m.new_batch(2, 16, 8, buffers=buffers)


def test_padding_rows_are_empty_and_their_slots_say_so() -> None:
    m = KVCacheManager(20, 4)
    ids = running(m, 3, 3)
    memory = aligned(8192)
    batch = m.new_batch(8, 16, 8, buffers=memory)
    m.schedule(ids, [3, 3], out=batch)
    m.step(ids, [0, 0], out=batch, pad_to=8)
    assert (batch.num_seqs, batch.num_new_tokens) == (8, 2)
    assert batch.seq_lens.tolist() == [4, 4] + [0] * 6
    assert batch.query_start_loc.tolist() == [0, 1] + [2] * 7
    assert batch.block_tables[2:].tolist() == [[-1] * 8] * 6
    assert batch.kv_indptr.tolist() == [0, 1] + [2] * 7
    assert batch.kv_last_page_len.tolist() == [4, 4] + [0] * 6
    # A graph that was captured for eight rows reads eight slots from this address.
    at = address(batch.slot_mapping) - memory.ctypes.data
    assert memory[at : at + 8 * 8].view(np.int64).tolist() == [3, 7] + [-1] * 6


def test_padding_follows_a_batch_that_gets_shorter() -> None:
    m = KVCacheManager(20, 4)
    ids = running(m, 9, 9)
    batch = m.new_batch(4, 32, 8)
    m.schedule(ids, [9, 9], out=batch)
    m.schedule(ids[:1], [1], out=batch, pad_to=4)
    assert batch.seq_lens.tolist() == [10, 0, 0, 0]
    assert batch.block_tables[1:].tolist() == [[-1] * 8] * 3
    m.schedule(ids, [0, 1], out=batch, pad_to=1)
    assert batch.block_tables[1].tolist() == [3, 4, 5, -1, -1, -1, -1, -1]
    assert batch.num_seqs == 2


def test_the_null_block_is_never_handed_out_and_fills_what_is_empty() -> None:
    m = KVCacheManager(6, 2, groups=[SlidingWindow(2)], null_block=True, prefix_caching=False)
    m.add(1, range(9))
    m.acquire([1])
    m.schedule([1], [6])
    m.commit([1], [6])
    batch = m.schedule([1], [3], pad_to=2)
    row = batch.block_tables[0].tolist()
    held = m.block_ids(1).tolist()
    assert 0 not in held
    assert row[: len(held)] == [0 if block == -1 else block for block in held]
    assert set(row[len(held) :]) == {0}
    assert set(batch.block_tables[1].tolist()) == {0}
    assert m.num_free_blocks == 5 - sum(block != -1 for block in held)
    assert 0 not in batch.kv_indices.tolist()


def test_the_two_forms_of_the_metadata_say_the_same(rng: np.random.Generator) -> None:
    m = KVCacheManager(
        5000, groups=[FullAttention(block_size=4), SlidingWindow(9, 5, block_size=2)]
    )
    batches = [m.new_batch(12, 400, 600) for _ in range(2)]
    alive: list[int] = []
    for step in range(200):
        if len(alive) < 8 and rng.random() < 0.5:
            m.add(step, rng.integers(0, 2, rng.integers(1, 30)))
            m.acquire([step])
            alive.append(step)
        elif len(alive) > 1 and rng.random() < 0.2:
            m.free([alive.pop(int(rng.integers(len(alive))))])
        ids = [i for i in rng.permutation(alive).tolist() if rng.random() < 0.8]
        counts = [int(rng.integers(0, 5)) for _ in ids]
        batch = m.schedule(ids, counts, out=batches[step % 2])
        m.commit(ids, counts)
        for g, size in enumerate((4, 2)):
            part = batch[g]
            for row, seq_id in enumerate(ids):
                first, last = part.kv_indptr[row : row + 2].tolist()
                table = part.block_tables[row]
                live = part.kv_indices[first:last].tolist()
                assert live == table[table != -1].tolist()
                length = int(batch.seq_lens[row])
                used = -(-length // size)
                assert (table[used:] == -1).all()
                assert part.kv_last_page_len[row] == length - (used - 1) * size * (used > 0)
                holes = np.flatnonzero(table[:used] == -1)
                start = (int(holes[-1]) + 1) * size if len(holes) else 0
                assert part.kv_start[row] == start
                assert batch.seq_lens[row] == m.num_scheduled(seq_id)


def test_live_blocks_of_a_row_that_was_away_are_written_again() -> None:
    m = KVCacheManager(20, 4)
    ids = running(m, 8, 8, 16)
    out = m.new_batch(4, 64, 8)
    m.schedule(ids[:2], [8, 8], out=out)
    m.schedule([2], [16], out=out)
    m.schedule(ids[:2], [0, 0], out=out)
    assert out.kv_indices.tolist() == [0, 1, 2, 3]


def test_a_batch_may_be_filled_by_managers_in_turn() -> None:
    one, two = KVCacheManager(20, 4), KVCacheManager(20, 4)
    prefill(two, 9, range(100, 112))
    out = one.new_batch(4, 64, 8)
    for m in (one, two):
        ids = running(m, 8)
        m.schedule(ids, [8], out=out)
        assert out.kv_indices.tolist() == m.block_ids(0).tolist()
        assert out.block_tables[0, :2].tolist() == m.block_ids(0).tolist()


def test_a_batch_that_is_too_small_is_refused_and_nothing_is_taken() -> None:
    m = KVCacheManager(20, 4)
    ids = running(m, 8, 8)
    for small in [m.new_batch(1, 64, 8), m.new_batch(2, 15, 8), m.new_batch(2, 64, 1)]:
        with refuses(CapacityError, "KVCacheManager.schedule", "2 sequences", unchanged=m):
            m.schedule(ids, [8, 8], out=small)
    other = KVCacheManager(4, groups=[FullAttention(), Ssm(16)]).new_batch(2, 64, 8)
    with refuses(CapacityError, "KVCacheManager.schedule", "1 groups", unchanged=m):
        m.schedule(ids, [8, 8], out=other)
    with refuses(CapacityError, "KVCacheManager.schedule", "9 sequences", unchanged=m):
        m.schedule(ids, [8, 8], out=m.new_batch(8, 64, 8), pad_to=9)
    with refuses(ShapeError, "KVCacheManager.schedule", "out of type", unchanged=m):
        m.schedule(ids, [8, 8], out="batch")


def test_groups_of_a_batch_are_named_by_number() -> None:
    m = KVCacheManager(20, groups=[FullAttention(block_size=4), Ssm(4, block_size=4)])
    ids = running(m, 6)
    batch = m.schedule(ids, [6])
    assert len(batch) == 2
    assert batch[0].block_tables.tolist() == batch.block_tables.tolist()
    assert batch[1].state_slots.tolist() == m.block_ids(0, 1).tolist()
    for group in (2, -3):
        with pytest.raises(IndexError):
            batch[group]


def test_padding_rows_have_slots_and_positions_of_their_own() -> None:
    m = KVCacheManager(20, 4)
    for seq_id in (1, 2, 3):
        prefill(m, seq_id, range(10 * seq_id, 10 * seq_id + 5))
    batch = m.schedule([1, 2, 3], [1, 1, 1], pad_to=8)
    assert batch.num_new_tokens == 3
    assert batch.slot_mapping.tolist()[3:] == [-1] * 5
    assert batch.positions.tolist() == [5, 5, 5, 0, 0, 0, 0, 0]
    batch = m.schedule([1, 2, 3], [9, 0, 0], pad_to=8)
    assert len(batch.slot_mapping) == 9  # the tokens are more than the rows
    assert len(m.schedule([1, 2, 3], [1, 0, 0]).slot_mapping) == 1


def test_bytes_needed_is_what_buffers_must_have() -> None:
    m = KVCacheManager(20, 4, groups=[FullAttention(), SlidingWindow(4)])
    size = Batch.bytes_needed(2, 3, 7, 5)
    assert size % 64 == 0
    memory = np.zeros(size + 128, np.uint8)
    start = -memory.ctypes.data % 64
    m.new_batch(3, 7, 5, buffers=memory[start : start + size])
    with refuses(ShapeError, "Batch", f"{size - 1} bytes", f"expected {size}"):
        m.new_batch(3, 7, 5, buffers=memory[start : start + size - 1])
