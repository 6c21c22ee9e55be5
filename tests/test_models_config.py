"""config.json: what is read of it, and that what is not here is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.llama_folders import SMALL
from support.plain_llama import inverse_frequencies

from pagedkv.errors import UnsupportedError
from pagedkv.models import DOCSTRINGS, ModelError, RopeScaling, cos_sin_table, read_config

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def folder(tmp_path: Path, raw: Any) -> Path:
    text = raw if isinstance(raw, str) else json.dumps(raw)
    (tmp_path / "config.json").write_text(text)
    return tmp_path


def changed(**changes: Any) -> dict[str, Any]:
    return {**SMALL, **changes}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in SMALL.items() if name not in names}


def test_the_numbers_are_read_by_hugging_faces_names(tmp_path: Path) -> None:
    config = read_config(folder(tmp_path, SMALL))
    for name in SMALL.keys() - {"architectures", "model_type", "eos_token_id"}:
        assert getattr(config, name) == SMALL[name]
    assert config.eos_token_ids == (257,)
    assert config.token_values == 2 * 2 * 2 * 16
    assert (config.rope_theta, config.rope_scaling) == (10000.0, None)
    assert not any((config.attention_bias, config.mlp_bias, config.tie_word_embeddings))


def test_what_is_not_said_or_null_follows_from_the_rest(tmp_path: Path) -> None:
    raw = without("num_key_value_heads", "head_dim", "eos_token_id", "bos_token_id")
    config = read_config(folder(tmp_path, {**raw, "rope_theta": None, "head_dim": None}))
    assert (config.num_key_value_heads, config.head_dim) == (6, 8)
    assert (config.bos_token_id, config.eos_token_ids) == (None, ())
    assert read_config(folder(tmp_path, changed(eos_token_id=[3, 5]))).eos_token_ids == (3, 5)
    assert read_config(folder(tmp_path, without("architectures"))).hidden_size == 48


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_scaling_is_read_where_either_generation_of_transformers_writes_it(
    tmp_path: Path, key: str
) -> None:
    raw = changed(**{key: {**LLAMA3, "rope_theta": 5e5}})
    config = read_config(folder(tmp_path, raw))
    assert config.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 64)
    assert config.rope_theta == 5e5
    linear = {"type": "linear", "factor": 2}  # as the first versions named it
    config = read_config(folder(tmp_path, changed(**{key: linear})))
    assert config.rope_scaling == RopeScaling("linear", 2.0)
    config = read_config(folder(tmp_path, changed(**{key: {"rope_type": "default"}})))
    assert config.rope_scaling is None


@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 4.0}, LLAMA3])
def test_the_table_of_angles_is_that_of_the_formula(scaling: dict[str, Any] | None) -> None:
    raw = {"head_dim": 64, "rope_theta": 5e5, "rope_scaling": scaling}
    table = cos_sin_table(100, 64, 5e5, RopeScaling.parse(scaling or {}))
    angles = np.outer(np.arange(100), inverse_frequencies(raw))
    assert table.dtype == np.float32
    np.testing.assert_allclose(table[:, :32], np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(table[:, 32:], np.sin(angles), atol=1e-6)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (changed(architectures=["MixtralForCausalLM"]), "MixtralForCausalLM"),
        (changed(architectures=["GPT2LMHeadModel"], model_type="gpt2"), "GPT2LMHeadModel"),
        ({**without("architectures"), "model_type": "mamba"}, "mamba"),
        (changed(hidden_act="gelu"), "hidden_act is 'gelu'; expected silu"),
        (changed(quantization_config={"bits": 4}), "quantization_config"),
        (changed(sliding_window=512), "sliding_window is 512"),
        (changed(rope_scaling={"rope_type": "yarn", "factor": 4.0}), "'yarn'"),
        (changed(rope_scaling={"type": "dynamic", "factor": 4.0}), "'dynamic'"),
        (changed(rope_parameters={"partial_rotary_factor": 0.5}), "partial_rotary_factor is 0.5"),
    ],
)
def test_what_is_not_here_is_refused_by_its_name(
    tmp_path: Path, raw: dict[str, Any], name: str
) -> None:
    with pytest.raises(UnsupportedError) as raised:
        read_config(folder(tmp_path, raw))
    assert name in str(raised.value)
    assert "; expected " in str(raised.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "holds a list; expected an object"),
        (without("vocab_size", "hidden_size"), "vocab_size, hidden_size missing"),
        (changed(vocab_size="many"), "vocab_size is 'many'; expected an integer"),
        (changed(num_hidden_layers=0), "num_hidden_layers is 0; expected an integer, 1 or more"),
        (changed(hidden_size=2**40), "hidden_size is"),
        (changed(num_attention_heads=True), "num_attention_heads is True"),
        (changed(num_key_value_heads=4), "num_attention_heads is 6; expected a multiple of the 4"),
        (changed(head_dim=15), "head_dim is 15; expected an even one"),
        (changed(head_dim=None, hidden_size=50), "hidden_size is 50; expected a multiple of the 6"),
        (changed(rms_norm_eps=0), "rms_norm_eps is 0; expected a number above 0"),
        (changed(rope_theta="big"), "rope_theta is 'big'"),
        (changed(attention_bias=1), "attention_bias is 1; expected true or false"),
        (changed(eos_token_id=258), "258; expected ids below the vocab_size of 258"),
        (changed(architectures="Llama"), "architectures is 'Llama'; expected a list"),
        (changed(rope_scaling=7), "rope_parameters is 7; expected an object"),
        (changed(rope_scaling={"type": "linear"}), "factor is None; expected a number above 0"),
        (
            changed(rope_scaling={**LLAMA3, "low_freq_factor": 4.0}),
            "low_freq_factor is 4.0; expected less than the high_freq_factor of 4.0",
        ),
    ],
)
def test_a_broken_configuration_is_refused_with_what_is_wrong(
    tmp_path: Path, raw: Any, message: str
) -> None:
    with pytest.raises(ModelError) as raised:
        read_config(folder(tmp_path, raw))
    assert message in str(raised.value)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config.json; expected a folder as Hugging Face"):
        read_config(tmp_path)


def test_the_shipped_model_has_grouped_heads_and_a_vocabulary_of_bytes() -> None:
    config = read_config(DOCSTRINGS)
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.vocab_size == 256 + 2
    assert config.tie_word_embeddings
