"""Which layers of a model share a block table, and which share storage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from transformers.cache_utils import get_layer_types_and_kwargs

from pagedkv import FullAttention, SlidingWindow
from pagedkv.errors import ShapeError, UnsupportedError

__all__ = ["LayerPlan", "ModelLayout", "Place"]

ATTENTION = {
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "hybrid",
    "hybrid_sliding",
}
STATE = {"linear_attention", "conv", "hybrid", "hybrid_sliding"}
NOTHING = {"dummy"}

# These begin from nothing when more than one token comes, also where there is a recurrent state, so
# that a prompt cannot go on from one.
CANNOT_GO_ON = {"jamba", "zamba", "zaya"}

Kind: TypeAlias = tuple[int | None, bool]
"""A window, and whether it is a chunk."""


@dataclass(frozen=True)
class Place:
    """Where the keys and values of an attention layer are."""

    number: int
    """Among the attention layers, in their order."""
    group: int
    """Layers of one group have one block table."""
    slot: int
    """Layers of one slot, in different groups, share arrays: a block id is of one group."""
    window: int | None
    """How many tokens a query sees, its own counted; None: all."""
    is_chunked: bool
    """The window is a chunk: what a query sees begins where its chunk begins."""


@dataclass(frozen=True)
class LayerPlan:
    """What a decoder layer keeps: keys and values, states, both, or nothing."""

    attention: Place | None
    num_states: int


class ModelLayout:
    """The layers of a model, laid out so that the blocks of all groups have the same bytes.

    Layers of one kind (full attention, or one window) see the same tokens. They are cut into groups
    of as many layers as the rarest kind has; layer i of each group uses slot i.
    """

    def __init__(self, config: Any) -> None:
        if not hasattr(config, "get_text_config"):
            raise ShapeError(f"[PagedPool] config: {type(config).__name__}; expected model.config")
        if getattr(config, "is_encoder_decoder", False):
            raise UnsupportedError(
                f"[PagedPool] a configuration of an encoder-decoder ({config.model_type}); expected"
                " a model that only decodes"
            )
        self.config = config.get_text_config(decoder=True)
        types, options = get_layer_types_and_kwargs(self.config)
        known = ATTENTION | STATE | NOTHING
        if unknown := sorted(set(types) - known):
            raise UnsupportedError(
                f"[PagedPool] layers of type {', '.join(unknown)}; expected"
                f" {', '.join(sorted(known))}"
            )
        kinds = [
            (option.get("sliding_window"), layer_type == "chunked_attention")
            for layer_type, option in zip(types, options, strict=True)
            if layer_type in ATTENTION
        ]
        if not kinds:
            raise UnsupportedError(
                "[PagedPool] a model without attention layers; expected keys and values to keep:"
                " states of a fixed size need no blocks"
            )
        self.num_attention_layers = len(kinds)
        counts = Counter(kinds)
        self.num_slots = min(counts.values())
        self.windows: list[int | None] = []
        """Of each group."""
        first_group = {}
        for kind, count in counts.items():
            first_group[kind] = len(self.windows)
            self.windows += [kind[0]] * -(-count // self.num_slots)
        places = _places(kinds, first_group, self.num_slots)
        self.layers = [
            LayerPlan(
                attention=next(places) if layer_type in ATTENTION else None,
                num_states=option.get("number_of_states", 1) if layer_type in STATE else 0,
            )
            for layer_type, option in zip(types, options, strict=True)
        ]

    @property
    def has_states(self) -> bool:
        return any(plan.num_states for plan in self.layers)

    @property
    def can_go_on(self) -> bool:
        """Whether a prompt may be computed from where another one was left."""
        return self.config.model_type not in CANNOT_GO_ON

    def group_specs(self) -> list[Any]:
        """The groups as a manager takes them."""
        return [
            FullAttention() if window is None else SlidingWindow(window) for window in self.windows
        ]


def _places(kinds: list[Kind], first_group: dict[Kind, int], num_slots: int) -> Iterator[Place]:
    seen = dict.fromkeys(kinds, 0)
    for number, kind in enumerate(kinds):
        group, slot = divmod(seen[kind], num_slots)
        seen[kind] += 1
        yield Place(number, first_group[kind] + group, slot, *kind)
