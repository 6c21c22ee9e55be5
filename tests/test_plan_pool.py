"""What a plan says is what the pool takes: bytes of arrays, blocks of the manager, sequences."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import CONFIGS, SMALL, published

import pagedkv
from pagedkv import (
    BlockAllocator,
    BlockPool,
    KvCache,
    KVCacheManager,
    PoolExhaustedError,
    SsmStatePool,
    ops,
)
from pagedkv.plan import PlanError, allocate, plan
from pagedkv.plan.groups import Group, make_layout
from pagedkv.plan.layers import Architecture, Attention

MEMORY = 3 * 2**20
DTYPES = ["float64", "float32", "float16", "bfloat16", "float8_e4m3", "float8_e5m2", "int8", "int4"]

WITH_BLOCKS = sorted(name for name in SMALL if not name.startswith("mamba"))


def planned(name, **options):
    chosen = {"block_size": 4, "prefill_chunk": 8, "lengths": [40], "kv_dtype": "float32"}
    return plan(SMALL[name], MEMORY, **{**chosen, **options})


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_arrays_take_the_bytes_that_the_plan_says_and_99_percent_of_the_memory(name):
    small = planned(name)
    pool = allocate(small)
    assert pool.nbytes == small.pool.nbytes <= MEMORY
    assert pool.nbytes > 0.99 * MEMORY


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["llama", "gemma3", "deepseek", "jamba"])
def test_they_do_in_every_dtype(name, dtype):
    small = planned(name, kv_dtype=dtype)
    assert allocate(small).nbytes == small.pool.nbytes
    assert small.pool.nbytes == pytest.approx(MEMORY, rel=0.01)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_pools_of_the_library_take_the_same(dtype):
    small = planned("llama", kv_dtype=dtype, scales="tensor")
    blocks, layers = small.num_blocks, 4
    allocator = BlockAllocator(blocks)
    caches = [KvCache.paged(blocks, 2, 8, 4, blocks, allocator, dtype) for _ in range(layers)]
    of_caches = sum(cache.k.nbytes + cache.v.nbytes for cache in caches)
    pages = BlockPool(blocks * layers, 4, layers, 2, 8, dtype)
    page = pages.allocate()
    of_pages = blocks * layers * (pages.keys(page).nbytes + pages.values(page).nbytes)
    assert of_caches == of_pages == small.pool.nbytes


@pytest.mark.parametrize("name", ["jamba", "bamba", "qwen3-next", "lfm2", "mamba", "mamba2"])
def test_the_state_pool_takes_what_the_plan_says_a_slot_takes(name):
    small = planned(name)
    for states in small.layout.states:
        pool = SsmStatePool(2, states.spec)
        slot = pool.slot(pool.alloc(1))
        assert slot is not None
        assert slot.ssm_state.nbytes + slot.conv_state.nbytes == states.slot_bytes
    assert small.layout.slot_bytes == sum(states.slot_bytes for states in small.layout.states)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["llama", "gemma3", "gemma4", "falcon-h1", "phi3"])
def test_every_layers_arrays_hold_what_is_written_to_them(name, dtype, rng):
    """Layers of different groups lie in the same bytes, in blocks of their own."""
    small = planned(name, kv_dtype=dtype)
    pool = allocate(small)
    assert pool.manager is not None
    length = 9  # within the windows, so that every layer still has it
    pool.manager.add(7, range(length))
    pool.manager.acquire([7])
    batch = pool.manager.schedule([7], [length])
    written = {}
    for layer, arrays in pool.layers.items():
        heads, size = arrays.keys.shape[1], small.layout.groups[arrays.group].cache.head_dim
        rows = rng.integers(-3, 4, (2, length, heads, size)).astype(np.float32)
        scales = {"k_scale": arrays.k_scale, "v_scale": arrays.v_scale}
        ops.write_kv(
            *rows,
            arrays.keys,
            arrays.values,
            batch[arrays.group].slot_mapping,
            dtype=dtype,
            **scales,
        )
        written[layer] = rows
    assert len(written) == sum(len(group.layers) for group in small.layout.groups)
    for layer, arrays in pool.layers.items():
        read = ops.gather_kv(
            arrays.keys,
            arrays.values,
            batch[arrays.group].block_tables,
            batch.seq_lens,
            k_scale=arrays.k_scale,
            v_scale=arrays.v_scale,
            dtype=dtype,
            out_dtype="float32",
        )
        bound = 0.3 if dtype == "int4" else 0.02 if dtype == "int8" else 0.0
        np.testing.assert_allclose(np.stack(read), written[layer], atol=bound)


def test_latent_rows_are_held_too(rng):
    small = planned("deepseek")
    pool = allocate(small)
    assert pool.manager is not None
    pool.manager.add(7, range(9))
    pool.manager.acquire([7])
    batch = pool.manager.schedule([7], [9])
    rows = {layer: rng.random((9, 24), np.float32) for layer in pool.layers}
    for layer, arrays in pool.layers.items():
        ckv, kpe = rows[layer][:, :16], rows[layer][:, 16:]
        ops.mla_write(ckv, kpe, arrays.keys, arrays.values, batch.slot_mapping)
    blocks, offsets = np.divmod(batch.slot_mapping, 4)
    for layer, arrays in pool.layers.items():
        read = np.hstack([arrays.keys[blocks, offsets], arrays.values[blocks, offsets]])
        np.testing.assert_array_equal(read, rows[layer])


def run_to(manager: KVCacheManager, seq: int, length: int, chunk: int) -> None:
    """Prefill in chunks up to the last token, which is decoded and not yet committed."""
    manager.add(seq, range(1000 * seq, 1000 * seq + length))
    manager.acquire([seq])
    left = length - 1
    while left:
        count = min(chunk, left)
        manager.schedule([seq], [count])
        manager.commit([seq], [count])
        left -= count
    manager.schedule([seq], [1])


@pytest.mark.parametrize("length", [1, 7, 40, 61])
@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_as_many_sequences_run_in_the_manager_as_the_plan_says(name, length):
    slots = {"max_seqs": 100} if planned(name).layout.states else {}
    small = planned(name, lengths=[length], **slots)
    manager = small.manager(prefix_caching=False)
    count = small.pool.blocks_left(length) // small.layout.blocks(length)
    assert small.sequences(length) == (min(count, 100) if small.layout.states else count)
    for seq in range(count):
        run_to(manager, seq, length, small.pool.prefill_chunk)
    held = sum(
        int((manager.block_ids(seq, group) >= 0).sum())
        for seq in range(count)
        for group in range(len(small.layout.groups))
    )
    assert held == small.num_blocks - manager.num_free_blocks
    assert held <= count * small.layout.blocks(length)
    if all(group.cache.window is None for group in small.layout.groups):
        assert held == count * small.layout.blocks(length)
        with pytest.raises(PoolExhaustedError):
            run_to(manager, count, length, small.pool.prefill_chunk)


@given(st.integers(1, 40), st.sampled_from([1, 4, 16]), st.integers(1, 50), st.integers(1, 120))
def test_a_window_holds_the_blocks_that_the_formula_says_at_most(window, size, chunk, length):
    group = Group(Attention(1, 8, 8, window), (0,), size, 64, 64 * size)
    manager = KVCacheManager(400, size, [group.spec()], prefix_caching=False)
    manager.add(0, range(length))
    manager.acquire([0])

    def held():
        return int((manager.block_ids(0) >= 0).sum())

    done, most = 0, 0
    while done < length:
        count = min(chunk, length - done)
        manager.schedule([0], [count])
        done += count
        most = max(most, held())
        manager.commit([0], [count])
    assert most <= group.blocks(length, chunk)
    manager.append([0], [5])
    manager.schedule([0], [1])
    for _ in range(2 * size + window):  # decode: at some step it holds the most
        manager.step([0], [5])
        assert held() <= group.blocks(manager.num_scheduled(0))
        most = max(most, held())
    assert most >= group.blocks(manager.num_scheduled(0))


@given(st.integers(1, 100), st.integers(1, 30), st.sampled_from([1, 4, 16]))
def test_attention_to_everything_holds_one_block_for_each_begun(length, chunk, size):
    group = Group(Attention(1, 8, 8), (0,), size, 64, 64 * size)
    manager = KVCacheManager(400, size, [group.spec()])
    run_to(manager, 0, length, chunk)
    assert 400 - manager.num_free_blocks == group.blocks(length) == -(-length // size)


def test_layers_of_fewer_bytes_get_longer_blocks():
    """Gemma's windows have 4 times the KV heads of its full layers here."""
    types = ["sliding_attention"] * 3 + ["full_attention"]
    config = {**SMALL["gemma2"], "layer_types": types, "sliding_window": 64}
    uneven = plan(config, MEMORY, block_size=4, lengths=[100], kv_dtype="float32")
    assert {group.block_size for group in uneven.layout.groups} == {4}
    # Kimi's only layers of attention are latent; a hybrid of two sizes is made by hand.
    wide, narrow = Attention(4, 8, 8, 64), Attention(1, 8, 8)
    model = Architecture("made", ((wide,), (wide,), (narrow,), (narrow,)), 4, "float32")
    made = make_layout(
        model, block_size=4, kv_dtype="float32", scales="tensor", state_dtype="float32", length=500
    )
    assert {group.cache: group.block_size for group in made.groups} == {wide: 4, narrow: 16}
    assert made.block_bytes == made.places * 4 * 4 * 8 * 2 * 4
    manager = KVCacheManager(100, 4, [group.spec() for group in made.groups])
    run_to(manager, 0, 33, 8)
    assert 100 - manager.num_free_blocks <= made.blocks(33)


def test_layers_are_grouped_so_that_a_sequence_takes_the_fewest_bytes():
    gemma = plan(published("gemma-3-27b"), "40GiB", kv_dtype="bfloat16").layout
    layers = sorted(layer for group in gemma.groups for layer in group.layers)
    assert layers == list(range(62))
    assert len(gemma.groups) == 13  # 52 and 10 layers in places for 5
    assert gemma.places == 5
    blocks_of_ten = 32768 // 16 + 6 * (1023 // 16 + 2)  # in places for 10: 1 and 6 groups
    assert gemma.blocks(32768) * 5 < blocks_of_ten * 10
    gemma2 = plan(published("gemma-2-9b"), "40GiB").layout
    assert [len(group.layers) for group in gemma2.groups] == [21, 21]


@pytest.mark.parametrize("name", sorted(file.stem for file in CONFIGS.glob("*.json")))
def test_the_manager_takes_the_groups_of_every_published_model(name):
    for length in (100, 2048, 131_072):
        states = plan(published(name), "40GiB", lengths=[length]).layout.states
        slots = {"max_seqs": 1} if states else {}
        of_model = plan(published(name), "1GiB", kv_dtype="bfloat16", lengths=[length], **slots)
        assert len(of_model.layout.groups) <= 15
        if of_model.layout.groups:
            assert of_model.pool.nbytes == pytest.approx(2**30, rel=0.01)
            assert of_model.manager().num_free_blocks == of_model.num_blocks


def test_more_kinds_of_layers_than_groups_are_refused():
    kinds = tuple((Attention(1, 8 * n, 8 * n),) for n in range(1, 17))
    model = Architecture("made", kinds, 1, "float32")
    with pytest.raises(PlanError, match="16 kinds of layers that attend; expected at most 15"):
        make_layout(
            model,
            block_size=4,
            kv_dtype="float32",
            scales="tensor",
            state_dtype="float32",
            length=500,
        )


RESIDENT = """
import os, sys
from pathlib import Path
from pagedkv.plan import allocate, plan

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

made = plan(sys.argv[1], "128MiB", kv_dtype="bfloat16", lengths=[256])
before = resident()
pool = allocate(made)
for arrays in pool.layers.values():
    arrays.keys.fill(1)
    arrays.values.fill(1)
for states in pool.states:
    for request in range(states.capacity):
        slot = states.slot(states.alloc(request))
        slot.ssm_state.fill(1)
        slot.conv_state.fill(1)
print((resident() - before) / made.pool.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="/proc/self/statm is missing")
@pytest.mark.parametrize("name", ["llama-3.1-8b", "gemma-2-9b", "qwen3-next-80b-a3b"])
def test_the_operating_system_counts_what_the_plan_says_within_1_percent(name):
    config = CONFIGS / f"{name}.json"
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, config], capture_output=True, text=True, check=True
    )
    print(f"resident / planned: {done.stdout}")
    assert float(done.stdout) == pytest.approx(1.0, abs=0.01)


def test_a_plan_that_the_machine_cannot_allocate_is_an_error():
    assert plan(SMALL["llama"], 2**60).num_blocks == 2**31 - 1  # ids are 32-bit
    huge = plan(SMALL["llama"], 2**50, block_size=2**20)
    with pytest.raises(PlanError, match=r"\[plan.allocate\] [\d,]+ bytes; expected a plan that"):
        allocate(huge)


def test_the_pool_is_made_of_what_the_library_exports():
    assert isinstance(allocate(planned("jamba")).manager, pagedkv.KVCacheManager)
    pool = allocate(planned("mamba"))
    assert pool.manager is None
    assert pool.layers == {}
    assert pool.states[0].capacity == planned("mamba").state_slots
