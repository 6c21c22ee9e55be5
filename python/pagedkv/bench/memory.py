"""Bytes that the manager keeps for a block: by its own account, and by which the process grows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pagedkv
from pagedkv.bench.sequences import BLOCK_SIZE, admit, random_tokens

__all__ = [
    "MOST_BYTES",
    "Memory",
    "memory_of",
    "memory_table",
    "memory_title",
    "resident",
    "words_of",
]

MOST_BYTES = 128
_STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class Memory:
    """Bytes of one block, all blocks cached and in no sequence's hands."""

    title: str
    books: float | None
    """`memory_bytes`; None for a rival, which keeps no such account."""
    growth: float | None
    """Of the process's resident memory; None where nothing tells."""
    most: float | None = None
    """Target."""

    @property
    def reached(self) -> bool:
        """Whether the target is met; the process may grow by a byte besides."""
        if self.most is None:
            return True
        return (self.books or 0) <= self.most and (self.growth or 0) <= self.most + 1


def memory_title(eviction: str) -> str:
    return f"KVCacheManager, memory a block, {eviction}"


def memory_of(eviction: str, num_blocks: int) -> Memory:
    """Measured in a process of its own, which has nothing else to give back or to reuse."""
    books, grown = words_of("pagedkv.bench.memory", eviction, str(num_blocks))
    most = MOST_BYTES if eviction == "lru" else None
    return Memory(memory_title(eviction), books, grown or None, most)


def words_of(module: str, *arguments: str) -> list[float]:
    """The numbers that `python -m module arguments` prints on its last line."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"[bench.words_of] {module} ended with {done.returncode}; expected 0\n{done.stderr}"
        )
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


def resident() -> int:
    """Bytes of this process in memory; 0 where nothing tells."""
    if not _STATM.exists():
        return 0
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_table(memories: Sequence[Memory], *, judged: bool) -> str:
    """One line a policy."""
    lines = [
        "| what | `memory_bytes` | growth of the process | target | reached |",
        "|---|---:|---:|---|---|",
    ]
    for memory in memories:
        reached = "-"
        if judged and memory.most is not None:
            reached = "yes" if memory.reached else "**no**"
        target = "-" if memory.most is None else f"≤ {memory.most:.0f} B"
        cells = (memory.title, _bytes(memory.books), _bytes(memory.growth), target, reached)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _bytes(count: float | None) -> str:
    return "-" if count is None else f"{count:.1f} B"


def _filled(num_blocks: int, eviction: str) -> pagedkv.KVCacheManager:
    """Every block cached; few sequences at a time, so that what they hold is little."""
    manager = pagedkv.KVCacheManager(num_blocks, BLOCK_SIZE, eviction=eviction)
    while manager.stats().num_cached_blocks + 16 * 64 <= num_blocks:
        prompts = dict(enumerate(random_tokens(16, 64 * BLOCK_SIZE)))
        admit(manager, prompts)
        manager.free(list(prompts))
    return manager


def _main(eviction: str, num_blocks: int) -> None:
    _filled(1024, eviction)  # what is loaded and set up once for all managers
    before = resident()
    manager = _filled(num_blocks, eviction)
    grown = resident() - before
    print(manager.memory_bytes / num_blocks, grown / num_blocks)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
