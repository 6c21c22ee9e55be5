"""Beam search of 8 beams over 100 steps, against beams that are plain lists."""

import numpy as np
from support.kv_contents import Engine, Group, Stream
from support.managers import prefill

from pagedkv import KVCacheManager, Ssm

BEAMS, STEPS, BLOCK_SIZE = 8, 100, 4


def test_beams_read_exactly_their_own_tokens(rng: np.random.Generator) -> None:
    m = KVCacheManager(260, BLOCK_SIZE)
    engine = Engine(m, [Group("full", BLOCK_SIZE)])
    prompt = rng.integers(0, 50, 13).tolist()
    m.add(0, prompt)
    m.acquire([0])
    engine.run(m.schedule([0], [13]), [Stream(b"", prompt)])
    m.commit([0], [13])
    beams = {0: prompt}
    next_id = 1
    for _ in range(STEPS):
        # Each beam proposes; the best eight of all proposals go on, some beams twice, some not.
        proposals = [(beam, token) for beam in beams for token in range(9)]
        chosen = rng.choice(len(proposals), BEAMS, replace=False).tolist()
        survivors: dict[int, list[int]] = {}
        for parent, token in map(proposals.__getitem__, chosen):
            m.fork(parent, next_id)
            m.append([next_id], [token])
            survivors[next_id] = [*beams[parent], token]
            next_id += 1
        m.free(list(beams))
        beams = survivors
        ids = list(beams)
        tails = [m.block_ids(i)[-1] for i in ids if (len(beams[i]) - 1) % BLOCK_SIZE]
        batch = m.schedule(ids, [1] * BEAMS)
        assert len(batch.copies) == len(tails) - len(set(tails))  # the last one writes in place
        engine.run(batch, [Stream(b"", beams[i]) for i in ids])
        m.commit(ids, [1] * BEAMS)
        assert [m.num_tokens(i) for i in ids] == [len(beams[i]) for i in ids]
        m.check()
        # Memory is that of the distinct prefixes, and one block that is being filled a beam.
        full = [(b, range(BLOCK_SIZE, len(b) + 1, BLOCK_SIZE)) for b in beams.values()]
        distinct = {tuple(b[:end]) for b, ends in full for end in ends}
        held = {block for i in beams for block in m.block_ids(i).tolist()}
        assert len(held) <= len(distinct) + BEAMS
    m.free(list(beams))
    assert m.usage == 0.0


def test_a_greedy_beam_of_one_never_copies() -> None:
    m = KVCacheManager(40, 4)
    prefill(m, 0, range(5))
    for step in range(50):
        m.fork(step, step + 1)
        m.free([step])
        m.append([step + 1], [step])
        assert m.schedule([step + 1], [1]).copies.tolist() == []
        m.commit([step + 1], [1])
    m.check()


def test_of_sequences_that_share_a_tail_the_last_to_write_does_not_copy() -> None:
    m = KVCacheManager(2 + 7, 4)
    prefill(m, 0, range(6))
    for beam in range(1, 8):
        m.fork(0, beam)
    ids = list(range(8))
    assert m.fit(ids, [1] * 8) == 8  # 7 copies, for which there is room
    batch = m.schedule(ids, [1] * 8)
    assert batch.copies.tolist() == [[1, new] for new in range(2, 9)]
    assert [m.block_ids(i).tolist() for i in ids] == [[0, new] for new in (*range(2, 9), 1)]
    m.check()


def test_a_tail_is_written_in_place_while_the_copy_out_of_it_is_pending() -> None:
    m = KVCacheManager(3, 4)
    prefill(m, 1, range(6))
    m.fork(1, 2)
    assert m.schedule([1], [1]).copies.tolist() == [[1, 2]]
    assert m.fit([2], [1]) == 1
    assert m.schedule([2], [1]).copies.tolist() == []
    m.commit([2, 1], [1, 1])
    assert m.schedule([1, 2], [1, 1]).copies.tolist() == []
    m.check()


def test_a_tail_that_a_fork_outside_the_batch_still_has_is_copied() -> None:
    m = KVCacheManager(8, 4)
    prefill(m, 1, range(6))
    m.fork(1, 2)
    m.fork(1, 3)
    assert len(m.schedule([1, 2], [1, 1]).copies) == 2  # 3 has it too
    assert len(m.schedule([3], [1]).copies) == 0
    m.check()


def test_forks_of_a_state_copy_it_once_less_than_they_are() -> None:
    m = KVCacheManager(4, 4, groups=[Ssm(8)])
    prefill(m, 1, range(6))
    m.fork(1, 2)
    m.fork(1, 3)
    batch = m.schedule([1, 2, 3], [1, 1, 1])
    assert batch.copies.tolist() == [[0, 1], [0, 2]]
    assert batch.state_slots.tolist() == [1, 2, 0]
    m.check()
