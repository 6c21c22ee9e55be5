"""What config.json says of a Llama, checked: unknown kinds are refused by their names."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagedkv.errors import UnsupportedError
from pagedkv.models.errors import ModelError
from pagedkv.models.rope import RopeScaling

__all__ = ["LlamaConfig", "read_config", "read_json"]

ARCHITECTURE = "LlamaForCausalLM"


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """The numbers of a Llama; each is what Hugging Face's config.json calls by the same name.

    Attributes:
        max_position_embeddings: the most tokens of a sequence.
        rope_scaling: how the rotary frequencies are stretched; None: not at all.
        eos_token_ids: tokens that end a text.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings",
        ):  # fmt: skip
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value < 2**31:
                raise _refused(f"{name} is {value!r:.40}", "an integer, 1 or more")
        for name in ("rms_norm_eps", "rope_theta"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0.0 < value < math.inf:
                raise _refused(f"{name} is {value!r:.40}", "a number above 0")
        for name in ("attention_bias", "mlp_bias", "tie_word_embeddings"):
            if type(getattr(self, name)) is not bool:
                raise _refused(f"{name} is {getattr(self, name)!r:.40}", "true or false")
        if self.num_attention_heads % self.num_key_value_heads:
            raise _refused(
                f"num_attention_heads is {self.num_attention_heads}",
                f"a multiple of the {self.num_key_value_heads} of num_key_value_heads",
            )
        if self.head_dim % 2:
            raise _refused(f"head_dim is {self.head_dim}", "an even one: pairs are rotated")
        tokens = (*self.eos_token_ids, *(() if self.bos_token_id is None else (self.bos_token_id,)))
        for token in tokens:
            if type(token) is not int or not 0 <= token < self.vocab_size:
                raise _refused(
                    f"bos_token_id or eos_token_id is {token!r:.40}",
                    f"ids below the vocab_size of {self.vocab_size}",
                )

    @property
    def token_values(self) -> int:
        """Keys and values of one token over all layers."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim


def read_config(folder: str | Path) -> LlamaConfig:
    """The config.json of a Hugging Face folder.

    Raises:
        UnsupportedError: it is of another architecture, or asks for something of it that is not
            here; the message names it.
        ModelError: it is missing, malformed, or its numbers do not go together.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ModelError(
            f"[models.read_config] '{folder}' has no config.json; expected a folder as Hugging "
            "Face's save_pretrained writes it"
        )
    return parse_config(read_json(path))


def parse_config(raw: dict[str, Any]) -> LlamaConfig:
    """As `read_config`, of a config.json that was parsed already."""
    _check_kind(raw)
    missing = [
        name
        for name in (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads",
        )
        if name not in raw
    ]  # fmt: skip
    if missing:
        raise _refused(f"{', '.join(missing)} missing", "all the numbers of a Llama")

    def given(name: str, default: Any) -> Any:
        value = raw.get(name)
        return default if value is None else value

    # transformers 5 keeps theta and scaling in one object, older ones apart.
    rope = given("rope_parameters", None)
    if rope is None:
        rope = given("rope_scaling", {})
    if not isinstance(rope, dict):
        raise _refused(f"rope_parameters is {rope!r:.40}", "an object")
    heads, hidden = raw["num_attention_heads"], raw["hidden_size"]
    if not all(type(each) is int and each > 0 for each in (heads, hidden)):
        raise _refused(
            f"num_attention_heads is {heads!r:.40}, hidden_size {hidden!r:.40}",
            "integers, 1 or more",
        )
    if raw.get("head_dim") is None and hidden % heads:
        raise _refused(f"hidden_size is {hidden}", f"a multiple of the {heads} heads, or head_dim")
    eos = given("eos_token_id", [])
    defaults = LlamaConfig.__dataclass_fields__
    return LlamaConfig(
        vocab_size=raw["vocab_size"],
        hidden_size=hidden,
        intermediate_size=raw["intermediate_size"],
        num_hidden_layers=raw["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=given("num_key_value_heads", heads),
        head_dim=given("head_dim", hidden // heads),
        rope_theta=given("rope_theta", rope.get("rope_theta", 10000.0)),
        rope_scaling=RopeScaling.parse(rope),
        bos_token_id=given("bos_token_id", None),
        eos_token_ids=tuple(eos) if isinstance(eos, list) else (eos,),
        **{
            name: given(name, defaults[name].default)
            for name in (
                "max_position_embeddings", "rms_norm_eps", "attention_bias", "mlp_bias",
                "tie_word_embeddings",
            )
        },
    )  # fmt: skip


def _check_kind(raw: dict[str, Any]) -> None:
    """Refuse, by its name, what would be computed wrongly if it were ignored."""
    named = raw.get("architectures") or []
    if not isinstance(named, list):
        raise _refused(f"architectures is {named!r:.40}", "a list of names")
    kind = raw.get("model_type")
    if (named and ARCHITECTURE not in named) or (not named and kind != "llama"):
        what = named[0] if named else f"model_type {kind!r}"
        raise UnsupportedError(
            f"[models.read_config] the architecture is {what!s:.80}; expected {ARCHITECTURE}"
        )
    wanted = {"hidden_act": ("silu", "swish"), "quantization_config": (), "sliding_window": ()}
    for name, allowed in wanted.items():
        value = raw.get(name)
        if value is not None and value not in allowed:
            expected = " or ".join(allowed) or "none"
            raise UnsupportedError(
                f"[models.read_config] {name} is {value!r:.80}; expected {expected}"
            )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; `ModelError` for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"[models.read_json] '{path}' is no JSON ({error}); expected an object"
        ) from None
    if not isinstance(value, dict):
        raise ModelError(
            f"[models.read_json] '{path}' holds a {type(value).__name__}; expected an object"
        )
    return value


def _refused(came: str, expected: str) -> ModelError:
    return ModelError(f"[models.read_config] {came}; expected {expected}")
