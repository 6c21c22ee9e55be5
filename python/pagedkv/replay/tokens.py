"""Token ids for requests of which a trace tells lengths and, by hash ids, what they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagedkv.replay.errors import ReplayError
from pagedkv.replay.prompts import number_blocks
from pagedkv.replay.trace import Request

__all__ = ["RequestTokens"]

MAX_IDS = 2**31


class RequestTokens:
    """The tokens of all requests, each request by its ordinal in `requests`.

    A token under a hash id is shared: it has an id of 0 or more that follows from the number of its
    block of `hash_tokens` tokens (see `number_blocks`) and its offset there. All others, those that
    are generated among them, have negative ids of their own.
    """

    def __init__(self, requests: Sequence[Request], hash_tokens: int) -> None:
        self.ordinals = {request.number: i for i, request in enumerate(requests)}
        self._hash_tokens = hash_tokens
        blocks = number_blocks([request.hash_ids or () for request in requests])
        self.num_shared_blocks = blocks.num_distinct
        self._paths = blocks.prompts
        self._shared_lengths = [
            min(request.input_length, len(path) * hash_tokens)
            for request, path in zip(requests, self._paths, strict=True)
        ]
        # Only what may be stored must differ from others.
        lengths = [0 if request.hash_ids is None else request.total_length for request in requests]
        self._first_own = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        if max(blocks.num_distinct * hash_tokens, int(self._first_own[-1])) > MAX_IDS:
            raise ReplayError(
                f"[replay.RequestTokens] {blocks.num_distinct:,} blocks of {hash_tokens} tokens "
                f"and {int(self._first_own[-1]):,} tokens of requests; expected at most "
                f"{MAX_IDS:,} of each (limit the trace)"
            )

    def ids(self, ordinal: int, begin: int, end: int) -> NDArray[np.int32]:
        """Ids of the tokens at positions `[begin, end)`."""
        ids: NDArray[np.int64] = np.arange(begin, end, dtype=np.int64)
        ids = -1 - self._first_own[ordinal] - ids
        shared = max(0, self._shared_lengths[ordinal] - begin)
        positions = np.arange(begin, min(end, begin + shared), dtype=np.int64)
        blocks, offsets = self._shared(ordinal, positions)
        ids[: len(positions)] = blocks * self._hash_tokens + offsets
        return ids.astype(np.int32)

    def sources(
        self, ordinal: int, positions: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What each token's data follows from: a source and an offset in it.

        Sources are requests by their ordinal, and after them the shared blocks by their number.
        """
        sources = np.full(len(positions), ordinal, dtype=np.int64)
        offsets = positions.astype(np.int64)
        shared = positions < self._shared_lengths[ordinal]
        blocks, offsets[shared] = self._shared(ordinal, offsets[shared])
        sources[shared] = len(self.ordinals) + blocks
        return sources, offsets

    def _shared(
        self, ordinal: int, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        blocks, offsets = np.divmod(positions, self._hash_tokens)
        return self._paths[ordinal][blocks].astype(np.int64), offsets
