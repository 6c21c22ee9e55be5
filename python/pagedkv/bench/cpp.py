"""The figures of the C++ benchmarks, read from the program that measures them."""

from __future__ import annotations

import json
import subprocess

from pagedkv.bench.figure import Figure, Measured
from pagedkv.bench.manager import EVICTIONS
from pagedkv.bench.timing import Others

__all__ = ["CPP", "run_cpp"]

_BARE = "a bare stack of ids, unchecked"
_ONE_CALL = "memcpy of the same bytes, one call"
_POOLS_OF_64 = "pools of 64 slots, as many in all"

# Of 8 heads of 128, in shuffled blocks of 16 tokens.
_ROWS = [
    "bfloat16 HND, 4,096 tokens",
    "bfloat16 NHD, 4,096 tokens",
    "float32 HND, 4,096 tokens",
    "float32 NHD, 4,096 tokens",
    "bfloat16 HND, 16,384 tokens",
]
_MOVED = {
    "write_kv": _ROWS,
    "gather_kv": _ROWS,
    "copy_blocks": ["bfloat16 HND, 8,192 tokens", "float32 NHD, 8,192 tokens"],
}
_CONVERTED = [
    "float32 to bfloat16",
    "float32 to float8_e4m3",
    "float32 to int8, one scale",
    "float32 to int8, one a token",
    "float32 to int4, one a token",
]

# By the name that the benchmark has there.
CPP = {
    "BlockAllocator.allocate+free": Figure("BlockAllocator.allocate + free", _BARE, most_ns=3),
    "BlockPool.allocate+free": Figure("BlockPool.allocate + free", _BARE, most_ns=3),
    "BlockAllocator.allocate+free/shuffled": Figure(
        "BlockAllocator, 4,096 taken, then freed in random order", _BARE
    ),
    "BlockAllocator.allocate_n+free": Figure("BlockAllocator.allocate_n + free, 1,000 ids", _BARE),
    "PagedKvCache.append": Figure(
        "PagedKvCache.append, 4,096 values", "memcpy of each token", least_share=0.9
    ),
    "PagedKvCache.append/one call": Figure("PagedKvCache.append, 4,096 values", _ONE_CALL),
    "PagedKvCache.append_tensor": Figure("PagedKvCache.append_tensor", _ONE_CALL, least_share=0.9),
    "PagedKvCache.append_tensor/shuffled": Figure(
        "PagedKvCache.append_tensor, shuffled blocks", _ONE_CALL, least_share=0.9
    ),
    "PagedKvCache.as_tensor": Figure("PagedKvCache.as_tensor(out)", _ONE_CALL, least_share=0.9),
    "PagedKvCache.as_tensor/shuffled": Figure(
        "PagedKvCache.as_tensor(out), shuffled blocks", _ONE_CALL, least_share=0.9
    ),
    "PagedKvCache.as_tensor/shuffled, dim 128": Figure(
        "PagedKvCache.as_tensor(out), shuffled, tokens of 128", _ONE_CALL, least_share=0.9
    ),
    "PagedKvCache.as_tensor/shuffled, dim 16": Figure(
        "PagedKvCache.as_tensor(out), shuffled, tokens of 16", _ONE_CALL
    ),
    "PagedKvCache.as_tensor/256 KiB, 16 bytes further": Figure(
        "PagedKvCache.as_tensor(out), 256 KiB, warm, out at malloc's distance",
        _ONE_CALL,
        least_share=0.9,
    ),
    "PagedKvCache.as_span": Figure(
        "PagedKvCache.as_span, 65,536 tokens", "the same of 16 tokens", least_share=0.9
    ),
    "PagedKvCache copied": Figure("PagedKvCache copied", "copy of a std::vector"),
    "PagedSeqState.ensure_capacity/enough": Figure(
        "PagedSeqState.ensure_capacity, nothing needed", "a division and a comparison", most_ns=10
    ),
    "SequencePool.release_ssm/1,024 slots": Figure(
        "SequencePool.release_ssm, 1,024 slots", _POOLS_OF_64, least_share=0.9
    ),
    "SequencePool.release_ssm/65,536 slots": Figure(
        "SequencePool.release_ssm, 65,536 slots", _POOLS_OF_64, least_share=0.9
    ),
    "KVCacheManager.step": Figure(
        "KVCacheManager.step, 256 sequences at 1,024 to 1,280 tokens",
        "store the tokens, add 1 to four arrays",
    ),
    "KVCacheManager.probe": Figure(
        "KVCacheManager.probe, 100,000 tokens, all hit, warm", "comparison of the tokens"
    ),
    "KVCacheManager.admit": Figure(
        "KVCacheManager.add + acquire + schedule + commit, 1,024 tokens, cold",
        "copy of the tokens, store of the slots",
    ),
    "KVCacheManager.free": Figure("KVCacheManager.free, 80 blocks", "copy of 80 ids", most_ns=500),
    **{
        f"KVCacheManager.evict/{eviction}": Figure(
            f"KVCacheManager.evict(1), {eviction}, 1,000,000 blocks",
            "the same of 10,000 blocks",
            least_share=1 / 3,
            most_ns=400,
        )
        for eviction in EVICTIONS
    },
    **{
        f"{name}/{what}": Figure(f"{name}, {what}", "memcpy of the same bytes", least_share=0.85)
        for name, kinds in _MOVED.items()
        for what in kinds
    },
    **{
        f"write_kv/{what}": Figure(f"write_kv, {what}", "memcpy of the bytes that are read")
        for what in _CONVERTED
    },
}


def run_cpp(program: str) -> list[tuple[Figure, Measured]]:
    """Run the benchmark program and read what it measured; raises RuntimeError when it fails or its
    benchmarks are not those that the figures stand for."""
    with Others() as others:
        done = subprocess.run(
            [program, "--benchmark_format=json"], capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        raise RuntimeError(
            f"[bench.run_cpp] {program} ended with {done.returncode}; expected 0\n{done.stderr}"
        )
    results = []
    for run in json.loads(done.stdout)["benchmarks"]:
        name = run["name"].partition("/iterations:")[0]
        if name not in CPP:
            raise RuntimeError(f"[bench.run_cpp] benchmark '{name}'; expected one of {list(CPP)}")
        measured = Measured(ns=run["ns"], floor_ns=run["floor_ns"], others=others.share)
        results.append((CPP[name], measured))
    if len(results) != len(CPP):
        raise RuntimeError(
            f"[bench.run_cpp] {len(results)} benchmarks of {program}; expected {len(CPP)}"
        )
    return results
