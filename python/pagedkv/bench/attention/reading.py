"""The least that a decode step can do: read the cache once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pagedkv.bench.attention.case import Raw

__all__ = ["Reading"]


class Reading:
    """Reads arrays from one end to the other: their largest number, by NumPy's vectors."""

    def __init__(self, arrays: Sequence[Raw]) -> None:
        self.flat = [array.reshape(-1).view(np.int64) for array in arrays]
        self.threads = 1
        self.pool: ThreadPoolExecutor | None = None

    def use_threads(self, count: int) -> None:
        if self.pool is not None:
            self.pool.shutdown()
        self.pool = ThreadPoolExecutor(count - 1) if count > 1 else None
        self.threads = count

    def run(self) -> None:
        others = range(1, self.threads)
        waiting = [self.pool.submit(self._read, part) for part in others] if self.pool else []
        self._read(0)
        for one in waiting:
            one.result()

    def _read(self, part: int) -> None:
        for flat in self.flat:
            each = len(flat) // self.threads
            flat[part * each : (part + 1) * each].max()
