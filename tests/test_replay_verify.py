"""Real data: what is written is read back, what is damaged is found, and named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagedkv.replay import (
    CacheShape,
    Engine,
    PagedStorage,
    ReplayConfig,
    Request,
    RunFigures,
    Trace,
    VerifyingStorage,
    as_dict,
    as_text,
    make_workload,
    replay,
)
from pagedkv.replay.shape import DTYPE_BITS
from pagedkv.replay.verify import TokenRows, first_difference

TINY = CacheShape(num_layers=2, num_kv_heads=1, head_dim=2)


def requests_of(*lengths):
    return [Request(i, 0.0, prompt, output) for i, (prompt, output) in enumerate(lengths, 1)]


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_every_dtype_is_verified_under_preemption(dtype):
    shape = CacheShape(num_layers=2, num_kv_heads=3, head_dim=6, dtype=dtype)
    config = ReplayConfig(num_blocks=12, block_size=4, shape=shape, verify=True)
    lengths = [(9, 14), (5, 0), (7, 9), (1, 30), (17, 3)]
    result = replay(Trace("t", "made", requests_of(*lengths)), config)
    assert result.paged.preemptions > 0
    assert result.verified is True
    assert result.success


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=10),
    st.integers(1, 5),
    st.integers(1, 6),
)
def test_storing_data_changes_nothing_in_the_books(lengths, block_size, max_batch):
    requests = requests_of(*lengths)
    num_blocks = max((-(-r.total_length // block_size) for r in requests), default=1) + 1
    slots = num_blocks * block_size
    books = PagedStorage(num_blocks, block_size, slots)
    data = VerifyingStorage(num_blocks, block_size, slots, TINY, requests, seed=0)
    engines = [
        Engine(requests, storage, RunFigures(slots, block_size), max_batch=max_batch)
        for storage in (books, data)
    ]
    while engines[0].step():
        assert engines[1].step()
        assert engines[0].running == engines[1].running
        assert engines[0].tokens_held == engines[1].tokens_held
        assert books.blocks_in_use == data.blocks_in_use
        data.manager.check()
    assert not engines[1].step()
    assert data.verified == len(requests)
    assert data.mismatches == []


@pytest.mark.parametrize(("layer", "part"), [(0, "keys"), (1, "values")])
def test_one_damaged_bit_is_found_and_named(layer, part):
    requests = requests_of((6, 4), (3, 8))
    storage = VerifyingStorage(8, 4, 32, TINY, requests, seed=1)
    engine = Engine(requests, storage, RunFigures(32, 4))
    engine.step()
    # Request 2 came second: blocks 0 and 1 are request 1's, block 2 holds its own first tokens.
    damaged = storage.pools[2 * layer + (part == "values")].view(np.uint32)
    damaged[2, 1, 0, 1] ^= 1
    engine.run()
    assert storage.verified == 1
    assert [str(mismatch) for mismatch in storage.mismatches] == [
        f"request 2, layer {layer}, position 1: {part} read back differ from those written"
    ]


def test_a_mismatch_is_no_success(monkeypatch, capsys):
    from pagedkv.cli import main

    monkeypatch.setattr("pagedkv.replay.verify.first_difference", lambda *_: 3)
    result = replay(make_workload(0, 30), ReplayConfig(verify=True))
    assert result.verified is False
    assert not result.success
    assert as_dict(result)["mismatches"][0].startswith("request ")
    assert "NO: 30 of 30 requests differ" in as_text(result)
    assert main(["replay", "--limit", "3", "--verify"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 3
    assert all("layer 0, position 3: keys read back differ" in line for line in err)


def rows_of(rows, source, stream, length):
    return rows.take(np.full(length, source), np.arange(length), stream)


def test_rows_of_different_sources_layers_and_parts_differ():
    rows = TokenRows(TINY, num_sources=5, max_offset=50, seed=3)
    seen = {rows_of(rows, source, part, 50).tobytes() for source in range(5) for part in range(4)}
    assert len(seen) == 20


def test_rows_come_from_the_seed():
    first, again, other = (rows_of(TokenRows(TINY, 2, 8, seed), 1, 1, 8) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_differences_are_of_bits_not_of_values():
    zeros = np.zeros((4, 1, 3), np.float32)
    signed = zeros.copy()
    signed[2, 0, 1] = -0.0
    assert first_difference(zeros, signed) == 2
    nans = np.full((4, 1, 3), np.nan, np.float32)
    assert first_difference(nans, nans.copy()) is None
    assert first_difference(zeros, zeros[:3]) == 3
    assert first_difference(zeros[:0], zeros[:0]) is None
