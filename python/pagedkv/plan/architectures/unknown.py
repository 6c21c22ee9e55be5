"""Model types that nobody has told us about: plain attention is assumed, all else is refused.

New models are, most of them, plain attention under a new name, and refusing those would make the
planner useless for half a year after each. What a wrong guess costs is bounded: attention over
everything is the most that attention can keep, so a window that was missed makes the plan too
careful, never too bold. A state or a latent row that was missed would make it wrong, so fields
that speak of these are a reason to refuse.
"""

from __future__ import annotations

from pagedkv.plan.architectures.attention import FULL, SLIDING, full
from pagedkv.plan.config import ModelConfig
from pagedkv.plan.layers import LayerCache

__all__ = ["UNSUPPORTED", "read_unknown"]

ENCODER = "which reads its input at once and keeps no cache"
CROSS = "whose decoder keeps keys and values of an encoder too"
OWN_STATE = "whose state has a layout of its own"
INDEX = "whose sparse attention keeps keys of an index too"

# Known, and no cache of this library holds what they keep (or they keep nothing).
UNSUPPORTED = {
    **dict.fromkeys(("albert", "bert", "deberta-v2", "distilbert", "modernbert", "vit"), ENCODER),
    **dict.fromkeys(("roberta", "xlm-roberta"), ENCODER),
    **dict.fromkeys(("bart", "m2m_100", "marian", "mt5", "t5", "t5gemma", "whisper"), CROSS),
    **dict.fromkeys(("mllama", "mllama_text_model"), "whose text layers attend to images too"),
    **dict.fromkeys(("deepseek_v32", "deepseek_v4", "glm_moe_dsa"), INDEX),
    **dict.fromkeys(("recurrent_gemma", "rwkv", "rwkv6", "rwkv7", "xlstm"), OWN_STATE),
    "longcat_flash": "whose layers attend twice",
    "zamba": "which this version does not read (zamba2 it does)",
}

# Parts of field names that speak of something else than keys and values.
SUSPICIOUS = (
    "attn_type", "block_config", "chunk_size", "conv_kernel", "cross_attention", "d_state",
    "hybrid", "index_topk", "kv_lora", "kv_shared", "layers_block_type", "linear_attention",
    "linear_attn", "linear_key", "mamba", "recurrent", "retention", "rwkv", "ssm_", "state_size",
)  # fmt: skip


def read_unknown(config: ModelConfig) -> list[tuple[LayerCache, ...]]:
    """Attention in every layer, as an assumption that is stated; or an error."""
    name = config.model_type
    advice = "expected a model type that is known, or one with plain attention alone"
    if config.has("is_encoder_decoder") and config.flag("is_encoder_decoder", default=False):
        raise config.error(f"model_type is {name!r}, {CROSS}; {advice}")
    for field, value in config.values.items():
        if value in (None, False, [], {}):
            continue
        if any(part in field.lower() for part in SUSPICIOUS):
            raise config.error(
                f"model_type is {name!r}, which is not known, and {field!r} speaks of more than "
                f"keys and values; {advice}"
            )
    if config.has("layer_types") and set(config.texts("layer_types") or ()) <= {*FULL, *SLIDING}:
        config.assume(f"model_type {name!r} is not known: attention as layer_types say")
        return full(config)
    if config.has("layer_types"):
        raise config.error(
            f"model_type is {name!r}, which is not known, nor are all of its layer_types; {advice}"
        )
    config.assume(f"model_type {name!r} is not known: attention over everything in all layers")
    if config.has("sliding_window"):
        config.assume("sliding_window is left out of account: the plan may be too careful")
    return full(config)
