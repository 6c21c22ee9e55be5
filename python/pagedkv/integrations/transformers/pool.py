"""The blocks that caches share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pagedkv import KVCacheManager, Stats
from pagedkv.errors import PoolExhaustedError, ShapeError
from pagedkv.integrations.transformers.layout import ModelLayout
from pagedkv.integrations.transformers.states import StateCheckpoints
from pagedkv.integrations.transformers.storage import KVStorage

if TYPE_CHECKING:
    from pagedkv.integrations.transformers.cache import PagedCache

__all__ = ["PagedPool"]

DEFAULT_TOKENS = 16_384


class PagedPool:
    """Blocks of keys and values of one model, which any number of caches share.

    A block holds ``block_size`` tokens of the layers of one group: layers that see the same tokens,
    as many as the rarest kind of layer has. A Llama has one group; a model of 4 layers with full
    attention and 22 with a window has 1 + 6 groups of 4: a token takes a slot in 7 blocks.

    Args:
        config: of the model: ``model.config``.
        num_blocks: how many; room for 16,384 tokens in each group unless told. On the CPU the
            memory of a block is taken when it is first written.
        block_size: tokens of a block.
        dtype: of what is stored; None: that of the model's keys. bfloat16 under a float32 model
            halves the memory and rounds. Floats of 64, 32 or 16 bits, ``float8_e4m3fn`` or
            ``float8_e5m2``.
        device: where it is stored, which must be where the model's keys are; None: there.
        eviction: which blocks that nobody holds go first, see ``KVCacheManager``.
        num_states: of models with linear attention or SSM layers: how many sequences and
            checkpoints have a slot for their states.
        checkpoint_interval: of these models: prompts are reused up to multiples of so many tokens
            on which a forward pass ended (``prefill_chunk_size`` makes it so).

    Raises:
        UnsupportedError: the model has layers of an unknown type, no attention, or an encoder; or a
            dtype that is not named above; keys on another device than asked for (by ``update``).
        ShapeError: sizes that are not above 0, or a ``config`` that is no configuration.
    """

    def __init__(
        self,
        config: Any,
        num_blocks: int | None = None,
        block_size: int = 16,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        eviction: str = "lru",
        num_states: int = 64,
        checkpoint_interval: int = 256,
    ) -> None:
        sizes = {
            "num_blocks": num_blocks,
            "block_size": block_size,
            "num_states": num_states,
            "checkpoint_interval": checkpoint_interval,
        }
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ShapeError(f"[PagedPool] {name} {size}; expected more than 0")
        self.layout = ModelLayout(config)
        if num_blocks is None:
            num_blocks = -(-DEFAULT_TOKENS // block_size) * len(self.layout.windows)
        self.manager = KVCacheManager(
            num_blocks, block_size, groups=self.layout.group_specs(), eviction=eviction
        )
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.storage = KVStorage(num_blocks, block_size, dtype, device)
        self.checkpoints: StateCheckpoints | None = None
        self.managers = [self.manager]
        if self.layout.has_states and self.layout.can_go_on:
            self.checkpoints = StateCheckpoints(
                num_states, checkpoint_interval, block_size, eviction
            )
            self.managers.append(self.checkpoints.manager)
        self._ids = count()

    def cache(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        salt: bytes = b"",
    ) -> PagedCache:
        """A cache on this pool; with prompts, one that holds the longest beginning that is known.

        Args:
            input_ids: ``[batch, columns]``, what ``generate()`` will be given.
            attention_mask: of the same shape, 0 in padding, which is on the left.
            salt: prompts of different salts share nothing: a tenant, an adapter, the digest of the
                images.

        The keys of a row are shared by its tokens alone, so the positions that the model is given
        must be those without padding, as ``generate()`` gives them.
        """
        # The cache's module needs this one.
        from pagedkv.integrations.transformers.cache import PagedCache

        cache = PagedCache(pool=self)
        if input_ids is not None:
            cache.reuse(input_ids, attention_mask, salt=salt)
        return cache

    def add(self, tokens: NDArray[np.int32] | Sequence[int] = (), salt: bytes = b"") -> int:
        """A new sequence that holds what the index has of these tokens; its id."""
        seq = next(self._ids)
        self.manager.add(seq, tokens, salt=salt)
        try:
            self.manager.acquire([seq])
        except BaseException:
            self.manager.free([seq])
            raise
        return seq

    def fork(self, seq: int) -> int:
        """A new sequence that shares the blocks of another; its id."""
        copy = next(self._ids)
        self.manager.fork(seq, copy)
        return copy

    def exhausted(self, needed: int, free: int) -> PoolExhaustedError:
        return PoolExhaustedError(
            f"[PagedCache.update] {needed} more blocks of {self.block_size} tokens where {free} of"
            f" {self.num_blocks} are free; expected a larger num_blocks, or other caches of the"
            " pool closed first",
            needed,
            free,
        )

    @property
    def num_free_blocks(self) -> int:
        """Blocks that nobody holds, cached ones counted."""
        return self.manager.num_free_blocks

    @property
    def usage(self) -> float:
        """Share of the blocks that caches hold, in [0, 1]."""
        return self.manager.usage

    @property
    def bytes_per_block(self) -> int:
        """Bytes of keys and values; 0 before the model ran once."""
        return self.storage.bytes_per_block

    def stats(self) -> Stats:
        """Counters of reuse, evictions, copies: see ``KVCacheManager.stats``."""
        return self.manager.stats()

    def __repr__(self) -> str:
        return (
            f"PagedPool({self.num_blocks} blocks of {self.block_size} tokens,"
            f" {self.num_free_blocks} free)"
        )
