"""What an engine asks of the manager once a step or once a request."""

from __future__ import annotations

from functools import partial
from itertools import repeat

import numpy as np

from pagedkv.bench.figure import Bench, Contest, Figure, Scale
from pagedkv.bench.sequences import (
    BLOCK_SIZE,
    Admission,
    Decoding,
    FullPool,
    Prefix,
)

__all__ = ["EVICTIONS", "MANAGER", "NUM_PROBED", "NUM_PROMPT", "NUM_SEQS", "NUM_STEPS"]

NUM_SEQS, NUM_PROMPT, NUM_STEPS = 256, 1024, 256
NUM_PROBED = 100_000
SMALL_POOL = 10_000
EVICTIONS = ("lru", "lfu", "fifo", "s3fifo", "lifetable")


def _step(_: Scale, *, varied: bool = False, crowded: bool = False) -> Contest:
    decoding = Decoding(NUM_SEQS, NUM_PROMPT, NUM_STEPS, varied=varied, crowded=crowded)
    known = np.zeros((NUM_SEQS, NUM_PROMPT + NUM_STEPS), np.int32)
    lengths, positions, pages = (np.full(NUM_SEQS, NUM_PROMPT, np.int32) for _ in range(3))
    slots = np.zeros(NUM_SEQS, np.int64)

    def floor() -> None:
        for i, tokens in enumerate(decoding.outputs):
            known[:, NUM_PROMPT + i] = tokens
            np.add(lengths, 1, out=lengths)
            np.add(positions, 1, out=positions)
            np.add(pages, 1, out=pages)
            np.add(slots, 1, out=slots)

    return Contest(NUM_STEPS, floor, decoding.steps, decoding.check, decoding.begin_again)


def _probe(num_prompts: int) -> Contest:
    prefix = Prefix(num_prompts, NUM_PROBED)
    pairs = [(prompt, prompt.copy()) for prompt in prefix.prompts]
    rounds = max(1, 10 // num_prompts)

    def floor() -> None:
        for _ in repeat(None, rounds):
            for prompt, copy in pairs:
                np.array_equal(prompt, copy)

    def ours() -> None:
        for _ in repeat(None, rounds):
            prefix.probe_each()

    return Contest(rounds * num_prompts, floor, ours, prefix.check)


def _cold_probe(scale: Scale) -> Contest:
    """So many prompts that each has left the caches when its turn comes."""
    return _probe(max(2, scale.blocks * BLOCK_SIZE // (2 * NUM_PROBED)))


def _admit(_: Scale) -> Contest:
    admission = Admission(NUM_SEQS, NUM_PROMPT)

    def floor() -> None:
        for _, tokens, _ in admission.calls:
            tokens.copy()
            np.arange(NUM_PROMPT)

    return Contest(
        NUM_SEQS, floor, admission.admit_each, admission.check_admitted, admission.forget
    )


def _free(_: Scale) -> Contest:
    admission = Admission(NUM_SEQS, 80 * BLOCK_SIZE)
    ids = list(range(80))

    def floor() -> None:
        stack: list[int] = []
        for _ in repeat(None, NUM_SEQS):
            stack.extend(ids)

    def restore() -> None:
        admission.forget()
        admission.admit_each()

    restore()
    return Contest(NUM_SEQS, floor, admission.free_each, admission.check_freed, restore)


def _evict(scale: Scale, eviction: str) -> Contest:
    small = FullPool(min(SMALL_POOL, scale.blocks), eviction)
    large = FullPool(scale.blocks, eviction)
    calls = min(SMALL_POOL, scale.blocks) // 2

    def evict_each(pool: FullPool) -> None:
        evict = pool.manager.evict
        for _ in repeat(None, calls):
            evict(1)

    def check() -> None:
        small.check_evicted(calls)
        large.check_evicted(calls)

    def restore() -> None:
        small.fill()
        large.fill()

    return Contest(calls, lambda: evict_each(small), lambda: evict_each(large), check, restore)


MANAGER = (
    Bench(
        Figure(
            "KVCacheManager.step, 256 sequences at 1,024 to 1,280 tokens",
            "NumPy: store the tokens, add 1 to four arrays",
            most_ns=12_000,
        ),
        _step,
    ),
    Bench(
        Figure(
            "KVCacheManager.step, the same of varied lengths",
            "NumPy: store the tokens, add 1 to four arrays",
        ),
        lambda scale: _step(scale, varied=True),
    ),
    Bench(
        Figure(
            "KVCacheManager.step, the same in a pool full of cached blocks",
            "NumPy: store the tokens, add 1 to four arrays",
        ),
        lambda scale: _step(scale, crowded=True),
    ),
    Bench(
        Figure(
            "KVCacheManager.probe, 100,000 tokens, all hit, warm",
            "`np.array_equal` of the tokens",
            most_ns=60_000,
        ),
        lambda _: _probe(1),
    ),
    Bench(
        Figure(
            "KVCacheManager.probe, 100,000 tokens, all hit, cold",
            "`np.array_equal` of the tokens, cold",
        ),
        _cold_probe,
    ),
    Bench(
        Figure(
            "KVCacheManager.add + acquire + schedule + commit, 1,024 tokens, cold",
            "NumPy: copy the tokens, `arange` of slots",
            most_ns=8000,
        ),
        _admit,
    ),
    Bench(
        Figure(
            "KVCacheManager.free, 80 blocks",
            "`extend` of a Python list by 80 ids",
            most_ns=1500,
        ),
        _free,
    ),
    *(
        Bench(
            Figure(
                f"KVCacheManager.evict(1), {eviction}, 1,000,000 blocks",
                "the same of 10,000 blocks",
                least_share=1 / 3,
                most_ns=400,
            ),
            partial(_evict, eviction=eviction),
        )
        for eviction in EVICTIONS
    ),
)
