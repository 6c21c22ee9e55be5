"""The cache that ``generate()`` takes as ``past_key_values``."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DummyLayer

from pagedkv.errors import InvalidSlotError, ShapeError
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
        block_size: likewise; 16 unless told.
        dtype: likewise.
        device: likewise.
        pool: a pool to share, instead of a configuration; ``pool.cache()`` does the same.

    Raises:
        UnsupportedError: as ``PagedPool`` does.
        ShapeError: as ``PagedPool`` does; neither or both of ``config`` and ``pool``, or sizes,
            dtype or device beside a pool, which has its own.
    """

    def __init__(
        self,
        config: Any = None,
        num_blocks: int | None = None,
        block_size: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        pool: PagedPool | None = None,
    ) -> None:
        if (config is None) is (pool is None):
            which = "neither" if pool is None else "both"
            raise ShapeError(f"[PagedCache] {which} of config and pool; expected one of them")
        if pool is None:
            size = 16 if block_size is None else block_size
            pool = PagedPool(config, num_blocks, size, dtype=dtype, device=device)
        else:
            own = {
                "num_blocks": num_blocks,
                "block_size": block_size,
                "dtype": dtype,
                "device": device,
            }
            if given := [name for name, value in own.items() if value is not None]:
                raise ShapeError(
                    f"[PagedCache] {', '.join(given)} beside a pool; expected the pool alone, which"
                    " has its own"
                )
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
        rows = self._rows("reorder_cache", beam_idx)
        self._sequences.reorder(rows.tolist())
        self._select_states(rows)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps these rows: ids, or a mask. None: the cache is empty.

        Raises:
            InvalidSlotError: an id of a row that is not there.
            ShapeError: a mask of another length, or numbers that are no integers.
        """
        rows = self._rows("batch_select_indices", indices)
        self._sequences.select(rows.tolist())
        self._select_states(rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row ``repeats`` times. The attention layers do so by themselves when a larger batch
        comes; of a model with states this must be called."""
        if repeats < 1:
            raise ShapeError(
                f"[PagedCache.batch_repeat_interleave] {repeats} times; expected 1 or more"
            )
        rows = torch.arange(len(self._sequences.rows)).repeat_interleave(repeats)
        self._sequences.select(rows.tolist())
        self._select_states(rows)

    def _rows(self, function: str, indices: torch.Tensor) -> torch.Tensor:
        """Ids of rows, from 0, of ids or a mask."""
        rows, held = torch.as_tensor(indices).cpu(), len(self._sequences.rows)
        if not held:
            return rows
        is_mask = rows.dtype == torch.bool
        if (
            rows.ndim != 1
            or (is_mask and len(rows) != held)
            or (len(rows) and rows.is_floating_point())
        ):
            raise ShapeError(
                f"[PagedCache.{function}] {rows.dtype} {tuple(rows.shape)}; expected ids of rows,"
                f" or a mask ({held},)"
            )
        if is_mask:
            return rows.nonzero()[:, 0]
        outside = rows[(rows < -held) | (rows >= held)].tolist()
        if outside:
            raise InvalidSlotError(
                f"[PagedCache.{function}] row {outside[0]}; expected one of the {held} rows held",
                outside[0],
            )
        return rows % held

    def _select_states(self, rows: torch.Tensor) -> None:
        if not len(rows):
            drop(self._state_layers)
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
        try:
            count = -operator.index(tokens_to_remove)
        except TypeError as error:
            raise ShapeError(
                f"[PagedCache.crop] {tokens_to_remove!r} tokens; expected an integer, 0 or below"
            ) from error
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
            salt: prompts of different salts share nothing: a tenant, an adapter, the digest of the
                images.

        Returns:
            How many columns are held: ``get_seq_length()``.

        Raises:
            ShapeError: ids that are no integers ``[batch, columns]`` of 32 bits, a mask of another
                shape or with holes, a salt that is no bytes.

        The keys of a row are shared by its tokens alone, so the positions that the model is given
        must be those without padding, as ``generate()`` gives them.
        """
        if not isinstance(salt, bytes):
            raise ShapeError(f"[PagedCache.reuse] salt: {type(salt).__name__}; expected bytes")
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

    def remember(self, sequences: torch.Tensor, attention_mask: torch.Tensor | None = None) -> None:
        """Tells which tokens the cache holds, so that later prompts find them, not only those of
        ``reuse``.

        Args:
            sequences: ``[batch, columns]``, as ``generate()`` returned them.
            attention_mask: that of the prompts, or of all columns, 0 in padding: checked against
                the padding that the cache knows of. Where attention gathers, a cache that was not
                told of the padding by ``pool.cache`` or ``reuse`` stores it as tokens; what it
                holds must not be remembered.

        Raises:
            ShapeError: ids that are no integers of 32 bits, another number of rows, fewer columns
                than are held, a row that begins otherwise than its prompt, or a mask of other
                padding.
            UnsupportedError: beam search reordered the rows.
        """
        self._sequences.remember(sequences, attention_mask)

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
