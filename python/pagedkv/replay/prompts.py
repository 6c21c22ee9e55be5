"""Prompts as paths: what the hash ids of a trace say is shared, by one number a shared block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pagedkv.replay.errors import ReplayError
from pagedkv.replay.trace import BrokenLine, Trace

__all__ = ["PromptBlocks", "number_blocks", "prompts_of"]


@dataclass(frozen=True, slots=True)
class PromptBlocks:
    """Each prompt as the numbers of its blocks, in [0, num_distinct).

    A block is its hash id and all that came before it: two prompts have a number in common where,
    and only where, they are equal up to there.
    """

    prompts: list[NDArray[np.int32]]
    num_distinct: int
    skipped: list[BrokenLine] = field(default_factory=list)
    """Requests without hash ids, by their number."""

    @property
    def num_references(self) -> int:
        """Blocks of all prompts."""
        return sum(len(prompt) for prompt in self.prompts)

    @property
    def most_hits(self) -> float:
        """Hit rate of a cache that never evicts; 0 without references."""
        references = self.num_references
        return (references - self.num_distinct) / references if references else 0.0


def number_blocks(prompts: Sequence[Sequence[int | str]]) -> PromptBlocks:
    """Number the blocks of prompts that are given by hash ids, in order of appearance."""
    numbers: dict[tuple[int, int | str], int] = {}
    paths = []
    for hash_ids in prompts:
        path = np.empty(len(hash_ids), dtype=np.int32)
        parent = -1
        for depth, hash_id in enumerate(hash_ids):
            parent = numbers.setdefault((parent, hash_id), len(numbers))
            path[depth] = parent
        paths.append(path)
    return PromptBlocks(paths, len(numbers))


def prompts_of(trace: Trace) -> PromptBlocks:
    """The trace's prompts; requests without hash ids are named in `skipped`.

    Raises `ReplayError` when no request has any.
    """
    given = [request.hash_ids for request in trace.requests if request.hash_ids is not None]
    if trace.requests and not given:
        raise ReplayError(
            f"[replay.prompts_of] '{trace.name}' ({trace.format}) has no hash_ids; expected JSON "
            "lines with hash_ids, which say what prompts have in common"
        )
    blocks = number_blocks(given)
    blocks.skipped.extend(
        BrokenLine(request.number, "hash_ids is missing; expected one id a block of the prompt")
        for request in trace.requests
        if request.hash_ids is None
    )
    return blocks
