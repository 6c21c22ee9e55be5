"""Small Llamas with random weights, written as Hugging Face folders, without any package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pagedkv.models import DOCSTRINGS

SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 258,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 256,
    "eos_token_id": 257,
}

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def safetensors_bytes(
    tensors: dict[str, np.ndarray], dtype: str = "F32", metadata: dict[str, str] | None = None
) -> bytes:
    """A safetensors file of float32 arrays, stored as `dtype`."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    parts, end = [], 0
    for name, values in tensors.items():
        if dtype == "BF16":  # cut off, which is a rounding too
            raw = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            raw = values.astype(DTYPES[dtype]).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [end, end + len(raw)],
        }
        parts.append(raw)
        end += len(raw)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def weights_of(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights with the names and shapes that a Llama of this config has."""
    rng = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for index in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{index}."
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
        for name, rows, columns, biased in (
            ("self_attn.q_proj", queries, hidden, "attention_bias"),
            ("self_attn.k_proj", keys, hidden, "attention_bias"),
            ("self_attn.v_proj", keys, hidden, "attention_bias"),
            ("self_attn.o_proj", hidden, queries, "attention_bias"),
            ("mlp.gate_proj", inner, hidden, "mlp_bias"),
            ("mlp.up_proj", inner, hidden, "mlp_bias"),
            ("mlp.down_proj", hidden, inner, "mlp_bias"),
        ):
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
            if config.get(biased):
                shapes[f"{prefix}{name}.bias"] = (rows,)
    return {
        name: (rng.standard_normal(shape) * 0.2 + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_folder(
    folder: Path,
    *,
    dtype: str = "F32",
    shards: int = 1,
    weights: dict[str, np.ndarray] | None = None,
    **changes: Any,
) -> Path:
    """A folder with config.json, safetensors in so many files, and a vocabulary of bytes."""
    config = {**SMALL, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(DOCSTRINGS / "tokenizer.json", folder)
    if weights is None:
        weights = weights_of(config)
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(weights, dtype))
        return folder
    where = {}
    names = list(weights)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        mine = {name: weights[name] for name in names[shard::shards]}
        (folder / file).write_bytes(safetensors_bytes(mine, dtype))
        where |= dict.fromkeys(mine, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder
