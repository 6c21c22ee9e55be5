"""SGLang's radix tree over pages of 16 tokens, on the CPU: its Rust core where it is to be had."""

from __future__ import annotations

import importlib.metadata
import os
from array import array
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import Any

from pagedkv.bench.figure import Bench, Contest, Figure, Scale, require
from pagedkv.bench.manager import NUM_PROBED, NUM_PROMPT, NUM_SEQS
from pagedkv.bench.rivals import Rival, load
from pagedkv.bench.sequences import (
    BLOCK_SIZE,
    Admission,
    FullPool,
    Prefix,
    one_id,
    random_tokens,
)

__all__ = ["rival"]

_CORE = os.environ.get("SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND", "rust")


class _Allocator:
    """Stands for the pool of slots: takes back whatever it is given, and does nothing."""

    device = "cpu"
    size = 10**9
    page_size = BLOCK_SIZE

    def available_size(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


class _Tree:
    """A radix tree of full attention, and what its calls take."""

    def __init__(self) -> None:
        base = "sglang.srt.mem_cache"
        self.key_type = load(f"{base}.radix_cache", "RadixKey")
        self.insert_params = load(f"{base}.base_prefix_cache", "InsertParams")
        self.match_params = load(f"{base}.base_prefix_cache", "MatchPrefixParams")
        self.evict_params = load(f"{base}.base_prefix_cache", "EvictParams")
        self.arange = load("torch", "arange")
        full = load(f"{base}.unified_cache.component_type", "ComponentType").FULL
        params = load(f"{base}.cache_init_params", "CacheInitParams")(
            disable=False,
            req_to_token_pool=None,
            token_to_kv_pool_allocator=_Allocator(),
            page_size=BLOCK_SIZE,
            tree_components=(full,),
            tree_core_backend=_CORE,
        )
        self.cache: Any = load(f"{base}.unified_radix_cache", "UnifiedRadixCache")(params=params)

    def key(self, tokens: Any) -> Any:
        return self.key_type(array("q", tokens.tolist()))

    def insertion(self, tokens: Any) -> Any:
        """Arguments of `insert` for the whole pages of the tokens."""
        count = len(tokens) // BLOCK_SIZE * BLOCK_SIZE
        return self.insert_params(key=self.key(tokens[:count]), value=self.arange(count))

    def insert_each(self, insertions: Sequence[Any]) -> None:
        insert = self.cache.insert
        for insertion in insertions:
            insert(insertion)

    def num_hit(self, tokens: Any) -> int:
        hit = self.cache.match_prefix(self.match_params(key=self.key(tokens)))
        length: int = hit.device_prefix_len
        return length


def _match(_: Scale, *, num_nodes: int, held: bool) -> Contest:
    """`held`: what hits is held and let go, and both tell where it is: we block ids, they slots."""
    ours = Prefix(1, NUM_PROBED)
    prompt = ours.prompts[0]
    theirs = _Tree()
    pages = NUM_PROBED // BLOCK_SIZE
    for i in range(1, num_nodes + 1):
        theirs.insert_each([theirs.insertion(prompt[: i * pages // num_nodes * BLOCK_SIZE])])
    params = theirs.match_params(key=theirs.key(prompt))
    manager, ids, rounds = ours.manager, one_id(1), 10

    def match() -> None:
        cache = theirs.cache
        for _ in repeat(None, rounds):
            hit = cache.match_prefix(params)
            if held:
                lock = cache.lock(hit.last_device_node)
                cache.path_device_indices(hit.last_device_node)
                cache.unlock(lock)

    def match_ours() -> None:
        for _ in repeat(None, rounds):
            if held:
                manager.add(1, prompt)
                manager.acquire(ids)
                manager.block_ids(1)
                manager.free(ids)
            else:
                manager.probe(prompt)

    def check() -> None:
        ours.check()
        require(theirs.num_hit(prompt) == pages * BLOCK_SIZE, "SGLang found other tokens")

    return Contest(rounds, match, match_ours, check)


def _insert(_: Scale) -> Contest:
    ours = Admission(NUM_SEQS, NUM_PROMPT)
    theirs = _Tree()
    insertions: list[Any] = []

    def begin() -> None:
        insertions[:] = [theirs.insertion(prompt) for prompt in ours.prompts]

    def check() -> None:
        ours.check_admitted()
        for prompt in ours.prompts:
            require(theirs.num_hit(prompt) == NUM_PROMPT, "SGLang lost tokens")

    def restore() -> None:
        ours.forget()
        theirs.cache.reset()
        begin()

    begin()
    return Contest(
        NUM_SEQS, lambda: theirs.insert_each(insertions), ours.admit_each, check, restore
    )


def _evict(_: Scale, *, num_leaves: int) -> Contest:
    """Prompts of four pages that share nothing: each is one leaf of theirs, four blocks of ours."""
    pages, calls = 4, 20
    ours = FullPool(num_leaves * pages, blocks_each=pages)
    theirs = _Tree()
    params = theirs.evict_params(num_tokens=pages * BLOCK_SIZE)

    def fill(count: int) -> None:
        prompts = random_tokens(count, pages * BLOCK_SIZE)
        theirs.insert_each([theirs.insertion(prompt) for prompt in prompts])

    def evict_theirs() -> None:
        evict = theirs.cache.evict
        for _ in repeat(None, calls):
            evict(params)

    def evict_ours() -> None:
        evict = ours.manager.evict
        for _ in repeat(None, calls):
            evict(pages)

    def check() -> None:
        ours.check_evicted(calls * pages)
        left = theirs.cache.evictable_size()
        require(left == (num_leaves - calls) * pages * BLOCK_SIZE, "SGLang evicted another number")

    def restore() -> None:
        ours.fill()
        fill(calls)

    fill(num_leaves)
    return Contest(calls, evict_theirs, evict_ours, check, restore)


_BENCHES = (
    Bench(
        Figure("probe 100,000 tokens, all hit", "match_prefix, the prefix in one node"),
        partial(_match, num_nodes=1, held=False),
    ),
    Bench(
        Figure("probe 100,000 tokens, all hit", "match_prefix, the prefix in 64 nodes"),
        partial(_match, num_nodes=64, held=False),
    ),
    Bench(
        Figure(
            "add, acquire, block_ids and free of 100,000 tokens, all hit",
            "match_prefix, lock, path_device_indices, unlock, the prefix in 64 nodes",
        ),
        partial(_match, num_nodes=64, held=True),
    ),
    Bench(Figure("admit 1,024 tokens, cold", "insert"), _insert),
    Bench(
        Figure("evict 64 tokens of 2,000 prompts", "evict, one leaf of 2,000"),
        partial(_evict, num_leaves=2000),
    ),
    Bench(
        Figure("evict 64 tokens of 20,000 prompts", "evict, one leaf of 20,000"),
        partial(_evict, num_leaves=20_000),
    ),
)


def rival() -> Rival:
    version = importlib.metadata.version("sglang")
    core = type(_Tree().cache.tree_core).__name__
    return Rival(f"SGLang {version} ({core})", _BENCHES)
