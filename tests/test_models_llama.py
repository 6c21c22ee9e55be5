"""The Llama over either cache computes what the architecture says, in any split of the tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import plain_llama
from support.llama_folders import SMALL, safetensors_bytes, weights_of, write_folder
from support.llama_logits import dense_logits, paged_logits, random_tokens

from pagedkv.models import (
    DOCSTRINGS,
    KV_DTYPES,
    Checkpoint,
    DenseCache,
    Llama,
    ModelError,
    PagedCache,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "one head of keys": {"num_key_value_heads": 1},
    "as many heads of keys": {"num_key_value_heads": 6},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "heads wider than the model": {"head_dim": 32, "rope_theta": 500.0},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    "llama3": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_both_caches_give_the_logits_of_the_plain_formula(tmp_path: Path, name: str) -> None:
    config = {**SMALL, **VARIANTS[name]}
    weights = weights_of(config)
    model = Llama.load(write_folder(tmp_path, weights=weights, **VARIANTS[name]))
    assert model.num_parameters == sum(each.size for each in weights.values())
    text = random_tokens(21)
    expected = plain_llama.logits(config, weights, text)
    assert np.abs(expected).max() > 1
    for chunk in (1, 5, 21):
        np.testing.assert_allclose(dense_logits(model, text, chunk=chunk), expected, atol=2e-4)
        (paged,) = paged_logits(model, [text], chunk=chunk)
        np.testing.assert_allclose(paged, expected, atol=2e-4)


def test_texts_in_one_batch_do_not_disturb_each_other(tmp_path: Path) -> None:
    model = Llama.load(write_folder(tmp_path))
    texts = [random_tokens(n, seed=n) for n in (1, 9, 30)]
    together = paged_logits(model, texts, chunk=7)
    for text, rows in zip(texts, together, strict=True):
        np.testing.assert_allclose(rows, dense_logits(model, text, chunk=len(text)), atol=2e-4)


def test_rows_of_a_dense_batch_may_be_of_different_lengths(tmp_path: Path) -> None:
    model = Llama.load(write_folder(tmp_path))
    texts = [random_tokens(n, seed=n) for n in (3, 11, 6)]
    cache = DenseCache(model.config, 3, 12)
    for row, text in enumerate(texts):
        cache.begin(np.array([row]), len(text))
        model.forward(np.array(text), cache)
    cache.begin(np.array([2, 1]))
    rows = model.logits(model.forward(np.array([7, 8]), cache))
    for row, text in zip(rows, ([*texts[2], 7], [*texts[1], 8]), strict=True):
        np.testing.assert_allclose(row, dense_logits(model, text, chunk=99)[-1], atol=2e-4)


@pytest.mark.parametrize(
    ("dtype", "within"),
    [
        ("float16", 0.01),
        ("bfloat16", 0.08),
        ("float8_e4m3", 0.6),
        ("float8_e5m2", 1.2),
        ("int8", 0.2),
        ("int4", 3.0),
    ],
)
def test_a_cache_of_fewer_bits_is_off_by_its_rounding(
    tmp_path: Path, dtype: str, within: float
) -> None:
    model = Llama.load(write_folder(tmp_path))
    text = random_tokens(40)
    exact = dense_logits(model, text, chunk=40)
    (paged,) = paged_logits(model, [text], chunk=6, dtype=dtype)
    off = np.abs(paged - exact).max()
    assert 0 < off < within
    full = PagedCache(model.config, 8, 4).block_bytes
    assert PagedCache(model.config, 8, 4, dtype=dtype).block_bytes < full


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
def test_weights_of_any_float_are_computed_in_float32(tmp_path: Path, dtype: str) -> None:
    # Sixteenths are exact in all of them.
    weights = {name: np.round(w * 16) / 16 for name, w in weights_of(SMALL).items()}
    plain = Llama.load(write_folder(tmp_path / "a", weights=weights))
    other = Llama.load(write_folder(tmp_path / "b", weights=weights, dtype=dtype))
    text = random_tokens(8)
    assert np.array_equal(dense_logits(plain, text, chunk=8), dense_logits(other, text, chunk=8))


def test_a_model_in_several_files_is_the_same_model(tmp_path: Path) -> None:
    one = Llama.load(write_folder(tmp_path / "one"))
    three = Llama.load(write_folder(tmp_path / "three", shards=3))
    assert not (tmp_path / "three" / "model.safetensors").exists()
    text = random_tokens(8)
    assert np.array_equal(dense_logits(one, text, chunk=8), dense_logits(three, text, chunk=8))


def test_tensors_that_follow_from_the_configuration_are_left_alone(tmp_path: Path) -> None:
    weights = weights_of({**SMALL, "tie_word_embeddings": True})
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    Llama.load(write_folder(tmp_path, weights=weights, tie_word_embeddings=True))


def with_weights(tmp_path: Path, changes: dict[str, np.ndarray | None]) -> Path:
    weights = {**weights_of(SMALL), **changes}
    return write_folder(tmp_path, weights={name: w for name, w in weights.items() if w is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.norm.weight": None}, "has no model.norm.weight; expected one"),
        ({"lm_head.weight": None}, "has no lm_head.weight; expected one"),
        (
            {"model.layers.1.mlp.up_proj.weight": np.zeros((80, 47), np.float32)},
            "model.layers.1.mlp.up_proj.weight has shape [80, 47]; expected [80, 48]",
        ),
        (
            {"model.layers.0.self_attn.q_norm.weight": np.zeros(16, np.float32)},
            "has a tensor 'model.layers.0.self_attn.q_norm.weight'; expected only those of a Llama",
        ),
        ({"model.layers.2.mlp.up_proj.weight": np.zeros((80, 48), np.float32)}, "'model.layers.2"),
        ({"model.layers.0.self_attn.q_proj.bias": np.zeros(96, np.float32)}, "q_proj.bias'"),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(
    tmp_path: Path, changes: dict[str, np.ndarray | None], message: str
) -> None:
    with pytest.raises(ModelError) as raised:
        Llama.load(with_weights(tmp_path, changes))
    assert message in str(raised.value)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no weights; expected model\.safetensors, or"):
        Checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="only pickled weights, which are never read"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": []}, "weight_map"),
        ({"weight_map": {"a": 3}}, "weight_map"),
        ({}, "weight_map"),
        ({"weight_map": {"a": "../other.safetensors"}}, "expected a file beside it"),
        ({"weight_map": {"a": "missing.safetensors"}}, "expected a file beside it"),
        ({"weight_map": {"b": "one.safetensors"}}, "'one.safetensors' has no b; expected it there"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(
    tmp_path: Path, index: dict[str, Any], message: str
) -> None:
    file = safetensors_bytes({"a": np.zeros(1, np.float32)})
    (tmp_path / "other.safetensors").write_bytes(file)
    inner = tmp_path / "model"
    inner.mkdir()
    (inner / "one.safetensors").write_bytes(file)
    (inner / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError) as raised:
        Checkpoint(inner)
    assert message in str(raised.value)


def test_a_cache_refuses_what_the_operations_do_not_take(tmp_path: Path) -> None:
    model = Llama.load(write_folder(tmp_path, head_dim=12))
    with pytest.raises(ModelError, match="head_dim is 12; expected a multiple of 8 up to 512"):
        PagedCache(model.config, 8, 4)
    fine = Llama.load(DOCSTRINGS)
    with pytest.raises(ModelError, match="dtype is 'int3'; expected one of float32, float16"):
        PagedCache(fine.config, 8, 4, dtype="int3")
    with pytest.raises(ModelError, match="no batch; expected begin to be called"):
        fine.forward(np.array([1]), PagedCache(fine.config, 8, 4))
    assert next(iter(KV_DTYPES)) == "float32"
