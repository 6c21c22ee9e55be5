"""Sequences in the states of which the manager's figures are taken, alone and beside rivals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import pagedkv
from pagedkv.bench.figure import require

__all__ = [
    "BLOCK_SIZE",
    "Admission",
    "Decoding",
    "FullPool",
    "Prefix",
    "admit",
    "one_id",
    "random_prompts",
    "random_tokens",
]

BLOCK_SIZE = 16
Tokens = npt.NDArray[np.int32]


def random_tokens(*shape: int) -> Tokens:
    """Token ids of a vocabulary of 128,000, fresh in every run."""
    return np.random.default_rng().integers(0, 128_000, shape, dtype=np.int32)


def random_prompts(num_prompts: int, num_tokens: int) -> Tokens:
    """No two begin alike, so that none reuses a part of another's block."""
    prompts = random_tokens(num_prompts, num_tokens)
    prompts[:, 0] = np.random.default_rng().permutation(128_000)[:num_prompts]
    return prompts


def one_id(seq_id: int) -> npt.NDArray[np.uint64]:
    return np.array([seq_id], np.uint64)


def admit(manager: pagedkv.KVCacheManager, prompts: dict[int, Tokens]) -> None:
    """Adds, acquires, schedules and commits sequences whole, all in one batch."""
    ids = np.array(list(prompts), np.uint64)
    for seq_id, tokens in prompts.items():
        manager.add(seq_id, tokens)
    cached = manager.acquire(ids)
    counts = np.array([len(tokens) for tokens in prompts.values()], np.int32) - cached
    manager.schedule(ids, counts)
    manager.commit(ids, counts)


class Admission:
    """Prompts of equal length, and a pool that has room for all of them."""

    def __init__(self, num_seqs: int, num_tokens: int) -> None:
        self.prompts = random_prompts(num_seqs, num_tokens)
        self.ids = np.arange(num_seqs, dtype=np.uint64)
        self.calls = [(i, self.prompts[i], one_id(i)) for i in range(num_seqs)]
        self.count = np.array([num_tokens], np.int32)
        blocks = -(-num_tokens // BLOCK_SIZE)
        self.manager = pagedkv.KVCacheManager(num_seqs * blocks, BLOCK_SIZE)

    def admit_each(self) -> None:
        """One sequence after the other, as requests come in."""
        add, acquire = self.manager.add, self.manager.acquire
        schedule, commit = self.manager.schedule, self.manager.commit
        count = self.count
        for seq_id, tokens, ids in self.calls:
            add(seq_id, tokens)
            acquire(ids)
            schedule(ids, count)
            commit(ids, count)

    def free_each(self) -> None:
        free = self.manager.free
        for _, _, ids in self.calls:
            free(ids)

    def forget(self) -> None:
        """Ends what runs and empties the index: the next admission is cold."""
        if len(self.manager):
            self.manager.free(self.ids)
        self.manager.reset()

    def check_admitted(self) -> None:
        self.manager.check()
        require(self.manager.num_free_blocks == 0, "blocks were not taken")
        for seq_id, tokens, _ in self.calls:
            require(self.manager.num_cached(seq_id) == 0, "an admission was not cold")
            require(self.manager.num_committed(seq_id) == len(tokens), "tokens were lost")
            require(self.manager.probe(tokens) == len(tokens) - 1, "a prompt is not found")

    def check_freed(self) -> None:
        self.manager.check()
        require(len(self.manager) == 0, "a sequence still runs")
        require(self.manager.usage == 0, "blocks are still held")
        for tokens in self.prompts:
            require(self.manager.probe(tokens) == len(tokens) - 1, "a freed prompt is not found")


class Decoding:
    """Sequences that have their prompts and decode one token a step.

    `varied`: prompts are up to 15 tokens shorter, so that blocks fill in every step and not all at
    once in every 16th. `crowded`: the rest of the pool holds what others left, so that every new
    block is evicted first.
    """

    def __init__(
        self,
        num_seqs: int,
        num_prompt: int,
        num_steps: int,
        *,
        varied: bool = False,
        crowded: bool = False,
    ) -> None:
        random = np.random.default_rng()
        shorter = random.integers(0, BLOCK_SIZE if varied else 1, num_seqs)
        self.lengths = num_prompt - shorter
        prompts = random_prompts(num_seqs, num_prompt)
        self.prompts = [p[:n] for p, n in zip(prompts, self.lengths, strict=True)]
        self.outputs = list(random_tokens(num_steps, num_seqs))
        self.ids = np.arange(num_seqs, dtype=np.uint64)
        self.crowded = crowded
        blocks = -(-(num_prompt + num_steps + 1) // BLOCK_SIZE)
        self.manager = pagedkv.KVCacheManager(num_seqs * blocks, BLOCK_SIZE)
        self.batch = self.manager.new_batch(num_seqs, num_seqs * num_prompt, blocks)
        self.begin()

    def begin(self) -> None:
        admit(self.manager, dict(enumerate(self.prompts)))
        if self.crowded:
            other = len(self.ids)
            tokens = self.manager.num_free_blocks * BLOCK_SIZE
            admit(self.manager, {other: random_tokens(tokens)})
            self.manager.free(one_id(other))
        self.manager.schedule(self.ids, np.ones(len(self.ids), np.int32), out=self.batch)

    def steps(self) -> None:
        step, ids, batch = self.manager.step, self.ids, self.batch
        for tokens in self.outputs:
            step(ids, tokens, out=batch)

    def begin_again(self) -> None:
        self.manager.free(self.ids)
        self.manager.reset()
        self.begin()

    def check(self) -> None:
        self.manager.check()
        outputs = np.stack(self.outputs, axis=1)
        lengths = self.lengths + len(self.outputs)
        require(np.array_equal(self.batch.seq_lens, lengths + 1), "sequences have other lengths")
        last = self.batch.block_tables[np.arange(len(lengths)), lengths // BLOCK_SIZE]
        slots = last.astype(np.int64) * BLOCK_SIZE + lengths % BLOCK_SIZE
        require(np.array_equal(self.batch.slot_mapping, slots), "a slot is not its sequence's")
        for prompt, output, length in zip(self.prompts, outputs, lengths, strict=True):
            known = np.concatenate([prompt, output])
            found = self.manager.probe(known)
            require(found >= (length - 1) // BLOCK_SIZE * BLOCK_SIZE, "tokens were lost")


class Prefix:
    """Prompts of so many tokens and one more, all cached: a probe of one hits all but the last."""

    def __init__(self, num_prompts: int, num_tokens: int) -> None:
        self.prompts = list(random_prompts(num_prompts, num_tokens + 1))
        blocks = num_prompts * (num_tokens // BLOCK_SIZE + 1)
        self.manager = pagedkv.KVCacheManager(blocks, BLOCK_SIZE)
        for i, prompt in enumerate(self.prompts):
            admit(self.manager, {i: prompt})
        self.manager.free(np.arange(num_prompts, dtype=np.uint64))

    def probe_each(self) -> None:
        probe = self.manager.probe
        for prompt in self.prompts:
            probe(prompt)

    def check(self) -> None:
        self.manager.check()
        for prompt in self.prompts:
            require(self.manager.probe(prompt) == len(prompt) - 1, "a cached prefix is not found")
        other = self.prompts[0].copy()
        other[len(other) // 2] ^= 1
        require(self.manager.probe(other) == len(other) // 2, "a token was not compared")


class FullPool:
    """A pool of which every block is cached and evictable: prompts of `blocks_each`, given
    back in random order."""

    def __init__(self, num_blocks: int, eviction: str = "lru", *, blocks_each: int = 64) -> None:
        self.manager = pagedkv.KVCacheManager(num_blocks, BLOCK_SIZE, eviction=eviction)
        self.blocks_each = blocks_each
        self.next_id = 0
        self.fill()

    def fill(self) -> None:
        """Fills what is empty, at first and after blocks were evicted."""
        stats = self.manager.stats()
        count = (stats.num_blocks - stats.num_cached_blocks) // self.blocks_each
        ids = np.arange(self.next_id, self.next_id + count, dtype=np.uint64)
        self.next_id += count
        for start in range(0, count, 256):  # a batch for all of them would be larger than the books
            prompts = random_tokens(len(ids[start : start + 256]), self.blocks_each * BLOCK_SIZE)
            admit(self.manager, dict(zip(ids[start : start + 256].tolist(), prompts, strict=True)))
        np.random.default_rng().shuffle(ids)
        self.manager.free(ids)
        self.cached = self.manager.stats().num_cached_blocks

    def check_evicted(self, count: int) -> None:
        self.manager.check()
        now = self.manager.stats().num_cached_blocks
        require(self.cached - now == count, "other numbers of blocks were evicted")
