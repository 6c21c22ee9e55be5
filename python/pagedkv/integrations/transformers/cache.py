"""The cache that ``generate()`` takes as ``past_key_values``."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DummyLayer

from pagedkv.errors import ShapeError
from pagedkv.integrations.transformers.attention_layer import PagedAttentionLayer
from pagedkv.integrations.transformers.layout import LayerPlan
from pagedkv.integrations.transformers.pool import PagedPool
from pagedkv.integrations.transformers.prompts import read_prompts
from pagedkv.integrations.transformers.sequences import Sequences
from pagedkv.integrations.transformers.state_layer import (
    PagedHybridLayer,
    PagedStateLayer,
    drop,
    save,
)

__all__ = ["PagedCache"]


class PagedCache(Cache):
    """Keys and values of a batch in blocks of a pool: a drop-in for ``DynamicCache``.

    With any attention implementation ``update`` returns dense keys and values, gathered from the
    blocks. With ``attn_implementation="pagedkv"`` nothing dense is made: attention reads blocks.

    Blocks go back to the pool by ``close()``, at the end of a ``with``, or with the object.
    ``copy.deepcopy`` gives a second cache that shares the blocks until one of the two writes.

    Args:
        config: of the model: ``model.config``. With it the cache makes a pool of its own.
        num_blocks: as ``PagedPool`` takes it, like all that follow.
        block_size: likewise.
        dtype: likewise.
        device: likewise.
        pool: a pool to share, instead of a configuration; ``pool.cache()`` does the same.

    Raises:
        UnsupportedError: as ``PagedPool`` does.
        ShapeError: neither or both of ``config`` and ``pool``.
    """

    def __init__(
        self,
        config: Any = None,
        num_blocks: int | None = None,
        block_size: int = 16,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        pool: PagedPool | None = None,
    ) -> None:
        if (config is None) is (pool is None):
            given = "neither" if pool is None else "both"
            raise ShapeError(f"[PagedCache] {given} of config and pool; expected one of them")
        if pool is None:
            pool = PagedPool(config, num_blocks, block_size, dtype=dtype, device=device)
        self._hold(Sequences(pool))

    def _hold(self, sequences: Sequences) -> None:
        self._sequences = sequences
        layout = sequences.pool.layout
        super().__init__(layers=[_layer(sequences, plan) for plan in layout.layers])
        self._state_layers = [
            (number, layer)
            for number, layer in enumerate(self.layers)
            if isinstance(layer, PagedStateLayer)
        ]
        if self._state_layers:
            sequences.save_states = self._saver()
            sequences.drop_states = partial(drop, self._state_layers)
        # Not at the end of the program, where the pool goes as well.
        weakref.finalize(self, sequences.close).atexit = False

    def _saver(self) -> Any:
        layers, checkpoints = self._state_layers, self.pool.checkpoints

        def save_states(rows: Sequence[int], slots: Sequence[int]) -> None:
            if checkpoints is None:
                return
            for key, states in save(layers, rows):
                checkpoints.write(key, states, slots)

        return save_states

    @property
    def pool(self) -> PagedPool:
        return self._sequences.pool

    # What a cache is asked

    @property
    def is_linear(self) -> list[bool]:
        """Whether layers have states and no keys."""
        return [
            isinstance(layer, PagedStateLayer) and not isinstance(layer, CacheLayerMixin)
            for layer in self.layers
        ]

    @property
    def batch_size(self) -> int:
        """Rows held; -1 before there are any."""
        return len(self._sequences.rows) or -1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Length and offset of what ``update`` will return for ``query_length`` new tokens.

        Raises:
            PoolExhaustedError: the model has states, and the tokens would not fit: said here,
                before a layer changes its states.
        """
        if self._state_layers:
            self._sequences.require_room(query_length)
        sizes: tuple[int, int] = super().get_mask_sizes(query_length, layer_idx)
        return sizes

    # What a batch becomes

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row i becomes what row ``beam_idx[i]`` was. O(rows).

        Only tables change: a block that several beams hold is copied when one writes to it."""
        self._sequences.reorder(beam_idx.tolist())
        self._select_states(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps these rows: ids, or a mask."""
        rows = indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices
        self._sequences.select(rows.tolist())
        self._select_states(rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row ``repeats`` times. The attention layers do so by themselves when a larger batch
        comes; of a model with states this must be called."""
        rows = torch.arange(len(self._sequences.rows)).repeat_interleave(repeats)
        self._sequences.select(rows.tolist())
        self._select_states(rows)

    def _select_states(self, rows: torch.Tensor) -> None:
        for _, layer in self._state_layers:
            layer.select(rows)

    def crop(self, tokens_to_remove: int) -> None:
        """Takes back the last tokens.

        Args:
            tokens_to_remove: how many, negated: -3 removes three. 0 removes none, and lets windows
                give back what they no longer see while past states are recorded.

        Raises:
            ShapeError: a positive number (a length to keep, which older versions took), or more
                tokens than there are.
            CapacityError: a window gave back what it would see; ``activate_past_recording()`` keeps
                it until the next ``crop``, and the tokens of the last forward pass can always go.
            UnsupportedError: the model has recurrent states.
        """
        count = -int(tokens_to_remove)
        for _, layer in self._state_layers:
            layer.require_croppable(count)
        self._sequences.crop(count)
        for _, layer in self._state_layers:
            PagedStateLayer.crop(layer, tokens_to_remove)

    def reset(self) -> None:
        """Gives all blocks back; the cache is empty."""
        self._sequences.close()
        drop(self._state_layers)

    def close(self) -> None:
        """Gives all blocks back to the pool. What token ids are known of stays there to be found
        until others need the blocks."""
        self.reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> PagedCache:
        """A cache that holds the same; a block is copied when one side writes to it. O(blocks)."""
        other = PagedCache.__new__(PagedCache)
        other._hold(self._sequences.clone())
        for (_, layer), (_, copy) in zip(self._state_layers, other._state_layers, strict=True):
            for kind, index, states in layer.states():
                copy.load(kind, index, states.clone())
            copy.record_past = layer.record_past
        memo[id(self)] = other
        return other

    # Prompts that are known

    def reuse(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        salt: bytes = b"",
    ) -> int:
        """Lets go of what the cache holds, and holds the longest known beginning of prompts.

        ``generate()`` with the same ids then computes only the rest. All rows of a batch go on at
        one column, so each holds as much as the row that is known least.

        Args:
            input_ids: ``[batch, columns]``, what ``generate()`` will be given.
            attention_mask: of the same shape, 0 in padding, which is on the left.
            salt: prompts of different salts share nothing.

        Returns:
            How many columns are held: ``get_seq_length()``.
        """
        prompts = read_prompts("PagedCache.reuse", input_ids, attention_mask)
        self.reset()
        hits = self._sequences.reuse(prompts, salt)
        if self._state_layers and hits.any():
            self._load_states(hits.tolist())
        return self._sequences.length

    def _load_states(self, hits: Sequence[int]) -> None:
        checkpoints = self.pool.checkpoints
        if checkpoints is None:
            return
        rows = self._sequences.rows
        slots = [checkpoints.slot(seq) if hit else 0 for seq, hit in zip(rows, hits, strict=True)]
        layers = dict(self._state_layers)
        for (number, kind, index), array in checkpoints.arrays.items():
            states = array[slots]
            for row, hit in enumerate(hits):
                if not hit:  # all padding so far
                    states[row] = 0
            layers[number].load(kind, index, states)

    def remember(self, sequences: torch.Tensor) -> None:
        """Tells which tokens the cache holds, so that later prompts find them, not only those of
        ``reuse``.

        Args:
            sequences: ``[batch, columns]``, as ``generate()`` returned them.

        Raises:
            ShapeError: another number of rows, fewer columns than are held, or a row that begins
                otherwise than its prompt.
            UnsupportedError: beam search reordered the rows.
        """
        self._sequences.remember(sequences)

    def __repr__(self) -> str:
        return (
            f"PagedCache({len(self._sequences.rows)} rows of {self._sequences.length} columns,"
            f" {self.pool!r})"
        )


def _layer(sequences: Sequences, plan: LayerPlan) -> Any:
    if plan.attention is None:
        return (
            PagedStateLayer(number_of_states=plan.num_states) if plan.num_states else DummyLayer()
        )
    if plan.num_states:
        return PagedHybridLayer(sequences, plan.attention, plan.num_states)
    return PagedAttentionLayer(sequences, plan.attention)
