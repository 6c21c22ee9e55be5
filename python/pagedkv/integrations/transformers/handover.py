"""How the attention function, which does not receive the cache, gets at the pages: the key tensor
that ``update`` returns carries them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pagedkv.integrations.transformers.attention_layer import PagedAttentionLayer
    from pagedkv.integrations.transformers.step import Step

__all__ = ["Handover", "hand_over", "received"]

ATTRIBUTE = "_pagedkv_handover"


class Handover:
    """New keys and values of a layer, to be written when the mask is known."""

    def __init__(
        self, layer: PagedAttentionLayer, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        self.layer = layer
        self._keys = keys
        self._values = values
        self._step: Step | None = None

    def store(self, mask: torch.Tensor | None) -> Step:
        """Writes them, once: layers that share keys receive the same tensor."""
        if self._step is None:
            step = self.layer.sequences.enter(
                self.layer.place.number, self._keys.shape[0], self._keys.shape[2], mask
            )
            self.layer.write(step, self._keys, self._values)
            self._step = step
        return self._step


def hand_over(layer: PagedAttentionLayer, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The keys as another tensor, so that the model's own carries nothing."""
    carrier = keys.view_as(keys)
    setattr(carrier, ATTRIBUTE, Handover(layer, keys, values))
    return carrier


def received(keys: torch.Tensor) -> Handover | None:
    """What ``update`` handed over with these keys, which count as read now."""
    handover: Handover | None = getattr(keys, ATTRIBUTE, None)
    if handover is not None:
        handover.layer.sequences.is_unread = False
    return handover
