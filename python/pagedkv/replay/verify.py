"""A storage that writes real keys and values, and compares them bit for bit when a request ends.

Data go where the manager's batches say: block copies first, then each new token's row to its slot.
A reused prefix is compared as what its first owner wrote.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagedkv import Batch
from pagedkv.replay.managed import HASH_TOKENS, ManagedSequence, ManagedStorage
from pagedkv.replay.shape import CacheShape
from pagedkv.replay.trace import Request

__all__ = ["Mismatch", "TokenRows", "VerifyingStorage"]

# NumPy dtypes that carry the bits: NumPy itself has no bfloat16, 8-bit floats or 4-bit integers.
CARRIERS = {
    "float64": "float64",
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "uint16",
    "float8_e4m3": "uint8",
    "float8_e5m2": "uint8",
    "int8": "int8",
    "int4": "uint8",
}

# Bytes of random rows beyond the longest request: enough for all different starts to be few MiB.
MAX_START_BYTES = 64 << 20


class TokenRows:
    """The keys or values of any (source, offset, layer) as rows of one random buffer.

    Each (source, layer, keys or values) has a start of its own in the buffer, as far as memory for
    starts allows, and reads on from there; nothing is generated for a token. The bits are random,
    so NaNs with payloads, infinities and subnormals are among the values.
    """

    def __init__(self, shape: CacheShape, num_sources: int, max_offset: int, seed: int) -> None:
        self._streams = 2 * shape.num_layers
        self._num_starts = max(
            1, min(num_sources * self._streams, MAX_START_BYTES // shape.row_bytes)
        )
        carrier = np.dtype(CARRIERS[shape.dtype])
        rows = self._num_starts + max_offset
        bits = np.random.default_rng(seed).bytes(rows * shape.row_bytes)
        self._rows: NDArray[Any] = np.frombuffer(bits, dtype=carrier).reshape(
            rows, shape.num_kv_heads, -1
        )

    @property
    def row_shape(self) -> tuple[int, ...]:
        """`[num_kv_heads, head_dim]`, of the carrier's values."""
        return self._rows.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype that carries the bits."""
        return self._rows.dtype

    def take(
        self, sources: NDArray[np.int64], offsets: NDArray[np.int64], stream: int
    ) -> NDArray[Any]:
        """The rows of these tokens; stream is `2 * layer`, plus 1 for values."""
        starts = (sources * self._streams + stream) % self._num_starts
        rows: NDArray[Any] = self._rows[starts + offsets]
        return rows


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first token of a request that did not read back as it was written."""

    request: Request
    layer: int
    position: int
    part: str

    def __str__(self) -> str:
        return (
            f"request {self.request.number}, layer {self.layer}, position {self.position}: "
            f"{self.part} read back differ from those written"
        )


class VerifyingStorage(ManagedStorage):
    """Pools with data. `mismatches` lists the requests that failed, `verified` counts the rest.

    `pools[2 * layer]` holds keys and `pools[2 * layer + 1]` values, `[num_blocks, block_size,
    num_kv_heads, head_dim]`. A step costs one write a pool; a request that ends costs a read of all
    of it.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        max_tokens: int,
        shape: CacheShape,
        requests: Sequence[Request],
        seed: int,
        *,
        prefix_caching: bool = True,
        hash_tokens: int = HASH_TOKENS,
    ) -> None:
        super().__init__(
            num_blocks,
            block_size,
            requests,
            prefix_caching=prefix_caching,
            hash_tokens=hash_tokens,
        )
        self.verified = 0
        self.mismatches: list[Mismatch] = []
        sources = len(requests) + self.tokens.num_shared_blocks
        self._rows = TokenRows(shape, sources, max(max_tokens, hash_tokens), seed)
        self.pools: list[NDArray[Any]] = [
            np.zeros((num_blocks, block_size, *self._rows.row_shape), self._rows.dtype)
            for _ in range(2 * shape.num_layers)
        ]

    def release(self, sequence: ManagedSequence, *, completed: bool) -> None:
        if completed:
            mismatch = self._compare(sequence)
            if mismatch is None:
                self.verified += 1
            else:
                self.mismatches.append(mismatch)
        super().release(sequence, completed=completed)

    def _write(self, batch: Batch, ordinals: NDArray[Any]) -> None:
        copies, slots = batch.copies, batch.slot_mapping
        if len(ordinals) == 1:
            sources, offsets = self.tokens.sources(int(ordinals[0]), batch.positions)
        else:
            # A step of several: each adds a token that it generated.
            sources, offsets = ordinals, batch.positions.astype(np.int64)
        for stream, pool in enumerate(self.pools):
            pool[copies[:, 1]] = pool[copies[:, 0]]
            pool.reshape(-1, *self._rows.row_shape)[slots] = self._rows.take(
                sources, offsets, stream
            )

    def _compare(self, sequence: ManagedSequence) -> Mismatch | None:
        length = sequence.request.total_length
        table = self.manager.block_ids(sequence.ordinal)
        sources, offsets = self.tokens.sources(sequence.ordinal, np.arange(length))
        for stream, pool in enumerate(self.pools):
            read = pool[table].reshape(-1, *self._rows.row_shape)[:length]
            position = first_difference(read, self._rows.take(sources, offsets, stream))
            if position is not None:
                part = "values" if stream % 2 else "keys"
                return Mismatch(sequence.request, stream // 2, position, part)
        return None


def first_difference(left: NDArray[Any], right: NDArray[Any]) -> int | None:
    """The first row in which two arrays of rows differ in any bit, or in which only one goes on."""
    rows = min(len(left), len(right))
    left_bits, right_bits = _bits(left[:rows]), _bits(right[:rows])
    if not np.array_equal(left_bits, right_bits):
        return int(np.flatnonzero((left_bits != right_bits).any(axis=1))[0])
    return rows if len(left) != len(right) else None


def _bits(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows as unsigned integers, the widest that divide a row."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), math.prod(rows.shape[1:]))
    row_bytes = flat.shape[1] * flat.itemsize
    width = next(width for width in (8, 4, 2, 1) if row_bytes % width == 0)
    return flat.view(f"u{width}")
