"""Published models are read as what they are: bytes a token, and bytes of states."""

from __future__ import annotations

import pytest
from support.models import CONFIGS, published, small

from pagedkv.plan import PlanError, plan, read_architecture
from pagedkv.plan.layers import Attention, Latent, State

KIB = 1024

# In bfloat16: bytes a token in all layers, in those without a window, and of a sequence's states
# in float32. Each is layers * 2 * KV heads * head_dim * 2 (latent: layers * 576 * 2), and layers *
# (state + channels * (kernel - 1)) * 4, of the published figures.
KNOWN = {
    "bamba-9b-v1": (12_288, 12_288, 29 * (128 * 64 * 128 + 8448 * 3) * 4),
    "deepseek-v2-lite": (31_104, 31_104, 0),
    "deepseek-v3": (70_272, 70_272, 0),
    "falcon-7b": (8_192, 8_192, 0),
    "falcon-h1-7b": (45_056, 45_056, 44 * (24 * 128 * 256 + 3584 * 3) * 4),
    "falcon-mamba-7b": (0, 0, 64 * (8192 * 16 + 8192 * 3) * 4),
    "gemma-2-9b": (344_064, 172_032, 0),
    "gemma-3-27b": (507_904, 81_920, 0),
    "gemma-3-4b": (139_264, 20_480, 0),
    "gpt-oss-120b": (73_728, 36_864, 0),
    "gpt-oss-20b": (49_152, 24_576, 0),
    "jamba-v0.1": (16_384, 16_384, 28 * (8192 * 16 + 8192 * 3) * 4),
    "kimi-linear-48b-a3b": (8_064, 8_064, 20 * (32 * 128 * 128 + 12_288 * 3) * 4),
    "lfm2-1.2b": (12_288, 12_288, 10 * 2048 * 2 * 4),
    "llama-2-7b": (524_288, 524_288, 0),
    "llama-3.1-70b": (327_680, 327_680, 0),
    "llama-3.1-8b": (131_072, 131_072, 0),
    "llama-4-scout-17b-16e": (196_608, 49_152, 0),
    "mamba-codestral-7b-v0.1": (0, 0, 64 * (128 * 64 * 128 + 10_240 * 3) * 4),
    "mistral-7b-v0.1": (131_072, 0, 0),
    "mixtral-8x7b": (131_072, 131_072, 0),
    "nemotron-h-8b": (16_384, 16_384, 24 * (128 * 64 * 128 + 10_240 * 3) * 4),
    "phi-3-mini-4k": (393_216, 0, 0),
    "phi-4": (204_800, 204_800, 0),
    "qwen2.5-7b": (57_344, 57_344, 0),
    "qwen3-30b-a3b": (98_304, 98_304, 0),
    "qwen3-8b": (147_456, 147_456, 0),
    "qwen3-next-80b-a3b": (24_576, 24_576, 36 * (32 * 128 * 128 + 8192 * 3) * 4),
    "zamba2-2.7b": (184_320, 184_320, 54 * (80 * 64 * 64 + 5248 * 3) * 4),
}


def layout(config, **options):
    return plan(config, "40GiB", **{"kv_dtype": "bfloat16", **options}).layout


def test_every_published_configuration_has_its_figures_here():
    assert {file.stem for file in CONFIGS.glob("*.json")} == set(KNOWN)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_the_bytes_of_a_published_model_are_known(name):
    of_model = layout(CONFIGS / f"{name}.json")
    found = (of_model.bytes_per_token, of_model.bytes_per_token_kept, of_model.slot_bytes)
    assert found == KNOWN[name]


def test_a_path_its_folder_and_its_fields_are_one_configuration(tmp_path):
    fields = published("llama-3.1-8b")
    (tmp_path / "config.json").write_text((CONFIGS / "llama-3.1-8b.json").read_text())
    same = read_architecture(fields)
    assert read_architecture(tmp_path) == same
    assert read_architecture(str(tmp_path / "config.json")) == same
    assert (same.dtype, same.max_length, same.num_attention_heads) == ("bfloat16", 131_072, 32)


def test_a_model_of_several_parts_is_planned_for_its_text():
    model = read_architecture(published("gemma-3-27b"))
    assert model.model_type == "gemma3_text"
    assert model.dtype == "bfloat16"  # the outer one says so
    windows = [layer[0].window for layer in model.layers]
    assert windows[:6] == [1024] * 5 + [None]
    assert windows.count(None) == 10


def test_what_a_file_leaves_out_is_the_default_of_the_class_and_is_said():
    model = read_architecture(published("gemma-3-4b"))
    assert model.layers[0] == (Attention(4, 256, 256, 1024),)
    assert "head_dim is not in the file: 256, the default of the class" in model.assumptions
    assert read_architecture(published("gemma-3-27b")).assumptions == (
        "sliding_window_pattern is not in the file: 6, the default of the class",
    )
    assert read_architecture(published("llama-3.1-8b")).assumptions == ()
    assert read_architecture(small("mistral")).layers[0][0].window == 4096
    assert read_architecture(small("mistral", sliding_window=None)).layers[0][0].window is None


@pytest.mark.parametrize(
    ("model_type", "fields", "says"),
    [
        ("llama", {"num_key_value_heads": None}, "num_key_value_heads is null in the file: 4"),
        ("llama", {}, "dtype is not in the file: float32, unless another is asked for"),
        ("gpt2", {}, "dtype is not in the file: float32, unless another is asked for"),
        ("gpt_bigcode", {}, "multi_query is not in the file: true"),
        ("gemma3_text", {"sliding_window": 8}, "sliding_window_pattern is not in the file: 6"),
        ("qwen2", {"sliding_window": 8}, "use_sliding_window is not in the file: false"),
        ("jamba", {"num_hidden_layers": 8}, "attn_layer_period is not in the file: 8"),
        ("jamba", {"num_hidden_layers": 8}, "attn_layer_offset is not in the file: 4"),
        ("jamba", {"num_hidden_layers": 8}, "mamba_d_state is not in the file: 16"),
        ("jamba", {"num_hidden_layers": 8}, "mamba_expand is not in the file: 2"),
    ],
)
def test_every_default_that_is_used_is_said(model_type, fields, says):
    assumptions = read_architecture(small(model_type, **fields)).assumptions
    assert any(sentence.startswith(says) for sentence in assumptions), assumptions


def test_a_class_without_a_field_for_kv_heads_assumes_nothing():
    fields = {"model_type": "gpt2", "n_layer": 2, "n_head": 4, "n_embd": 32, "dtype": "float16"}
    assert read_architecture(fields).assumptions == ()
    whole = small("llama", torch_dtype="bfloat16")
    assert read_architecture(whole).assumptions == ()


def test_layers_of_linear_attention_are_states():
    kinds = [0, 0, 0, 1]
    for model_type in ("minimax", "minimax_m1", "minimax_text_01"):
        layers = read_architecture(small(model_type, attn_type_list=kinds)).layers
        assert [isinstance(layer[0], State) for layer in layers] == [True, True, True, False]


def test_which_layers_have_windows_follows_the_model_type():
    def windows(config):
        return [layer[0].window for layer in read_architecture(config).layers]

    eight = {"num_hidden_layers": 8, "sliding_window": 16}
    assert windows(small("gemma2", **eight)) == [16, None] * 4
    assert windows(small("gemma3_text", **eight)) == [16] * 5 + [None] + [16] * 2
    pattern = {**eight, "sliding_window_pattern": 2}
    assert windows(small("gemma3_text", **pattern)) == [16, None] * 4
    assert windows(small("cohere2", **eight)) == ([16] * 3 + [None]) * 2
    assert windows(small("mistral", **eight)) == [16] * 8
    assert windows(small("mixtral", sliding_window=None)) == [None] * 4
    assert windows(small("llama4_text", attention_chunk_size=32)) == [32, 32, 32, None]
    upper = {**eight, "use_sliding_window": True, "max_window_layers": 6}
    assert windows(small("qwen2", **upper)) == [None] * 6 + [16] * 2
    assert windows(small("qwen3", **{**upper, "use_sliding_window": False})) == [None] * 8
    types = ["full_attention", "sliding_attention"] * 4
    assert windows(small("gemma2", layer_types=types, **eight)) == [None, 16] * 4


def test_layers_that_read_what_others_stored_keep_nothing():
    config = small("gemma3n_text", num_hidden_layers=10, num_kv_shared_layers=4, sliding_window=8)
    layers = read_architecture(config).layers
    assert [len(layer) for layer in layers] == [1] * 6 + [0] * 4


def test_attention_and_state_may_stand_side_by_side_in_a_layer():
    attention, state = read_architecture(published("falcon-h1-7b")).layers[0]
    assert attention == Attention(2, 128, 128)
    assert state == State("Mamba-2", 24, 128, 256, 3072, 512, 1, 4)


def test_tensor_parallel_divides_heads_and_repeats_those_that_are_fewer():
    of_model = {ranks: layout(published("llama-3.1-8b"), tensor_parallel=ranks) for ranks in (1, 8)}
    assert of_model[1].bytes_per_token == 8 * of_model[8].bytes_per_token
    # 8 KV heads over 32 ranks: each rank has one, four have the same.
    wide = layout(published("llama-3.1-8b"), tensor_parallel=32)
    assert wide.bytes_per_token == of_model[8].bytes_per_token


def test_tensor_parallel_repeats_latent_rows():
    one, eight = (layout(published("deepseek-v3"), tensor_parallel=ranks) for ranks in (1, 8))
    assert one.bytes_per_token == eight.bytes_per_token == 70_272
    assert isinstance(read_architecture(published("deepseek-v3")).layers[0][0], Latent)


def test_tensor_parallel_divides_states_and_repeats_groups_that_are_fewer():
    nemotron = layout(published("nemotron-h-8b"), tensor_parallel=4)
    assert nemotron.slot_bytes == KNOWN["nemotron-h-8b"][2] // 4
    bamba = layout(published("bamba-9b-v1"), tensor_parallel=4)  # one group of B and C
    assert bamba.slot_bytes == 29 * (32 * 64 * 128 + (2048 + 256) * 3) * 4
    qwen = layout(published("qwen3-next-80b-a3b"), tensor_parallel=2)
    assert qwen.slot_bytes == KNOWN["qwen3-next-80b-a3b"][2] // 2


def test_the_dtype_of_states_is_the_files_unless_another_is_asked_for():
    config = published("nemotron-h-8b")
    whole = KNOWN["nemotron-h-8b"][2]
    assert layout({**config, "mamba_ssm_cache_dtype": "bfloat16"}).slot_bytes == whole // 2
    assert layout(config, state_dtype="float16").slot_bytes == whole // 2


@pytest.mark.parametrize(
    ("dtype", "scales", "expected"),
    [
        ("float32", None, 262_144),
        ("float8_e4m3", None, 65_536),
        ("float8_e5m2", "token", 65_536 + 32 * 2 * 8 * 4),
        ("int8", None, 65_536 + 32 * 2 * 8 * 4),
        ("int8", "tensor", 65_536),
        ("int4", None, 32_768 + 32 * 2 * 8 * 4),
    ],
)
def test_quantised_keys_and_values_have_scales(dtype, scales, expected):
    of_model = layout(published("llama-3.1-8b"), kv_dtype=dtype, scales=scales)
    assert of_model.bytes_per_token == expected
    assert of_model.block_bytes == 16 * expected


def test_a_scale_a_block_adds_to_the_block_alone():
    of_model = layout(published("llama-3.1-8b"), kv_dtype="int8", scales="block")
    assert of_model.bytes_per_token == 65_536
    of_block = 32 * 2 * 8 * 4
    assert of_model.block_bytes == 16 * 65_536 + of_block
    assert of_model.useful_bytes(17) == 17 * 65_536 + 2 * of_block
    assert of_model.useful_bytes(32) == of_model.blocks(32) * of_model.block_bytes


def test_a_type_nobody_knows_is_taken_for_plain_attention_and_that_is_said():
    model = read_architecture(small("brand_new", sliding_window=8))
    assert model.layers[0] == (Attention(2, 8, 8),)
    assert any("'brand_new' is not known" in sentence for sentence in model.assumptions)
    assert any("sliding_window" in sentence for sentence in model.assumptions)
    types = ["sliding_attention", "full_attention"] * 2
    model = read_architecture(small("brand_new", sliding_window=8, layer_types=types))
    assert [layer[0].window for layer in model.layers] == [8, None] * 2


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (small("brand_new", mamba_d_state=16), "mamba_d_state"),
        (small("brand_new", kv_lora_rank=512), "kv_lora_rank"),
        (small("brand_new", attn_type_list=[0, 1, 1, 1]), "attn_type_list"),
        (small("brand_new", linear_attention_layers=[0]), "linear_attention_layers"),
        (small("brand\x1b[2J", linear_attention_layers=[0]), r"'brand\\x1b\[2J'"),
        (small("brand_new", is_encoder_decoder=True), "encoder"),
        (small("brand_new", layer_types=["retention"] * 4), "layer_types"),
        (small("t5"), "model_type is 't5'"),
        (small("bert"), "model_type is 'bert'"),
        (small("deepseek_v32"), "index"),
        (small("rwkv"), "layout of its own"),
    ],
)
def test_a_model_that_keeps_something_else_is_refused_by_name(config, says):
    with pytest.raises(PlanError, match=says):
        read_architecture(config)
