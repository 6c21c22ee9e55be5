"""States of linear attention and SSM layers: of a fixed size, so the cache holds them densely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.cache_utils import LinearAttentionLayer

from pagedkv.errors import UnsupportedError
from pagedkv.integrations.transformers.attention_layer import PagedAttentionLayer
from pagedkv.integrations.transformers.layout import Place
from pagedkv.integrations.transformers.sequences import Sequences

__all__ = ["PagedHybridLayer", "PagedStateLayer", "drop", "save"]


class PagedStateLayer(LinearAttentionLayer):
    """Convolution and recurrent states ``[batch, ...]``, which models change in place."""

    def states(self) -> Iterator[tuple[str, int, torch.Tensor]]:
        """Kind, index and tensor of each state that there is."""
        for kind, held in (("conv", self.conv_states), ("recurrent", self.recurrent_states)):
            for index, states in held.items():
                if states is not None:
                    yield kind, index, states

    def load(self, kind: str, index: int, states: torch.Tensor) -> None:
        """States to go on from."""
        if kind == "conv":
            self.conv_states[index] = states
            self.is_conv_states_initialized[index] = True
            self.conv_kernel_size[index] = states.shape[-1]
            self.dtype, self.device = states.dtype, states.device
        else:
            self.recurrent_states[index] = states
            self.is_recurrent_states_initialized[index] = True
            self.device = states.device if self.device is None else self.device
        self.has_previous_state[index] = True

    def drop(self) -> None:
        """Back to a layer that has seen nothing."""
        indices = range(self.number_of_states)
        self.conv_states, self.recurrent_states = dict.fromkeys(indices), dict.fromkeys(indices)
        self.is_conv_states_initialized = dict.fromkeys(indices, False)
        self.is_recurrent_states_initialized = dict.fromkeys(indices, False)
        self.has_previous_state = dict.fromkeys(indices, False)
        self.conv_kernel_size = dict.fromkeys(indices)
        self.device = self.dtype = None

    def reset(self) -> None:
        self.drop()

    def select(self, rows: torch.Tensor) -> None:
        """Row i becomes what row ``rows[i]`` was."""
        for kind, index, states in list(self.states()):
            held = self.conv_states if kind == "conv" else self.recurrent_states
            held[index] = states.index_select(0, rows.to(states.device))

    def require_croppable(self, count: int) -> None:
        """Raises UnsupportedError where ``count`` tokens cannot be taken back."""
        if not count:
            return
        if any(self.is_recurrent_states_initialized.values()):
            raise UnsupportedError(
                f"[PagedCache.crop] {-count} tokens of a model with recurrent states; expected a"
                " model without: a state cannot go back"
            )
        if not self.record_past:
            raise UnsupportedError(
                f"[PagedCache.crop] {-count} tokens of a model with convolution states; expected"
                " activate_past_recording() before"
            )

    def crop(self, tokens_to_remove: int) -> None:
        if self.record_past and any(self.is_conv_states_initialized.values()):
            LinearAttentionLayer.crop(self, tokens_to_remove)


class PagedHybridLayer(PagedStateLayer, PagedAttentionLayer):
    """A layer with states and with keys and values."""

    is_compileable = False

    def __init__(self, sequences: Sequences, place: Place, number_of_states: int) -> None:
        PagedAttentionLayer.__init__(self, sequences, place)
        LinearAttentionLayer.__init__(self, number_of_states=number_of_states)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        # Keys and values come by position, states by name.
        if args:
            PagedAttentionLayer.lazy_initialization(self, *args)
        else:
            PagedStateLayer.lazy_initialization(self, **kwargs)

    def activate_past_recording(self) -> None:
        PagedAttentionLayer.activate_past_recording(self)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None: ...


def save(
    layers: Sequence[tuple[int, PagedStateLayer]], rows: Sequence[int]
) -> Iterator[tuple[tuple[int, str, int], torch.Tensor]]:
    """The states of rows, with their keys."""
    for number, layer in layers:
        for kind, index, states in layer.states():
            yield (number, kind, index), states[list(rows)]


def drop(layers: Sequence[tuple[int, PagedStateLayer]]) -> None:
    """All of them back to layers that have seen nothing."""
    for _, layer in layers:
        layer.drop()
