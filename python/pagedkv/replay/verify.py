"""A storage that writes real keys and values, and compares them bit for bit when a request ends.

The blocks that are counted are the blocks that hold the data: the caches take them from their
allocators as tokens are appended, and there is no second table. Every layer has a pool and an
allocator of its own; they take the same steps, so the first layer's allocator speaks for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagedkv import BlockAllocator, KvCache
from pagedkv.replay.shape import CacheShape
from pagedkv.replay.storage import blocks_for
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
    """The keys or values of any (request, layer, position) as slices of one random buffer.

    Each (request, layer, keys or values) has a start of its own in the buffer, as far as memory
    for starts allows, and reads on from there; nothing is generated or copied for a token. The
    bits are random, so NaNs with payloads, infinities and subnormals are among the values.
    """

    def __init__(self, shape: CacheShape, num_requests: int, max_tokens: int, seed: int) -> None:
        self._streams = 2 * shape.num_layers
        self._num_starts = max(
            1, min(num_requests * self._streams, MAX_START_BYTES // shape.row_bytes)
        )
        carrier = np.dtype(CARRIERS[shape.dtype])
        rows = self._num_starts + max_tokens
        bits = np.random.default_rng(seed).bytes(rows * shape.row_bytes)
        self._rows: NDArray[Any] = np.frombuffer(bits, dtype=carrier).reshape(
            rows, shape.num_kv_heads, -1
        )

    def slice(self, ordinal: int, stream: int, begin: int, end: int) -> NDArray[Any]:
        """Rows `[begin, end)` of a request; stream is `2 * layer`, plus 1 for values."""
        start = (ordinal * self._streams + stream) % self._num_starts
        return self._rows[start + begin : start + end]


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


class VerifiedSequence:
    """One cache a layer, and how many tokens are written."""

    __slots__ = ("caches", "capacity", "current", "ordinal", "request", "written")

    def __init__(self, request: Request, ordinal: int, caches: list[KvCache]) -> None:
        self.request = request
        self.ordinal = ordinal
        self.caches = caches
        self.capacity = 0
        self.written = 0
        # Whether this step's token is written already.
        self.current = False


@dataclass(frozen=True, slots=True)
class LayerPool:
    """One layer's blocks: who hands out their ids, and the cache that all sequences share."""

    allocator: BlockAllocator
    root: KvCache


class VerifyingStorage:
    """Caches with data. `mismatches` lists the requests that failed, `verified` counts the rest.

    A token costs one append a layer; a request that ends costs a read of all of it.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        max_tokens: int,
        shape: CacheShape,
        requests: Sequence[Request],
        seed: int,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.verified = 0
        self.mismatches: list[Mismatch] = []
        self._rows = TokenRows(shape, len(requests), max_tokens, seed)
        self._ordinals = {request.number: i for i, request in enumerate(requests)}
        self.pools = [
            self._make_pool(shape, blocks_for(max_tokens, block_size))
            for _ in range(shape.num_layers)
        ]
        self._open: set[VerifiedSequence] = set()
        self._idle: list[list[KvCache]] = []

    @property
    def blocks_in_use(self) -> int:
        return self.pools[0].allocator.in_use

    def open(self, request: Request, num_tokens: int) -> VerifiedSequence | None:
        if not self._has_room(num_tokens):
            return None
        caches = self._idle.pop() if self._idle else [pool.root.share() for pool in self.pools]
        sequence = VerifiedSequence(request, self._ordinals[request.number], caches)
        self._open.add(sequence)
        self._write(sequence, num_tokens)
        return sequence

    def grow(self, sequence: VerifiedSequence, num_tokens: int) -> bool:
        if not self._has_room(num_tokens - sequence.capacity):
            return False
        self._write(sequence, num_tokens)
        return True

    def end_step(self) -> None:
        for sequence in self._open:
            if not sequence.current:
                self._write(sequence, sequence.written + 1)
            sequence.current = False

    def release(self, sequence: VerifiedSequence, *, completed: bool) -> None:
        if completed:
            mismatch = self._compare(sequence)
            if mismatch is None:
                self.verified += 1
            else:
                self.mismatches.append(mismatch)
        self._open.remove(sequence)
        for cache in sequence.caches:
            cache.release()
        self._idle.append(sequence.caches)

    def _make_pool(self, shape: CacheShape, max_blocks_per_seq: int) -> LayerPool:
        allocator = BlockAllocator(self.num_blocks)
        root = KvCache.paged(
            self.num_blocks,
            shape.num_kv_heads,
            shape.head_dim,
            self.block_size,
            max_blocks_per_seq,
            allocator,
            dtype=shape.dtype,
        )
        return LayerPool(allocator, root)

    def _has_room(self, num_tokens: int) -> bool:
        return blocks_for(num_tokens, self.block_size) <= self.pools[0].allocator.free_count

    def _write(self, sequence: VerifiedSequence, num_tokens: int) -> None:
        """Append the tokens from the last one written up to `num_tokens` in all."""
        rows, ordinal, begin = self._rows, sequence.ordinal, sequence.written
        for layer, cache in enumerate(sequence.caches):
            cache.append(
                rows.slice(ordinal, 2 * layer, begin, num_tokens),
                rows.slice(ordinal, 2 * layer + 1, begin, num_tokens),
            )
        sequence.written = num_tokens
        sequence.current = True
        sequence.capacity = blocks_for(num_tokens, self.block_size) * self.block_size

    def _compare(self, sequence: VerifiedSequence) -> Mismatch | None:
        request = sequence.request
        length = request.total_length
        for layer, cache in enumerate(sequence.caches):
            for stream, read in enumerate(cache.to_dense(), start=2 * layer):
                written = self._rows.slice(sequence.ordinal, stream, 0, length)
                position = first_difference(read, written)
                if position is not None:
                    part = "values" if stream % 2 else "keys"
                    return Mismatch(request, layer, position, part)
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
