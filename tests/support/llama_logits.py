"""Logits of whole texts, through either cache of the models."""

from __future__ import annotations

import numpy as np

from pagedkv import KVCacheManager
from pagedkv.models import DenseCache, Llama, PagedCache


def random_tokens(count: int, seed: int = 1) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, 256, count)]


def paged_logits(
    model: Llama, texts: list[list[int]], *, chunk: int, dtype: str = "float32"
) -> list[np.ndarray]:
    """The logits of every token of some texts, computed together, `chunk` tokens a step."""
    manager = KVCacheManager(64, 4)
    cache = PagedCache(model.config, 64, 4, dtype=dtype)
    ids = list(range(len(texts)))
    for seq, text in enumerate(texts):
        manager.add(seq, text, reuse=False)
    manager.acquire(ids)
    found: list[list[np.ndarray]] = [[] for _ in texts]
    while any(manager.num_committed(s) < len(texts[s]) for s in ids):
        counts = [min(chunk, len(texts[s]) - manager.num_scheduled(s)) for s in ids]
        tokens = []
        for s, count in enumerate(counts):
            first = manager.num_scheduled(s)
            tokens += texts[s][first : first + count]
        batch = manager.schedule(ids, counts)
        cache.begin(batch)
        rows = model.logits(model.forward(np.array(tokens), cache))
        for s, part in enumerate(np.split(rows, batch.query_start_loc[1:-1])):
            found[s].append(part)
        manager.commit(ids, counts)
    return [np.concatenate(parts) for parts in found]


def dense_logits(model: Llama, text: list[int], *, chunk: int) -> np.ndarray:
    cache = DenseCache(model.config, 1, len(text))
    parts = []
    for first in range(0, len(text), chunk):
        tokens = text[first : first + chunk]
        cache.begin(np.array([0]), len(tokens))
        parts.append(model.logits(model.forward(np.array(tokens), cache)))
    return np.concatenate(parts)
