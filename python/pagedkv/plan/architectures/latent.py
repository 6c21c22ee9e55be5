"""Multi-head latent attention (MLA): DeepSeek V2 and V3 and those that follow them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pagedkv.plan.architectures.attention import num_layers
from pagedkv.plan.config import ModelConfig
from pagedkv.plan.layers import Latent, LayerCache

__all__ = ["READERS", "latent_shape"]

Layers = list[tuple[LayerCache, ...]]


def latent_shape(config: ModelConfig) -> Latent:
    """The two rows that a token leaves in a layer."""
    return Latent(config.number("kv_lora_rank"), config.number("qk_rope_head_dim"))


def read(config: ModelConfig) -> Layers:
    """Every layer keeps latent rows."""
    if config.has("index_topk", "index_head_dim"):
        raise config.error(
            "index_head_dim is there: sparse attention keeps keys of an index too, which no cache "
            "of this library holds; expected a model without an index"
        )
    return [(latent_shape(config),)] * num_layers(config)


READERS: Mapping[str, Callable[[ModelConfig], Layers]] = dict.fromkeys(
    ["deepseek_v2", "deepseek_v3", "kimi_k2", "minicpm3", "glm4_moe_lite", "youtu"], read
)
