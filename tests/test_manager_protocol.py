"""KVCacheManager: three lengths, one protocol for every way to serve."""

import pytest
from support.errors import refuses
from support.managers import prefill

from pagedkv import (
    CapacityError,
    KVCacheManager,
    PoolExhaustedError,
    SequenceError,
    ShapeError,
    Ssm,
    UnsupportedError,
)


def lengths(m: KVCacheManager, seq_id: int) -> tuple[int, int, int]:
    return m.num_tokens(seq_id), m.num_scheduled(seq_id), m.num_committed(seq_id)


def test_a_sequence_has_three_lengths() -> None:
    m = KVCacheManager(8, 4)
    m.add(1, range(6))
    assert lengths(m, 1) == (6, 0, 0)
    assert m.acquire([1]).tolist() == [0]
    m.schedule([1], [5])
    assert lengths(m, 1) == (6, 5, 0)
    m.commit([1], [4])
    assert lengths(m, 1) == (6, 5, 4)
    m.append([1], [6, 7], [2])
    assert lengths(m, 1) == (8, 5, 4)
    m.check()


def test_adding_a_sequence_takes_nothing() -> None:
    m = KVCacheManager(1, 4)
    m.add(1, range(1000))
    assert m.num_free_blocks == 1
    assert m.usage == 0.0


def test_a_prompt_in_chunks_of_512_fills_the_same_blocks_as_in_one() -> None:
    chunked, whole = KVCacheManager(200, 16), KVCacheManager(200, 16)
    prompt = range(2000)
    prefill(whole, 1, prompt)
    chunked.add(1, prompt)
    chunked.acquire([1])
    positions = []
    while (left := len(prompt) - chunked.num_scheduled(1)) > 0:
        batch = chunked.schedule([1], [min(left, 512)])
        positions += batch.positions.tolist()
        assert batch.seq_lens.tolist() == [chunked.num_scheduled(1)]
        chunked.commit([1], [min(left, 512)])
        # What is committed can be found while the rest is still to come.
        known = chunked.num_committed(1)
        assert chunked.probe(prompt) == min(known, 1999)
    assert positions == list(prompt)
    assert chunked.block_ids(1).tolist() == whole.block_ids(1).tolist()
    chunked.check()


def test_a_preempted_sequence_resumes_with_what_nobody_evicted() -> None:
    m = KVCacheManager(10, 4)
    prefill(m, 1, range(10))
    m.append([1], [99])
    m.preempt([1])
    assert lengths(m, 1) == (11, 0, 0)
    assert m.num_free_blocks == 10
    assert m.block_ids(1).tolist() == []
    assert m.acquire([1]).tolist() == [8]
    batch = m.schedule([1], [3])
    assert batch.positions.tolist() == [8, 9, 10]
    m.check()


def test_a_preempted_sequence_computes_again_what_was_evicted() -> None:
    m = KVCacheManager(10, 4)
    prefill(m, 1, range(10))
    m.preempt([1])
    m.evict(1)  # the tail goes first
    assert m.acquire([1]).tolist() == [4]
    m.preempt([1])
    m.evict(10)
    assert m.acquire([1]).tolist() == [0]


def test_an_engine_one_step_ahead_schedules_before_it_knows_the_token() -> None:
    m = KVCacheManager(10, 2)
    m.add(1, [7])
    m.acquire([1])
    m.schedule([1], [1])  # step 0 runs
    seen = []
    for step in range(9):
        # Step n + 1 is scheduled while n runs: its token is not known yet.
        batch = m.schedule([1], [1])
        seen.append(batch.positions.tolist())
        m.commit([1], [1])
        m.append([1], [step])
        known, scheduled, committed = lengths(m, 1)
        assert (scheduled, committed) == (known, known - 1)
    assert seen == [[i + 1] for i in range(9)]
    # Every block that is full, written and known is found.
    assert m.probe([7, *range(9), 0]) == 8
    m.check()


def test_a_block_is_found_only_when_it_is_full_and_written_and_known() -> None:
    m = KVCacheManager(10, 4, partial_reuse=False)
    prompt = [1, 2, 3, 4, 5]
    m.add(1, prompt[:3])
    m.acquire([1])
    m.schedule([1], [4])
    m.commit([1], [3])
    assert m.probe(prompt) == 0  # not full
    m.commit([1], [1])
    assert m.probe(prompt) == 0  # its last token is not known
    m.append([1], [4])
    assert m.probe(prompt) == 4
    m.add(2, [9, 9, 9, 9])
    m.acquire([2])
    m.schedule([2], [4])
    assert m.probe([9] * 5) == 0  # not written


def test_rejected_drafts_of_a_chain_are_cut_off() -> None:
    m = KVCacheManager(10, 4)
    prefill(m, 1, range(5))
    free = m.num_free_blocks
    m.append([1], [50])
    for _ in range(6):
        before = m.num_committed(1)
        batch = m.schedule([1], [1 + 4])  # the last token and four drafts
        assert batch.query_start_loc.tolist() == [0, 5]
        m.commit([1], [5])
        # Two drafts were right; a third token comes from the model.
        assert m.truncate([1], [before + 3]).tolist() == [before + 3]
        m.append([1], [60, 61, 62], [3])
        assert lengths(m, 1) == (before + 4, before + 3, before + 3)
        m.check()
    assert m.num_free_blocks == free - 4


def test_an_accepted_path_of_a_tree_becomes_contiguous() -> None:
    m = KVCacheManager(20, 4)
    prefill(m, 1, range(6))
    m.append([1], [70])
    batch = m.schedule([1], [7])  # the last token, and a tree of six drafts behind it
    slots = batch.slot_mapping.tolist()
    moves = m.accept([1], [[0, 2, 5]])
    assert moves.dtype == "int64"
    assert moves.tolist() == [[slots[2], slots[1]], [slots[5], slots[2]]]
    assert lengths(m, 1) == (7, 9, 9)
    assert len(m.block_ids(1)) == 3
    m.append([1], [71, 72, 73], [3])
    assert m.probe([0, 1, 2, 3, 4, 5, 70, 71, 72]) == 8
    m.check()


def test_a_path_that_is_a_chain_moves_nothing() -> None:
    m = KVCacheManager(20, 4)
    prefill(m, 1, range(6))
    m.schedule([1], [5])
    assert m.accept([1], [[0, 1, 2]]).shape == (0, 2)
    assert m.accept([1], [[]]).shape == (0, 2)
    assert lengths(m, 1)[1:] == (9, 9)


@pytest.mark.parametrize("path", [[1, 0], [0, 0], [5], [-1], [2**31 - 1]])
def test_accept_takes_increasing_offsets_of_drafts(path: list[int]) -> None:
    m = KVCacheManager(20, 4)
    prefill(m, 1, range(6))
    m.schedule([1], [5])
    with refuses(ShapeError, "KVCacheManager.accept", "offset", unchanged=m):
        m.accept([1], [path])


def test_accept_leaves_tokens_that_are_known_where_they_are() -> None:
    """Else the index would hold, under the known tokens, what others computed."""
    m = KVCacheManager(20, 4)
    prefill(m, 1, range(6))
    m.append([1], [70, 71], [2])
    m.schedule([1], [5])
    with refuses(ShapeError, "KVCacheManager.accept", "offset 2 at place 1", unchanged=m):
        m.accept([1], [[0, 2]])
    m.accept([1], [[0, 1, 4]])


def test_accept_is_not_for_states() -> None:
    m = KVCacheManager(20, groups=[Ssm(4, block_size=4)])
    m.add(1, [1])
    m.acquire([1])
    m.schedule([1], [1])
    with refuses(UnsupportedError, "KVCacheManager.accept", "ssm", unchanged=m):
        m.accept([1], [[0]])


def test_keys_and_values_may_come_from_elsewhere() -> None:
    """A receiver schedules the prompt, the transfer writes the slots, and they are committed."""
    sender, receiver = KVCacheManager(10, 4), KVCacheManager(10, 4)
    prompt = list(range(11))
    prefill(sender, 1, prompt)
    lease = sender.hold(1, 11)
    sent = sender.block_ids(1).tolist()
    sender.free([1])

    receiver.add(1, prompt)
    receiver.acquire([1])
    into = receiver.schedule([1], [11]).block_tables[0].tolist()[:3]
    assert len(sent) == len(into)
    # While the transfer reads, nothing of the sender's is given to others.
    assert sender.num_free_blocks == 7
    sender.add(2, [9] * 28)
    sender.acquire([2])
    assert not set(sender.schedule([2], [28]).block_tables[0].tolist()) & set(sent)
    receiver.commit([1], [11])
    sender.release(lease)
    assert sender.num_free_blocks == 3
    assert receiver.probe(prompt) == 8
    sender.check()
    receiver.check()


def test_a_lease_ends_once() -> None:
    m = KVCacheManager(10, 4)
    prefill(m, 1, range(8))
    lease = m.hold(1, 8)
    m.release(lease)
    with refuses(SequenceError, "KVCacheManager.release", f"lease {lease}", unchanged=m):
        m.release(lease)
    with refuses(CapacityError, "KVCacheManager.hold", "9 tokens", unchanged=m):
        m.hold(1, 9)


def test_a_fork_shares_and_a_shared_block_is_copied_before_it_is_written() -> None:
    m = KVCacheManager(10, 4)
    prefill(m, 1, range(6))
    m.fork(1, 2)
    assert m.block_ids(2).tolist() == m.block_ids(1).tolist() == [0, 1]
    assert m.num_free_blocks == 8
    batch = m.schedule([2], [1])
    assert batch.copies.tolist() == [[1, 2]]
    assert batch.slot_mapping.tolist() == [2 * 4 + 2]
    assert m.block_ids(1).tolist() == [0, 1]
    m.check()


def test_nothing_is_copied_when_the_last_reference_writes() -> None:
    m = KVCacheManager(10, 4)
    prefill(m, 1, range(6))
    m.fork(1, 2)
    m.free([1])
    batch = m.schedule([2], [1])
    assert batch.copies.tolist() == []
    assert batch.slot_mapping.tolist() == [1 * 4 + 2]


def test_after_the_copy_is_committed_the_other_writes_in_place() -> None:
    m = KVCacheManager(10, 4)
    prefill(m, 1, range(6))
    m.fork(1, 2)
    m.schedule([2], [1])
    m.commit([2], [1])
    assert m.schedule([1], [1]).copies.tolist() == []


def test_a_fork_of_a_full_last_block_copies_nothing() -> None:
    m = KVCacheManager(10, 4)
    prefill(m, 1, range(8))
    m.fork(1, 2)
    assert m.schedule([1, 2], [1, 1]).copies.tolist() == []


def test_step_is_commit_append_and_schedule_in_one() -> None:
    one, three = KVCacheManager(40, 4), KVCacheManager(40, 4)
    for m in (one, three):
        for seq_id in (1, 2, 3):
            prefill(m, seq_id, range(4 + seq_id))
            m.append([seq_id], [0])
            m.schedule([seq_id], [1])
    ids = [3, 1, 2]
    for step in range(20):
        tokens = [step, step + 1, step + 2]
        a = one.step(ids, tokens)
        three.commit(ids, [1, 1, 1])
        three.append(ids, tokens)
        b = three.schedule(ids, [1, 1, 1])
        for name in ("seq_lens", "positions", "slot_mapping", "kv_indices", "kv_indptr"):
            assert getattr(a, name).tolist() == getattr(b, name).tolist()
    assert one.probe(range(5)) == three.probe(range(5))


def test_lookahead_makes_room_without_slots() -> None:
    m = KVCacheManager(10, 4)
    m.add(1, range(3))
    m.acquire([1])
    batch = m.schedule([1], [3], lookahead=6)
    assert len(m.block_ids(1)) == 3
    assert batch.slot_mapping.tolist() == [0, 1, 2]
    assert batch.kv_indices.tolist() == [0]
    m.schedule([1], [6])
    assert len(m.block_ids(1)) == 3


def test_fit_tells_how_many_schedule_would_take() -> None:
    m = KVCacheManager(10, 4, watermark=0.3)
    prefill(m, 1, range(8))
    for seq_id in (2, 3):
        m.add(seq_id, [seq_id])
        m.acquire([seq_id])
    for ids, counts in [
        ([1, 2, 3], [4, 4, 4]),
        ([2, 1], [12, 8]),
        ([2, 1], [12, 20]),
        ([1, 2], [20, 1]),
        ([1], [32]),
        ([2], [21]),
        ([], []),
    ]:
        fits = m.fit(ids, counts)
        for n in range(len(ids) + 1):
            trial = KVCacheManager(10, 4, watermark=0.3)
            prefill(trial, 1, range(8))
            for seq_id in (2, 3):
                trial.add(seq_id, [seq_id])
                trial.acquire([seq_id])
            try:
                trial.schedule(ids[:n], counts[:n])
                assert n <= fits
            except PoolExhaustedError:
                assert n > fits


def test_a_watermark_is_kept_from_sequences_that_have_committed_nothing() -> None:
    m = KVCacheManager(10, 4, watermark=0.2)
    m.add(1, range(40))
    m.acquire([1])
    with refuses(PoolExhaustedError, "KVCacheManager.schedule", unchanged=m) as raised:
        m.schedule([1], [36])
    assert (raised.value.needed, raised.value.free) == (9, 8)
    m.schedule([1], [32])
    m.commit([1], [32])
    m.schedule([1], [8])


def test_step_of_a_prompt_of_one_token_may_use_what_the_watermark_holds_back() -> None:
    m = KVCacheManager(2, 1, watermark=0.5)
    m.add(1, [1])
    m.acquire([1])
    m.schedule([1], [1])
    m.step([1], [2])


def test_swapped_sequences_come_back_with_the_same_content() -> None:
    m = KVCacheManager(8, 4, num_host_blocks=4)
    prefill(m, 1, range(10))
    before = m.block_ids(1).tolist()
    out = m.swap_out([1])
    assert out[:, 0].tolist() == before
    assert m.num_free_blocks == 8
    m.append([1], [10])
    with refuses(SequenceError, "KVCacheManager.schedule", "swapped", unchanged=m):
        m.schedule([1], [1])
    back = m.swap_in([1])
    assert back[:, 0].tolist() == out[:, 1].tolist()
    assert back[:, 1].tolist() == m.block_ids(1).tolist()
    assert m.schedule([1], [1]).copies.tolist() == []
    m.check()


def test_swapping_is_all_or_none() -> None:
    m = KVCacheManager(8, 4, num_host_blocks=4)
    prefill(m, 1, range(10))
    prefill(m, 2, [9] * 5)
    with refuses(
        PoolExhaustedError, "KVCacheManager.swap_out", "5 needed, 4 free", unchanged=m
    ) as raised:
        m.swap_out([1, 2])
    assert (raised.value.needed, raised.value.free) == (5, 4)
    m.swap_out([1])
    prefill(m, 3, range(100, 120))
    with refuses(PoolExhaustedError, "KVCacheManager.swap_in", unchanged=m):
        m.swap_in([1])
    m.free([1])  # gives the host's blocks back
    m.swap_out([2])


def test_compact_packs_what_lives_to_the_front() -> None:
    m = KVCacheManager(12, 4, prefix_caching=False)
    for seq_id in range(4):
        prefill(m, seq_id, range(12))
    m.free([0, 2])
    pairs = m.compact().tolist()
    assert sorted(b for i in (1, 3) for b in m.block_ids(i).tolist()) == list(range(6))
    assert all(source >= 6 > target for source, target in pairs)
    batch = m.schedule([1, 3], [1, 1])
    assert batch.block_tables[0, :3].tolist() == m.block_ids(1).tolist()[:3]
    m.check()


def test_step_sees_that_its_own_commits_end_what_had_to_be_copied() -> None:
    m = KVCacheManager(3, 4, prefix_caching=False)
    prefill(m, 1, range(6))
    m.schedule([1], [1])
    m.fork(1, 2)
    m.schedule([2], [1])  # a copy of 1's last block, which 1 may not write until that is done
    assert m.num_free_blocks == 0
    batch = m.step([2, 1], [6, 6])
    assert batch.copies.tolist() == []
    m.check()


def test_a_fork_that_is_told_other_tokens_for_what_both_share_stays_out_of_the_index() -> None:
    m = KVCacheManager(8, 4)
    m.add(1, [1, 2, 3])
    m.acquire([1])
    m.schedule([1], [4])
    m.commit([1], [4])  # the fourth token is written and not known yet
    m.fork(1, 2)
    m.append([1, 2], [4, 5])
    m.check()
    assert (m.probe([1, 2, 3, 4, 9]), m.probe([1, 2, 3, 5, 9])) == (4, 3)
