"""vLLM's KVCacheManager, driven as its scheduler drives it, on the CPU."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np

from pagedkv.bench.figure import Bench, Contest, Figure, Scale, require
from pagedkv.bench.manager import NUM_PROBED, NUM_PROMPT, NUM_SEQS, NUM_STEPS
from pagedkv.bench.memory import Memory, resident, words_of
from pagedkv.bench.rivals import Rival, load
from pagedkv.bench.sequences import (
    BLOCK_SIZE,
    Admission,
    Decoding,
    FullPool,
    Prefix,
    random_tokens,
)

__all__ = ["rival"]

_MAX_LENGTH = 131_072


class _Manager:
    """vLLM's manager of one group of full attention, and requests for it."""

    def __init__(self, num_blocks: int) -> None:
        core = "vllm.v1.core"
        interface = "vllm.v1.kv_cache_interface"
        self.sha256 = load("vllm.utils.hashing", "sha256")
        load(f"{core}.kv_cache_utils", "init_none_hash")(self.sha256)
        self.make_hasher = load(f"{core}.kv_cache_utils", "get_request_block_hasher")
        self.request_type = load("vllm.v1.request", "Request")
        self.sampling = load("vllm.sampling_params", "SamplingParams")(max_tokens=4096)
        self.sampling.update_from_generation_config({}, eos_token_id=100)
        spec = load(interface, "FullAttentionSpec")(
            block_size=BLOCK_SIZE, num_kv_heads=1, head_size=1, dtype=load("torch", "float32")
        )
        config = load(interface, "KVCacheConfig")(
            num_blocks=num_blocks + 1,  # its block 0 is never handed out
            kv_cache_tensors=[],
            kv_cache_groups=[load(interface, "KVCacheGroupSpec")(["layer"], spec)],
        )
        self.manager: Any = load(f"{core}.kv_cache_manager", "KVCacheManager")(
            config,
            max_model_len=_MAX_LENGTH,
            scheduler_block_size=BLOCK_SIZE,
            hash_block_size=BLOCK_SIZE,
            enable_caching=True,
        )
        self.hasher = self.make_hasher(BLOCK_SIZE, self.sha256)
        self.next_id = 0

    def request(self, tokens: list[int]) -> Any:
        """Hashes the tokens' blocks."""
        self.next_id += 1
        return self.request_type(
            request_id=str(self.next_id),
            prompt_token_ids=tokens,
            sampling_params=self.sampling,
            pooling_params=None,
            block_hasher=self.hasher,
        )

    def admit(self, request: Any) -> None:
        count = request.num_tokens
        blocks, num_cached, *_ = self.manager.get_computed_blocks(request)
        if self.manager.allocate_slots(request, count - num_cached, num_cached, blocks) is None:
            raise AssertionError("vLLM's pool is too small")
        request.num_computed_tokens = count

    def num_hit(self, request: Any) -> int:
        hit: int = self.manager.get_computed_blocks(request)[1]
        return hit

    def block_ids(self, requests: Sequence[Any]) -> set[int]:
        return {i for r in requests for i in self.manager.get_block_ids(r.request_id)[0]}


class _Requests:
    """Requests of the same tokens as ours, in a pool that has just room for them."""

    def __init__(self, prompts: Iterable[Any], blocks_each: int) -> None:
        self.prompts = [prompt.tolist() for prompt in prompts]
        self.blocks_each = blocks_each
        self.vllm = _Manager(len(self.prompts) * blocks_each)
        self.requests: list[Any] = []

    def make(self) -> None:
        self.requests = [self.vllm.request(list(prompt)) for prompt in self.prompts]

    def admit_each(self) -> None:
        admit = self.vllm.admit
        for request in self.requests:
            admit(request)

    def free_each(self) -> None:
        free = self.vllm.manager.free
        for request in self.requests:
            free(request)

    def forget(self) -> None:
        self.free_each()
        require(self.vllm.manager.reset_prefix_cache(), "vLLM's index was not emptied")

    def check_admitted(self) -> None:
        ids = self.vllm.block_ids(self.requests)
        require(len(ids) == len(self.prompts) * self.blocks_each, "vLLM did not take its blocks")


def _step(_: Scale) -> Contest:
    ours = Decoding(NUM_SEQS, NUM_PROMPT, NUM_STEPS)
    theirs = _Requests(ours.prompts, (NUM_PROMPT + NUM_STEPS) // BLOCK_SIZE)
    outputs = [tokens.tolist() for tokens in ours.outputs]

    def begin() -> None:
        theirs.make()
        theirs.admit_each()

    def steps() -> None:
        manager, requests = theirs.vllm.manager, theirs.requests
        allocate = manager.allocate_slots
        for tokens in outputs:
            manager.new_step_starts()
            for request, token in zip(requests, tokens, strict=True):
                request.append_output_token_ids(token)
                allocate(request, 1)
                request.num_computed_tokens += 1

    def check() -> None:
        ours.check()
        theirs.check_admitted()

    def restore() -> None:
        ours.begin_again()
        theirs.forget()
        begin()

    begin()
    return Contest(NUM_STEPS, steps, ours.steps, check, restore)


def _admit(_: Scale, *, hashing: bool) -> Contest:
    ours = Admission(NUM_SEQS, NUM_PROMPT)
    theirs = _Requests(ours.prompts, NUM_PROMPT // BLOCK_SIZE)
    theirs.make()

    def admit() -> None:
        if hashing:
            theirs.make()
        theirs.admit_each()

    def check() -> None:
        ours.check_admitted()
        theirs.check_admitted()

    def restore() -> None:
        ours.forget()
        theirs.forget()
        theirs.make()

    return Contest(NUM_SEQS, admit, ours.admit_each, check, restore)


def _free(_: Scale) -> Contest:
    ours = Admission(NUM_SEQS, 80 * BLOCK_SIZE)
    theirs = _Requests(ours.prompts, 80)

    def begin() -> None:
        ours.admit_each()
        theirs.make()
        theirs.admit_each()

    def check() -> None:
        ours.check_freed()
        require(theirs.vllm.manager.usage == 0, "vLLM did not free its blocks")

    def restore() -> None:
        ours.forget()
        theirs.vllm.manager.reset_prefix_cache()
        begin()

    begin()
    return Contest(NUM_SEQS, theirs.free_each, ours.free_each, check, restore)


def _probe(_: Scale, *, num_tokens: int, hashing: bool) -> Contest:
    ours = Prefix(1, num_tokens)
    theirs = _Requests(ours.prompts, num_tokens // BLOCK_SIZE + 1)
    theirs.make()
    theirs.admit_each()
    prompt = theirs.prompts[0]
    requests = [theirs.vllm.request(list(prompt)) for _ in range(20)]

    def probe() -> None:
        for request in requests:
            theirs.vllm.num_hit(theirs.vllm.request(list(prompt)) if hashing else request)

    def probe_ours() -> None:
        for _ in repeat(None, len(requests)):
            ours.probe_each()

    def check() -> None:
        ours.check()
        hit = theirs.vllm.num_hit(requests[0])
        require(hit == num_tokens // BLOCK_SIZE * BLOCK_SIZE, "vLLM found other tokens")

    return Contest(len(requests), probe, probe_ours, check)


class _FullPool:
    """A pool of which every block is cached, by prompts of 64 blocks given back in random order."""

    def __init__(self, num_blocks: int) -> None:
        self.vllm = _Manager(num_blocks)
        self.taken: list[Any] = []
        self.fill(num_blocks // 64)

    def fill(self, count: int) -> None:
        prompts = random_tokens(count, 64 * BLOCK_SIZE)
        requests = [self.vllm.request(prompt.tolist()) for prompt in prompts]
        for request in requests:
            self.vllm.admit(request)
        np.random.default_rng().shuffle(requests)
        for request in requests:
            self.vllm.manager.free(request)

    def evict_each(self, count: int) -> None:
        take, taken = self.vllm.manager.block_pool.get_new_blocks, self.taken
        for _ in repeat(None, count):
            taken += take(1)

    def restore(self) -> None:
        self.vllm.manager.block_pool.free_blocks(self.taken)
        count = len(self.taken) // 64
        self.taken.clear()
        self.fill(count)


def _evict(_: Scale) -> Contest:
    num_blocks, calls = 64_000, 6400
    ours = FullPool(num_blocks)
    theirs = _FullPool(num_blocks)
    evict = ours.manager.evict

    def evict_each() -> None:
        for _ in repeat(None, calls):
            evict(1)

    def check() -> None:
        ours.check_evicted(calls)
        require(len(theirs.taken) == calls, "vLLM took other numbers of blocks")
        cached = len(theirs.vllm.manager.block_pool.cached_block_hash_to_block)
        require(cached == num_blocks - calls, "vLLM's pool was not full of cached blocks")

    def restore() -> None:
        ours.fill()
        theirs.restore()

    return Contest(calls, lambda: theirs.evict_each(calls), evict_each, check, restore)


_BENCHES = (
    Bench(
        Figure(
            "step of 256 sequences at 1,024 to 1,280 tokens",
            "append_output_token_ids, allocate_slots, num_computed_tokens += 1 of each",
            least_share=100,
        ),
        _step,
    ),
    Bench(
        Figure(
            "admit 1,024 tokens, cold",
            "Request with its hashes, get_computed_blocks, allocate_slots",
        ),
        partial(_admit, hashing=True),
    ),
    Bench(
        Figure(
            "admit 1,024 tokens, cold, its hashing not counted",
            "get_computed_blocks, allocate_slots",
        ),
        partial(_admit, hashing=False),
    ),
    Bench(
        Figure("probe 1,024 tokens, all hit, its hashing not counted", "get_computed_blocks"),
        partial(_probe, num_tokens=1024, hashing=False),
    ),
    Bench(
        Figure("probe 100,000 tokens, all hit", "Request with its hashes, get_computed_blocks"),
        partial(_probe, num_tokens=NUM_PROBED, hashing=True),
    ),
    Bench(
        Figure("probe 100,000 tokens, all hit, its hashing not counted", "get_computed_blocks"),
        partial(_probe, num_tokens=NUM_PROBED, hashing=False),
    ),
    Bench(Figure("free 80 blocks", "free"), _free),
    Bench(
        Figure("evict one block of 64,000 cached", "BlockPool.get_new_blocks(1), which evicts one"),
        _evict,
    ),
)


def rival() -> Rival:
    version = importlib.metadata.version("vllm")
    _Manager(1)  # fails here and now where something is missing
    return Rival(f"vLLM {version}", _BENCHES, _memory)


def _memory(quick: bool) -> Memory:
    num_blocks = 1280 if quick else 100_000
    grown = words_of("pagedkv.bench.rivals.vllm", str(num_blocks))[0]
    return Memory("vLLM's KVCacheManager, memory a block", None, grown)


def _main(num_blocks: int) -> None:
    """Bytes a block by which the process grows when a pool is made and filled."""
    _FullPool(64)
    before = resident()
    pool = _Manager(num_blocks)
    for _ in range(num_blocks // 64):
        request = pool.request(random_tokens(64 * BLOCK_SIZE).tolist())
        pool.admit(request)
        pool.manager.free(request)
    print((resident() - before) / num_blocks)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
