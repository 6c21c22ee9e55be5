"""The map of a pool: states, owners and counts, against the manager and a plain count."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagedkv import FullAttention, KVCacheManager, SequenceError, SlidingWindow, Ssm
from pagedkv.replay import ReplayConfig, ReplayError, Request, Trace, make_workload
from pagedkv.show import BlockState, as_text, pool_map, replayed_pool

UNUSED, CACHED, FREE, HELD, SHARED, KEPT, UNTOLD = BlockState


def started(manager, seq, tokens):
    manager.add(seq, tokens)
    hit = int(manager.acquire([seq])[0])
    manager.schedule([seq], [len(tokens) - hit])
    manager.commit([seq], [len(tokens) - hit])


def busy():
    """16 blocks of 4: 0 and 1 shared by sequences 0 and 1, which hold one more each; 4 and 5
    cached, 6 given back and in no index, the others never used."""
    manager = KVCacheManager(16, 4, partial_reuse=False)
    started(manager, 0, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    started(manager, 1, [1, 2, 3, 4, 5, 6, 7, 8, 30, 31])
    started(manager, 2, list(range(50, 60)))
    manager.free([2])
    return manager


def test_held_shared_and_free_blocks_are_told_apart_and_nothing_changes():
    manager = busy()
    before = manager.stats(), manager.num_free_blocks
    pool = pool_map(manager, [0, 1])
    assert pool.states.tolist() == [SHARED, SHARED, HELD, HELD] + [FREE] * 12
    assert pool.owners.tolist() == [0, 0, 0, 1] + [-1] * 12
    assert pool.holders.tolist() == [2, 2, 1, 1] + [0] * 12
    assert pool.seq_ids == (0, 1)
    assert pool.seq_tokens.tolist() == [9, 10]
    assert pool.seq_blocks.tolist() == [3, 3]
    assert pool.seq_shared.tolist() == [2, 2]
    assert (manager.stats(), manager.num_free_blocks) == before
    assert manager.probe(list(range(50, 60))) == 8  # what was cached still is


def test_all_sequences_are_found_when_none_is_named():
    assert pool_map(busy()).seq_ids == (0, 1)
    far = KVCacheManager(4, 4)
    far.add(2**40, [1])
    with pytest.raises(SequenceError, match=r"0 of 1 sequences have ids from 0 to 1048575"):
        pool_map(far)
    assert pool_map(far, [2**40]).seq_blocks.tolist() == [0]


def test_a_sequence_that_is_not_there_is_named():
    with pytest.raises(SequenceError, match=r"\[show.pool_map\] sequence 9 is unknown"):
        pool_map(busy(), [0, 9])


def test_what_is_neither_free_nor_in_a_table_is_kept():
    manager = busy()
    lease = manager.hold(0, 9)
    manager.free([0])
    pool = pool_map(manager, [1], find_cached=True)
    assert pool.states.tolist() == [HELD, HELD, KEPT, HELD, CACHED, CACHED] + [UNUSED] * 10
    manager.release(lease)
    # Nobody asks for sequence 1: its blocks are somebody else's.
    pool = pool_map(busy(), [0], find_cached=True)
    assert pool.states.tolist()[:5] == [HELD, HELD, HELD, KEPT, CACHED]


def test_the_null_block_is_kept():
    manager = KVCacheManager(8, 4, null_block=True)
    started(manager, 0, [1, 2, 3])
    pool = pool_map(manager, find_cached=True)
    assert pool.states.tolist() == [KEPT, HELD] + [UNUSED] * 6


def test_without_being_asked_to_find_out_no_free_block_is_called_kept():
    # A manager tells how many blocks are free, not which.
    pool = pool_map(busy(), [0])
    assert pool.states.tolist() == [HELD, HELD, HELD] + [UNTOLD] * 13
    text = as_text(pool)
    assert "AAA" + "?" * 13 in text
    assert "  ?       free or kept: not told                     13   81.2 %" in text
    full = KVCacheManager(4, 4)
    started(full, 0, [1, 2, 3, 4, 5])
    started(full, 1, [6, 7, 8, 9, 10])
    assert pool_map(full, [0]).states.tolist() == [HELD, HELD, KEPT, KEPT]
    null = KVCacheManager(16, 4, null_block=True)
    started(null, 0, [1, 2, 3])
    assert pool_map(null).states.tolist() == [KEPT, HELD] + [FREE] * 14


def test_free_blocks_that_cannot_all_be_taken_stay_untold():
    # Two groups take two blocks at a time: of five free ones the last is not found.
    manager = KVCacheManager(9, 4, [FullAttention(), FullAttention()])
    started(manager, 0, [1, 2, 3])
    started(manager, 1, [4, 5, 6])
    pool = pool_map(manager, [0], find_cached=True)
    assert [pool.count(state) for state in (HELD, UNUSED, UNTOLD, KEPT)] == [2, 4, 3, 0]


def test_a_sequence_that_is_named_twice_counts_once():
    once, twice = pool_map(busy(), [0, 1]), pool_map(busy(), [0, 1, 0, 0])
    assert twice.seq_ids == (0, 1)
    assert twice.states.tolist() == once.states.tolist()
    assert twice.seq_shared.tolist() == once.seq_shared.tolist()


def test_cached_blocks_are_found_by_taking_them():
    manager = busy()
    pool = pool_map(manager, find_cached=True)
    assert pool.states.tolist() == [SHARED, SHARED, HELD, HELD, CACHED, CACHED] + [UNUSED] * 10
    assert pool.count(CACHED) == 2
    manager.check()
    assert (len(manager), manager.num_free_blocks) == (2, 12)


def test_holes_of_windows_are_free_and_states_are_held():
    groups = [SlidingWindow(4), Ssm(8), FullAttention()]
    manager = KVCacheManager(64, 4, groups)
    started(manager, 0, list(range(30)))
    pool = pool_map(manager, find_cached=True)
    held = {int(b) for g in range(3) for b in manager.block_ids(0, g) if b >= 0}
    assert set(np.flatnonzero(pool.states == HELD).tolist()) == held
    assert pool.seq_blocks.tolist() == [len(held)]
    assert pool.count(HELD) + pool.count(CACHED) + pool.count(UNUSED) + pool.count(FREE) == 64


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 30), st.booleans()), max_size=12))
def test_the_map_is_a_plain_count_of_what_a_manager_did(runs):
    """Prompts of six kinds are computed; some stay, some end and leave full blocks behind."""
    manager = KVCacheManager(64, 4, partial_reuse=False)
    stay = []
    for seq, (kind, length, stays) in enumerate(runs):
        if manager.num_free_blocks * 4 < length + 4:
            continue
        started(manager, seq, [100 * kind + i for i in range(length)])
        if stays:
            stay.append(seq)
        else:
            manager.free([seq])
    held = [set(manager.block_ids(seq).tolist()) for seq in stay]
    cached = manager.stats().num_cached_blocks
    pool = pool_map(manager, stay, find_cached=True)
    for block in range(64):
        count = sum(block in blocks for blocks in held)
        assert pool.holders[block] == count
        if count:
            assert pool.states[block] == (HELD if count == 1 else SHARED)
            assert block in held[pool.owners[block]]
    assert pool.count(KEPT) == pool.count(FREE) == 0
    in_use_and_cached = manager.stats().num_cached_blocks  # those that nobody held are gone
    assert pool.count(CACHED) == cached - in_use_and_cached


def test_the_map_in_letters():
    text = as_text(pool_map(busy(), find_cached=True), width=8)
    assert text == (
        "      0 **AB++..\n"
        "      8 ........\n"
        "\n"
        "each sign is one block\n"
        "  A-z 0-9 held by one sequence                        2   12.5 %\n"
        "  *       shared by several                           2   12.5 %\n"
        "  +       cached and free                             2   12.5 %\n"
        "  .       unused                                     10   62.5 %\n"
        "          blocks                                     16\n"
        "\n"
        "      sequence     tokens   blocks   shared\n"
        "A            0          9        3        2\n"
        "B            1         10        3        2"
    )


def test_colours_are_escape_sequences_around_the_same_letters():
    pool = pool_map(busy(), find_cached=True)
    plain, coloured = as_text(pool), as_text(pool, colour=True)
    assert "\x1b[38;5;32mA\x1b[0m" in coloured
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_a_large_pool_is_shown_in_32_lines_by_what_most_blocks_are():
    manager = KVCacheManager(10_000, 4)
    started(manager, 0, list(range(4 * 5_000)))
    text = as_text(pool_map(manager), width=64)
    rows = text.partition("\n\n")[0].splitlines()
    assert len(rows) <= 32
    assert "each sign is 5 blocks, by what most of them are" in text
    letters = "".join(row[8:] for row in rows)
    assert letters == "A" * 1_000 + "_" * 1_000


def test_a_sign_of_many_blocks_is_of_the_state_most_have_then_of_who_has_most():
    # Of each ten blocks six sequences hold one each, and four are free.
    manager = KVCacheManager(2_560, 4)
    for seq in range(6):
        started(manager, seq, list(range(1_000 * seq, 1_000 * seq + 4)))
    pool = pool_map(manager)
    states = np.full(2_560, FREE, np.int8)
    owners = np.full(2_560, -1, np.int32)
    for seq in range(6):
        states[seq::10], owners[seq::10] = HELD, seq
    owners[owners == 4] = 5  # sequence 5 has two of the ten
    mixed = replace(pool, states=states, owners=owners)
    letters = "".join(row[8:] for row in as_text(mixed, width=8).split("\n\n")[0].splitlines())
    assert letters == "F" * 256


def test_an_empty_pool_has_no_sequences():
    assert "no sequences" in as_text(pool_map(KVCacheManager(4, 4)))


def test_a_trace_is_replayed_up_to_a_step():
    requests = [Request(n, 0.0, 20, 10) for n in range(1, 6)]
    trace = Trace("made", "made", requests)
    config = ReplayConfig(num_blocks=8, block_size=8)
    first = replayed_pool(trace, config, 1)
    assert first.pool.seq_ids == (1, 2)  # 3 blocks each, and room for one more
    assert (first.step, first.steps, first.waiting, first.completed) == (0, 1, 3, 0)
    assert first.pool.seq_tokens.tolist() == [21, 21]
    assert [first.pool.count(state) for state in (HELD, SHARED, KEPT, FREE)] == [6, 0, 0, 0]
    assert first.pool.count(UNUSED) + first.pool.count(CACHED) == 2
    last = replayed_pool(trace, config, 10_000)
    assert (last.completed, last.waiting, last.pool.seq_ids) == (5, 0, ())
    assert replayed_pool(trace, config, 0).steps == 0


def test_without_a_step_it_is_the_fullest_one():
    trace = make_workload(seed=5, count=60)
    config = ReplayConfig(num_blocks=512)
    shown = replayed_pool(trace, config)
    held = shown.pool.count(HELD) + shown.pool.count(SHARED)
    for steps in range(0, 300, 30):
        other = replayed_pool(trace, config, steps)
        assert other.pool.count(HELD) + other.pool.count(SHARED) <= held
    assert held > 0.8 * 512


def test_a_trace_of_which_nothing_fits_is_an_error():
    with pytest.raises(ReplayError, match="'none' has no request that fits the pool"):
        replayed_pool(Trace("none", "made", []), ReplayConfig())
    with pytest.raises(ReplayError, match="-1 steps; expected 0 or more"):
        replayed_pool(make_workload(1, 2), ReplayConfig(), -1)
