"""From a configuration to the caches of its layers: which model type is read how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pagedkv.plan.architectures import attention, hybrid, latent
from pagedkv.plan.architectures.unknown import UNSUPPORTED, read_unknown
from pagedkv.plan.config import ModelConfig, read_config
from pagedkv.plan.layers import Architecture, LayerCache, State
from pagedkv.replay.shape import CONFIG_DTYPES, DTYPE_BITS

__all__ = ["READERS", "known_model_types", "read_architecture"]

Layers = list[tuple[LayerCache, ...]]

READERS: Mapping[str, Callable[[ModelConfig], Layers]] = MappingProxyType(
    {**attention.READERS, **latent.READERS, **hybrid.READERS}
)

# What the classes say where a published file leaves a field out.
CLASS_DEFAULTS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {**attention.CLASS_DEFAULTS, **hybrid.CLASS_DEFAULTS}
)


def known_model_types() -> list[str]:
    """Model types that are read without an assumption about their attention, sorted."""
    return sorted(READERS)


def read_architecture(source: str | Path | Mapping[str, Any]) -> Architecture:
    """The caches that a model's layers keep.

    Args:
        source: a Hugging Face config.json, the folder that holds it, or its fields.

    Raises:
        PlanError: the file cannot be read, a field is missing or wrong, or the model keeps
            something that no cache of this library holds.
    """
    config = read_config(source)
    model_type = config.model_type
    if model_type in UNSUPPORTED:
        raise config.error(
            f"model_type is '{model_type}', {UNSUPPORTED[model_type]}; expected a decoder whose "
            "layers keep keys and values, latent rows or a recurrent state"
        )
    config.defaults = CLASS_DEFAULTS.get(model_type, {})
    layers = READERS.get(model_type, read_unknown)(config)
    if not any(layers):
        raise config.error("no layer keeps anything; expected one that does")
    dtype = _dtype(config, "dtype", "torch_dtype")
    if dtype is None:
        config.assume("dtype is not in the file: float32, unless another is asked for")
    attends = any(not isinstance(cache, State) for layer in layers for cache in layer)
    return Architecture(
        model_type,
        tuple(layers),
        attention.num_heads(config) if attends else 0,
        dtype or "float32",
        _dtype(config, "mamba_ssm_cache_dtype", "mamba_ssm_dtype"),
        config.optional_number("max_position_embeddings", "n_positions", "max_seq_len"),
        tuple(config.assumptions),
    )


def _dtype(config: ModelConfig, *names: str) -> str | None:
    for name in names:
        if not config.has(name) or config.values[name] == "auto":
            continue
        value = config.text(name).removeprefix("torch.")
        value = CONFIG_DTYPES.get(value, value)
        if value not in DTYPE_BITS:
            raise config.error(f"{name} is {value!r:.40}; expected one of {', '.join(DTYPE_BITS)}")
        return value
    return None
