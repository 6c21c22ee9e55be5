"""Configurations of models: published ones in tests/data/configs, and small ones of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parents[1] / "data" / "configs"


def published(name: str) -> dict[str, Any]:
    """The fields of a published configuration."""
    fields: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    return fields


def small(model_type: str, **more: Any) -> dict[str, Any]:
    """A small model's fields, in float32: 4 heads, 2 of keys and values, head_dim 8, 4 layers."""
    return {
        "model_type": model_type,
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        **more,
    }


MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}

# One of every way that a model's layers keep the past.
SMALL = {
    "llama": small("llama"),
    "mistral": small("mistral", sliding_window=10),
    "qwen2": small("qwen2", use_sliding_window=True, sliding_window=10, max_window_layers=2),
    "gemma2": small("gemma2", head_dim=16, sliding_window=10),
    "gemma3": small("gemma3_text", num_hidden_layers=8, head_dim=16, sliding_window=10),
    "gemma3n": small(
        "gemma3n_text",
        num_hidden_layers=10,
        head_dim=16,
        sliding_window=10,
        num_kv_shared_layers=5,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=64,
        altup_num_inputs=2,
        laurel_rank=4,
    ),
    "gemma4": small(
        "gemma4_text",
        num_hidden_layers=8,
        head_dim=8,
        global_head_dim=16,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        layer_types=(["sliding_attention"] * 2 + ["full_attention"]) * 2
        + ["sliding_attention", "full_attention"],
        sliding_window=10,
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=64,
    ),
    "olmo3": small("olmo3", sliding_window=10),
    "gpt-oss": small(
        "gpt_oss", head_dim=8, sliding_window=10, num_local_experts=2, num_experts_per_tok=1
    ),
    "phi3": small("phi3", sliding_window=10, pad_token_id=0),
    "cohere2": small("cohere2", sliding_window=10),
    "falcon": small("falcon", num_key_value_heads=None, multi_query=True),
    "deepseek": small(
        "deepseek_v3", kv_lora_rank=16, q_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8,
        v_head_dim=8,
    ),
    "jamba": small("jamba", attn_layer_period=4, attn_layer_offset=1, mamba_d_state=4),
    "bamba": small("bamba", attn_layer_indices=[1], mamba_n_groups=2, **MAMBA2),
    "falcon-h1": small("falcon_h1", mamba_d_ssm=64, mamba_n_groups=1, **MAMBA2),
    "granite": small(
        "granitemoehybrid",
        layer_types=["mamba", "attention", "mamba", "mamba"],
        shared_intermediate_size=16,
        num_local_experts=2,
        num_experts_per_tok=1,
        **MAMBA2,
    ),
    "nemotron-h": small(
        "nemotron_h",
        hybrid_override_pattern="M-M*-",
        num_hidden_layers=5,
        head_dim=8,
        mamba_num_heads=4,
        mamba_head_dim=16,
        ssm_state_size=8,
        n_groups=2,
    ),
    "zamba2": small(
        "zamba2",
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
        mamba_d_state=8,
        n_mamba_heads=4,
        mamba_ngroups=2,
        mamba_headdim=16,
    ),
    "qwen3-next": small(
        "qwen3_next",
        head_dim=16,
        linear_key_head_dim=8,
        linear_value_head_dim=12,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_conv_kernel_dim=4,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
    ),
    "qwen3.5": small(
        "qwen3_5_text",
        head_dim=16,
        linear_key_head_dim=8,
        linear_value_head_dim=12,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_conv_kernel_dim=4,
    ),
    "lfm2": small("lfm2", full_attn_idxs=[1], conv_L_cache=3),
    "mamba": {
        "model_type": "mamba", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2,
        "state_size": 8,
    },
    "mamba2": {
        "model_type": "mamba2", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2,
        "state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 2,
    },
}  # fmt: skip
