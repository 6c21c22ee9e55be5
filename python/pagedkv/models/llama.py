"""The Llama architecture in NumPy: everything but attention, which a cache does.

All is computed in float32, whatever the weights are stored as.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pagedkv.models.blas import one_thread
from pagedkv.models.checkpoint import Checkpoint
from pagedkv.models.config import LlamaConfig, read_config
from pagedkv.models.errors import ModelError

__all__ = ["Cache", "Llama"]

Floats = npt.NDArray[np.float32]

# Tensors that older exports hold and that follow from config.json.
DERIVED = ("rotary_emb.inv_freq",)

# Up to this hidden_size a batch's products are too small to be worth a second thread.
SMALL = 512


class Cache(Protocol):
    """Where keys and values of earlier tokens are, and how queries meet them."""

    def attend(self, layer: int, q: Floats, k: Floats, v: Floats) -> Floats:
        """Rotate q and k, keep k and v, and give the attention of the new tokens.

        Args:
            layer: whose keys and values they are.
            q: ``[num_tokens, num_attention_heads, head_dim]``; may be overwritten.
            k: ``[num_tokens, num_key_value_heads, head_dim]``; may be overwritten.
            v: likewise, and only read.

        Returns:
            ``[num_tokens, num_attention_heads, head_dim]``.
        """
        ...


class _Linear:
    """``x @ weight.T + bias``; several matrices of one input are one product."""

    def __init__(self, weights: list[Floats], biases: list[Floats]) -> None:
        self.weight = np.concatenate(weights) if len(weights) > 1 else weights[0]
        self.bias = np.concatenate(biases) if biases else None

    def __call__(self, x: Floats) -> Floats:
        y: Floats = x @ self.weight.T
        if self.bias is not None:
            y += self.bias
        return y


class _Layer:
    """The weights of one layer, checked as they are read."""

    def __init__(self, config: LlamaConfig, checkpoint: Checkpoint, index: int) -> None:
        prefix = f"model.layers.{index}."
        self.names: list[str] = []

        def read(name: str, *shape: int) -> Floats:
            self.names.append(prefix + name)
            return checkpoint.float32(prefix + name, shape)

        def linear(names: list[str], bias: bool, rows: list[int], columns: int) -> _Linear:
            pairs = list(zip(names, rows, strict=True))
            weights = [read(f"{name}.weight", n, columns) for name, n in pairs]
            return _Linear(weights, [read(f"{name}.bias", n) for name, n in pairs] if bias else [])

        hidden, inner = config.hidden_size, config.intermediate_size
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.attention_norm = read("input_layernorm.weight", hidden)
        self.qkv = linear(
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            config.attention_bias, [queries, keys, keys], hidden,
        )  # fmt: skip
        self.out = linear(["self_attn.o_proj"], config.attention_bias, [hidden], queries)
        self.mlp_norm = read("post_attention_layernorm.weight", hidden)
        self.gate_up = linear(
            ["mlp.gate_proj", "mlp.up_proj"], config.mlp_bias, [inner, inner], hidden
        )
        self.down = linear(["mlp.down_proj"], config.mlp_bias, [hidden], inner)


class Llama:
    """A Llama: token embeddings, layers, and the projection to logits.

    Attributes:
        config: its numbers.
        num_parameters: weights, tied ones once.
    """

    def __init__(self, config: LlamaConfig, checkpoint: Checkpoint) -> None:
        """Read the weights that `config` speaks of; any others are refused.

        Raises:
            ModelError: a tensor is missing, unknown, or of another shape or dtype.
        """
        self.config = config
        self._small = config.hidden_size <= SMALL
        shape = (config.vocab_size, config.hidden_size)
        self._embedding = checkpoint.float32("model.embed_tokens.weight", shape)
        self._layers = [_Layer(config, checkpoint, i) for i in range(config.num_hidden_layers)]
        self._norm = checkpoint.float32("model.norm.weight", shape[1:])
        self._head = (
            self._embedding
            if config.tie_word_embeddings
            else checkpoint.float32("lm_head.weight", shape)
        )
        known = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
        known.update(name for layer in self._layers for name in layer.names)
        for name in checkpoint:
            if name not in known and not name.endswith(DERIVED):
                raise ModelError(
                    f"[models.Llama] '{checkpoint.folder}' has a tensor '{name:.80}'; expected "
                    "only those of a Llama, as config.json describes it"
                )
        self.num_parameters = sum(each.size for each in self._arrays())

    @staticmethod
    def load(folder: str | Path) -> Llama:
        """The model of a Hugging Face folder: config.json and safetensors."""
        config = read_config(folder)
        return Llama(config, Checkpoint(folder))

    def forward(self, tokens: npt.NDArray[np.integer[Any]], cache: Cache) -> Floats:
        """The hidden states of new tokens behind the last norm; the cache keeps what they leave.

        Args:
            tokens: ``[num_tokens]`` ids, sequence after sequence as the cache expects them.
            cache: keys and values of the tokens before.

        Returns:
            ``[num_tokens, hidden_size]``; `logits` of those rows whose next token is wanted.
        """
        with one_thread(self._small):
            return self._forward(tokens, cache)

    def logits(self, hidden: Floats) -> Floats:
        """``[n, vocab_size]`` of hidden states ``[n, hidden_size]``."""
        with one_thread(self._small):
            logits: Floats = hidden @ self._head.T
        return logits

    def _forward(self, tokens: npt.NDArray[np.integer[Any]], cache: Cache) -> Floats:
        config = self.config
        heads, kv_heads, dim = (
            config.num_attention_heads, config.num_key_value_heads, config.head_dim,
        )  # fmt: skip
        x = self._embedding[tokens]
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(self._rms_norm(x, layer.attention_norm))
            qkv = qkv.reshape(len(x), heads + 2 * kv_heads, dim)
            q, k, v = np.split(qkv, (heads, heads + kv_heads), axis=1)
            x = x + layer.out(cache.attend(index, q, k, v).reshape(len(x), heads * dim))
            gate, up = np.split(layer.gate_up(self._rms_norm(x, layer.mlp_norm)), 2, axis=1)
            x = x + layer.down(_silu(gate) * up)
        return self._rms_norm(x, self._norm)

    def _rms_norm(self, x: Floats, weight: Floats) -> Floats:
        mean: Floats = np.mean(x * x, axis=1, keepdims=True, dtype=np.float32)
        normed: Floats = x / np.sqrt(mean + np.float32(self.config.rms_norm_eps))
        return normed * weight

    def _arrays(self) -> list[Floats]:
        arrays = [self._embedding, self._norm]
        if self._head is not self._embedding:
            arrays.append(self._head)
        for layer in self._layers:
            arrays += [layer.attention_norm, layer.mlp_norm]
            for linear in (layer.qkv, layer.out, layer.gate_up, layer.down):
                arrays.append(linear.weight)
                if linear.bias is not None:
                    arrays.append(linear.bias)
        return arrays


def _silu(x: Floats) -> Floats:
    # By tanh, which does not overflow: 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2.
    half = x * np.float32(0.5)
    silu: Floats = half * (1 + np.tanh(half))
    return silu
