"""Beam search of 8 beams over 100 steps, against beams that are plain lists."""

import numpy as np
from support.kv_contents import Engine, Group, Stream
from support.managers import prefill

from pagedkv import KVCacheManager

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
        batch = m.schedule(ids, [1] * BEAMS)
        assert len(batch.copies) <= BEAMS
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
