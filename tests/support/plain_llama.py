"""A Llama as its paper has it, a token at a time, in float64: the reference of the models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def inverse_frequencies(config: dict[str, Any]) -> list[float]:
    """Radians a token of each pair of channels, scaled as the configuration says."""
    dim, theta = config["head_dim"], config.get("rope_theta", 10000.0)
    scaling = config.get("rope_scaling") or {"rope_type": "default"}
    found = []
    for i in range(dim // 2):
        frequency = theta ** (-2 * i / dim)
        if scaling["rope_type"] == "linear":
            frequency /= scaling["factor"]
        elif scaling["rope_type"] == "llama3":
            old = scaling["original_max_position_embeddings"]
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            wave = 2 * math.pi / frequency
            if wave > old / low:
                frequency /= scaling["factor"]
            elif wave >= old / high:
                smooth = (old / wave - low) / (high - low)
                frequency = (1 - smooth) * frequency / scaling["factor"] + smooth * frequency
        found.append(frequency)
    return found


def logits(config: dict[str, Any], weights: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """``[len(tokens), vocab_size]`` float64."""
    w = {name: values.astype(np.float64) for name, values in weights.items()}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    dim = config["head_dim"]
    frequencies = np.array(inverse_frequencies(config))
    keys: dict[tuple[int, int], list[np.ndarray]] = {}
    values: dict[tuple[int, int], list[np.ndarray]] = {}
    head = w["model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / math.sqrt(np.mean(x**2) + config["rms_norm_eps"]) * w[name]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0.0)

    def rotate(x: np.ndarray, position: int) -> np.ndarray:
        turned = (x[: dim // 2] + 1j * x[dim // 2 :]) * np.exp(1j * position * frequencies)
        return np.concatenate([turned.real, turned.imag])

    rows = []
    for position, token in enumerate(tokens):
        x = w["model.embed_tokens.weight"][token]
        for layer in range(config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            y = norm(x, prefix + "input_layernorm.weight")
            q = linear(y, prefix + "self_attn.q_proj").reshape(heads, dim)
            k = linear(y, prefix + "self_attn.k_proj").reshape(kv_heads, dim)
            v = linear(y, prefix + "self_attn.v_proj").reshape(kv_heads, dim)
            for h in range(kv_heads):
                keys.setdefault((layer, h), []).append(rotate(k[h], position))
                values.setdefault((layer, h), []).append(v[h])
            out = []
            for h in range(heads):
                shared = (layer, h // (heads // kv_heads))
                scores = np.array(keys[shared]) @ rotate(q[h], position) / math.sqrt(dim)
                weight = np.exp(scores - scores.max())
                out.append(weight / weight.sum() @ np.array(values[shared]))
            x = x + linear(np.concatenate(out), prefix + "self_attn.o_proj")
            y = norm(x, prefix + "post_attention_layernorm.weight")
            gate = linear(y, prefix + "mlp.gate_proj")
            gate = gate / (1 + np.exp(-gate)) * linear(y, prefix + "mlp.up_proj")
            x = x + linear(gate, prefix + "mlp.down_proj")
        rows.append(head @ norm(x, "model.norm.weight"))
    return np.array(rows)
