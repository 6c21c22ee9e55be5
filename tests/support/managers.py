"""What the tests of the manager share: serving a prompt, and a manager's visible state."""

from collections.abc import Iterable
from typing import Any

import pagedkv
from pagedkv import KVCacheManager

from .state import state_of


def prefill(m: KVCacheManager, seq_id: int, tokens: Iterable[int], **options: Any) -> int:
    """Adds a sequence and computes its whole prompt; returns how many tokens were found."""
    tokens = list(tokens)
    m.add(seq_id, tokens, **options)
    (cached,) = m.acquire([seq_id]).tolist()
    m.schedule([seq_id], [len(tokens) - cached])
    m.commit([seq_id], [len(tokens) - cached])
    return int(cached)


def serve(m: KVCacheManager, seq_id: int, tokens: Iterable[int], **options: Any) -> int:
    """The same, and the sequence ends."""
    cached = prefill(m, seq_id, tokens, **options)
    m.free([seq_id])
    return cached


@state_of.register
def _(value: pagedkv.KVCacheManager) -> Any:
    sequences = {
        i: (
            value.num_tokens(i),
            value.num_scheduled(i),
            value.num_committed(i),
            value.num_cached(i),
            value.block_ids(i).tolist(),
        )
        for i in range(64)
        if i in value
    }
    return value.stats(), sequences, value.num_free_blocks
