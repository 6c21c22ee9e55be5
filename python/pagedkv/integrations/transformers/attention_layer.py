"""The keys and values of one attention layer."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin

from pagedkv import ops
from pagedkv.errors import UnsupportedError
from pagedkv.integrations.transformers.handover import hand_over
from pagedkv.integrations.transformers.layout import Place
from pagedkv.integrations.transformers.sequences import Sequences
from pagedkv.integrations.transformers.step import Step
from pagedkv.integrations.transformers.storage import Pair

__all__ = ["PagedAttentionLayer"]


class PagedAttentionLayer(CacheLayerMixin):
    """Writes new keys and values to their slots, and reads dense ones where attention needs them.

    In the native mode ``update`` does neither: it hands the keys to the registered attention
    function, which knows the mask.
    """

    is_compileable = False
    is_croppable = True
    supports_early_init = True

    def __init__(self, sequences: Sequences, place: Place) -> None:
        self.sequences = sequences
        self.place = place
        if place.window is not None:
            self.sliding_window = place.window

    def __repr__(self) -> str:
        window = "" if self.place.window is None else f"window={self.place.window}"
        return f"{type(self).__name__}({window})"

    @property
    def is_sliding(self) -> bool:
        return self.place.window is not None

    @property
    def is_initialized(self) -> bool:
        return self.sequences.pool.storage.of(self.place) is not None

    @property
    def record_past(self) -> bool:
        return self.sequences.recording

    @record_past.setter
    def record_past(self, recording: bool) -> None:
        self.sequences.recording = recording

    def activate_past_recording(self) -> None:
        """Blocks that a window leaves are kept until the next ``crop``."""
        self.record_past = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        storage = self.sequences.pool.storage
        storage.require_device(key_states.device)
        storage.provide(self.place, key_states, value_states)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes ``[batch, num_kv_heads, count, head_dim]`` of new tokens.

        Returns:
            Keys and values ``[batch, num_kv_heads, columns, head_dim]`` of all tokens that the new
            ones see, those of a window from its begin; padding is zero. In the native mode the new
            keys, which carry where the others are, and the new values.

        Raises:
            PoolExhaustedError: too few blocks are free; the cache is as it was.
            UnsupportedError: keys that record gradients, or are not on the pool's device; or the
                configuration says the native mode, and the model that runs attends otherwise.
        """
        if key_states.requires_grad or value_states.requires_grad:
            raise UnsupportedError(
                "[PagedCache.update] keys that record gradients; expected torch.no_grad(), as in"
                " generate()"
            )
        self.sequences.pool.storage.require_device(key_states.device)
        if self.sequences.is_native:
            if self.sequences.is_unread:
                raise UnsupportedError(
                    "[PagedCache.update] the keys of the layer before were read by no"
                    " attn_implementation='pagedkv', which the cache's configuration says; expected"
                    " the configuration of the model that runs: PagedCache(model.config)"
                )
            self.sequences.is_unread = True
            return hand_over(self, key_states, value_states), value_states
        step = self.sequences.enter(self.place.number, key_states.shape[0], key_states.shape[2])
        self.write(step, key_states, value_states)
        size = self.sequences.pool.block_size
        plan = step.gather_plan(self.place.group, self.place.window, size)
        return plan.read(self.arrays, key_states.dtype)

    def write(self, step: Step, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Puts the new tokens to the slots of the step."""
        k_cache, v_cache = self.sequences.pool.storage.provide(self.place, keys, values)
        slots = step.groups[self.place.group].slot_mapping
        ops.write_kv(step.written(keys), step.written(values), k_cache, v_cache, slots)
        self.sequences.leave(self.place.number, step)

    @property
    def arrays(self) -> Pair:
        """Keys and values of the pool, ``[num_blocks, num_kv_heads, block_size, head_dim]``."""
        arrays = self.sequences.pool.storage.of(self.place)
        if arrays is None:
            raise UnsupportedError("[PagedCache] a layer without keys; expected update() before")
        return arrays

    def get_seq_length(self) -> int:
        """Columns held, padding counted."""
        return self.sequences.written[self.place.number]

    def get_max_length(self) -> int:
        return -1 if self.place.window is None else self.place.window

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what ``update`` will return."""
        length, window = self.get_seq_length(), self.place.window
        if window is None:
            return length + query_length, 0
        return min(length, window - 1) + query_length, max(0, length - window + 1)

    # The cache does these for all layers at once: a table belongs to more than one.

    def reset(self) -> None: ...

    def crop(self, tokens_to_remove: int) -> None: ...

    def reorder_cache(self, beam_idx: torch.Tensor) -> None: ...

    def batch_repeat_interleave(self, repeats: int) -> None: ...

    def batch_select_indices(self, indices: torch.Tensor) -> None: ...
