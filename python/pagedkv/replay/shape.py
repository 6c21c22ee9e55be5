"""What one token of a model's cache weighs: layers, heads, dtype; from numbers or a config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagedkv.replay.errors import ReplayError

__all__ = ["DTYPE_BITS", "CacheShape", "read_model_config"]

DTYPE_BITS = {
    "float64": 64,
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "float8_e4m3": 8,
    "float8_e5m2": 8,
    "int8": 8,
    "int4": 4,
}

# Names that config.json uses for dtypes of ours.
CONFIG_DTYPES = {"float8_e4m3fn": "float8_e4m3", "float": "float32", "half": "float16"}


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Keys and values of one token over all layers."""

    num_layers: int = 2
    num_kv_heads: int = 2
    head_dim: int = 16
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ReplayError(
                    f"[replay.CacheShape] {name} is {getattr(self, name)}; expected 1 or more"
                )
        if self.dtype not in DTYPE_BITS:
            raise ReplayError(
                f"[replay.CacheShape] dtype is '{self.dtype}'; expected one of "
                f"{', '.join(DTYPE_BITS)}"
            )
        if self.head_dim * DTYPE_BITS[self.dtype] % 8:
            raise ReplayError(
                f"[replay.CacheShape] head_dim is {self.head_dim} with dtype {self.dtype}; "
                "expected whole bytes (an even head_dim)"
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of one token's keys in one layer (its values take as many)."""
        return self.num_kv_heads * self.head_dim * DTYPE_BITS[self.dtype] // 8

    @property
    def token_bytes(self) -> int:
        """Bytes of one token: keys and values of all layers."""
        return 2 * self.num_layers * self.row_bytes


def read_model_config(path: str | Path, dtype: str | None = None) -> CacheShape:
    """The shape that a Hugging Face config.json describes, in the given dtype or its own.

    Read are `num_hidden_layers`, `num_key_value_heads` (else `num_attention_heads`), `head_dim`
    (else `hidden_size / num_attention_heads`) and `dtype` or `torch_dtype` (else float32); of a
    model with several parts those of `text_config`.
    """
    where = f"[replay.read_model_config] '{path}'"
    try:
        config: Any = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ReplayError(
            f"{where} cannot be read: {error.strerror or error}; expected a config.json"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ReplayError(f"{where} is not JSON ({error}); expected a config.json") from error
    if not isinstance(config, dict):
        raise ReplayError(f"{where} is a JSON {type(config).__name__}; expected one JSON object")
    if isinstance(config.get("text_config"), dict):
        config = {**config, **config["text_config"]}
    if config.get("kv_lora_rank") is not None:
        raise ReplayError(
            f"{where} describes latent attention (kv_lora_rank), which keeps no keys and values "
            "apart; expected --layers, --kv-heads and --head-dim in its place"
        )

    def number(name: str, default: int | None = None) -> int:
        value = config.get(name)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int):
            given = "missing" if value is None else repr(value)
            raise ReplayError(f"{where}: {name} is {given:.40}; expected an integer")
        return value

    layers = number("num_hidden_layers")
    heads = number("num_attention_heads", config.get("num_key_value_heads"))
    if config.get("head_dim") is None and heads > 0:
        head_dim = number("hidden_size") // heads
    else:
        head_dim = number("head_dim")
    own_dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    own_dtype = own_dtype.removeprefix("torch.")
    return CacheShape(
        layers,
        number("num_key_value_heads", heads),
        head_dim,
        dtype or CONFIG_DTYPES.get(own_dtype, own_dtype),
    )
