"""Hugging Face transformers computes the same logits and greedy tokens from the same folder."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.llama_logits import dense_logits, paged_logits, random_tokens

from pagedkv.demo import DemoConfig, run_demo
from pagedkv.models import DOCSTRINGS, Llama

torch = pytest.importorskip("torch", reason="torch is missing")
transformers = pytest.importorskip("transformers", reason="transformers is missing")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    "llama3": {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
}


def saved(tmp_path: Path, *, shard: str = "1GB", dtype: Any = None, **changes: Any) -> Any:
    """A random model of transformers, and its folder with a vocabulary of bytes."""
    config = transformers.LlamaConfig(
        **{
            "vocab_size": 258,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "bos_token_id": 256,
            "eos_token_id": 257,
            "initializer_range": 0.15,
            **changes,
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).to(dtype or torch.float32).eval()
        for name, weight in model.named_parameters():
            if name.endswith("bias"):  # zeros unless told
                torch.nn.init.normal_(weight, std=0.2)
        model.save_pretrained(tmp_path, safe_serialization=True, max_shard_size=shard)
        shutil.copy(DOCSTRINGS / "tokenizer.json", tmp_path)
        # Read back: a model that was made 16 bits wide has lost bits of its angles, too.
        return transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)


def their_logits(model: Any, text: list[int]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(torch.tensor([text])).logits[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_logits_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    theirs = saved(tmp_path, **VARIANTS[name])
    ours = Llama.load(tmp_path)
    text = random_tokens(70)
    expected = their_logits(theirs, text)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(dense_logits(ours, text, chunk=70), expected, atol=1e-4)
    (paged,) = paged_logits(ours, [text], chunk=9)
    np.testing.assert_allclose(paged, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_of_16_bits_in_several_files_are_read(tmp_path: Path, dtype: str) -> None:
    theirs = saved(tmp_path, shard="100KB", dtype=getattr(torch, dtype))
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    text = random_tokens(20)
    np.testing.assert_allclose(
        dense_logits(Llama.load(tmp_path), text, chunk=20), their_logits(theirs, text), atol=1e-4
    )


def test_the_demos_greedy_tokens_are_those_of_generate(tmp_path: Path) -> None:
    theirs = saved(tmp_path)
    config = DemoConfig(model=tmp_path, prompts=("Ab", "Return", "x"), system="sys", max_tokens=24)
    result = run_demo(config)
    assert result.proof is not None
    assert result.proof.identical
    for request in result.requests:
        prompt = torch.tensor([request.tokens[: request.num_prompt_tokens]])
        with torch.no_grad():
            out = theirs.generate(
                prompt, do_sample=False, max_new_tokens=24, attention_mask=torch.ones_like(prompt)
            )
        assert out[0].tolist() == request.tokens


def test_transformers_reads_the_shipped_model_alike() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(DOCSTRINGS, dtype=torch.float32)
    text = list(b"Return the number of items")
    np.testing.assert_allclose(
        dense_logits(Llama.load(DOCSTRINGS), text, chunk=26), their_logits(theirs, text), atol=1e-3
    )
