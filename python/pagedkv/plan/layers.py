"""What a layer of a model keeps of the past: keys and values, latent rows, or a state.

Sizes are counts of values; bytes come with the dtype, in `accounting.py`. A cache knows how it is
divided over the ranks of tensor parallelism.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from pagedkv.plan.errors import PlanError

__all__ = ["Architecture", "Attention", "Latent", "LayerCache", "PagedCache", "State"]


@dataclass(frozen=True, slots=True)
class Attention:
    """Keys and values of each token: `num_kv_heads` of `head_dim` and of `v_head_dim` values.

    With a `window` only the last so many tokens are needed, a query's own counted.
    """

    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None = None

    def __str__(self) -> str:
        sizes = f"{self.head_dim}"
        if self.v_head_dim != self.head_dim:
            sizes += f" and {self.v_head_dim}"
        reach = "full" if self.window is None else f"window {self.window:,}"
        return f"{reach}, {self.num_kv_heads} KV heads of {sizes}"

    def shard(self, ranks: int) -> Attention:
        """One rank's part. Where there are fewer heads than ranks, each head lies on several."""
        if self.num_kv_heads % ranks and ranks % self.num_kv_heads:
            raise PlanError(
                f"[plan.plan] {self.num_kv_heads} KV heads over tensor_parallel={ranks}; expected "
                "ranks that divide the heads, or a multiple of them"
            )
        return replace(self, num_kv_heads=max(1, self.num_kv_heads // ranks))


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention: a row of `kv_lora_rank` and one of `rope_dim` values a token,
    which all heads share."""

    kv_lora_rank: int
    rope_dim: int

    window: None = None

    def __str__(self) -> str:
        return f"full, latent (MLA) {self.kv_lora_rank} + {self.rope_dim}"

    def shard(self, ranks: int) -> Latent:  # noqa: ARG002
        """The whole: every head needs every row, so each rank keeps them all."""
        return self


@dataclass(frozen=True, slots=True)
class State:
    """A recurrent state of one size whatever the length: `[num_heads, head_dim, d_state]`, and
    the last `d_conv - 1` inputs of a causal convolution over some channels.

    Of these `head_channels` go with the heads; `group_channels` with `num_groups` groups, which
    several heads share (B and C of Mamba-2, queries and keys of a gated delta net).
    """

    name: str
    num_heads: int
    head_dim: int
    d_state: int
    head_channels: int = 0
    group_channels: int = 0
    num_groups: int = 1
    d_conv: int = 1

    @property
    def conv_dim(self) -> int:
        """Channels of the convolution."""
        return self.head_channels + self.group_channels

    def __str__(self) -> str:
        state = f"{self.num_heads} x {self.head_dim} x {self.d_state}"
        conv = f" and {self.conv_dim:,} x {self.d_conv - 1}" if self.conv_dim else ""
        return f"{self.name} state {state}{conv}"

    def shard(self, ranks: int) -> State:
        """One rank's part: its heads, and their groups, of which each rank has at least one."""
        if self.num_heads % ranks or self.head_channels % ranks:
            raise PlanError(
                f"[plan.plan] {self.num_heads} heads of {self.name} state over "
                f"tensor_parallel={ranks}; expected ranks that divide the heads"
            )
        if self.group_channels and self.num_groups % ranks and ranks % self.num_groups:
            raise PlanError(
                f"[plan.plan] {self.num_groups} groups of {self.name} state over "
                f"tensor_parallel={ranks}; expected ranks that divide the groups, or a multiple "
                "of them"
            )
        groups = max(1, self.num_groups // ranks)
        return replace(
            self,
            num_heads=self.num_heads // ranks,
            head_channels=self.head_channels // ranks,
            group_channels=self.group_channels // self.num_groups * groups,
            num_groups=groups,
        )


PagedCache: TypeAlias = Attention | Latent
LayerCache: TypeAlias = Attention | Latent | State


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model as its caches see it."""

    model_type: str
    layers: tuple[tuple[LayerCache, ...], ...]
    """What each layer keeps, in order: nothing, one cache, or (where attention and a state run
    side by side) two."""
    num_attention_heads: int
    """0 of a model without attention."""
    dtype: str
    """Of the weights, and by default of keys and values."""
    state_dtype: str | None = None
    """Of recurrent states, where the configuration says so."""
    max_length: int | None = None
    """Longest context that the model takes, where the configuration says so."""
    assumptions: tuple[str, ...] = ()
    """What was taken for granted, a sentence each."""

    def shard(self, ranks: int) -> Architecture:
        """One rank's part of each cache."""
        if ranks < 1:
            raise PlanError(f"[plan.plan] tensor_parallel is {ranks}; expected 1 or more")
        if self.num_attention_heads % ranks:  # 0 without attention
            raise PlanError(
                f"[plan.plan] {self.num_attention_heads} attention heads over "
                f"tensor_parallel={ranks}; expected ranks that divide the heads"
            )
        layers = tuple(tuple(cache.shard(ranks) for cache in layer) for layer in self.layers)
        return replace(self, layers=layers)
