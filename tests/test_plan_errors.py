"""What the planner refuses, and that it names the field or the argument."""

from __future__ import annotations

import pytest
from support.models import SMALL, published, small

from pagedkv import PagedKvError
from pagedkv.plan import PlanError, plan, read_architecture
from pagedkv.replay import Trace


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("model_type", None, r"model_type is missing; expected a text"),
        ("model_type", 3, r"model_type is 3; expected a text"),
        ("num_hidden_layers", 0, r"num_hidden_layers is 0; expected 1 to 2147483647"),
        ("num_hidden_layers", "32", r"num_hidden_layers is '32'; expected an integer, 1 or more"),
        ("num_hidden_layers", True, r"num_hidden_layers is True; expected an integer"),
        ("num_hidden_layers", 2.5, r"num_hidden_layers is 2.5; expected an integer"),
        ("num_hidden_layers", 2**40, r"num_hidden_layers is 1099511627776; expected 1 to"),
        ("num_attention_heads", -4, r"num_attention_heads is -4"),
        ("num_key_value_heads", 3, r"4 attention heads over 3 KV heads; expected a whole number"),
        ("hidden_size", 30, r"hidden_size is 30 over 4 attention heads, and head_dim is missing"),
        ("head_dim", [8], r"head_dim is \[8\]"),
        ("torch_dtype", "float7", r"torch_dtype is 'float7'; expected one of float64"),
        ("dtype", 16, r"dtype is 16; expected a text"),
        ("layer_types", "full", r"layer_types is 'full'; expected a list of texts"),
        ("layer_types", ["sliding_attention"], r"1 layer_types; expected 4, one a layer"),
        ("layer_types", ["wobbly"] * 4, r"layer_types\[0\] is 'wobbly'; expected full_attention"),
    ],
)
def test_a_bad_field_is_named(field, value, says):
    with pytest.raises(PlanError, match=rf"^\[plan.read_config\] the configuration: {says}"):
        read_architecture({**small("llama"), "num_hidden_layers": 4, field: value})


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("qwen2", {"use_sliding_window": "yes"}, "use_sliding_window is 'yes'; expected true or"),
        ("gemma3n", {"num_kv_shared_layers": 10}, "num_kv_shared_layers is 10 of 10 layers"),
        ("deepseek", {"kv_lora_rank": None}, "kv_lora_rank is missing"),
        ("deepseek", {"qk_rope_head_dim": 0}, "qk_rope_head_dim is 0"),
        ("deepseek", {"index_head_dim": 128}, "index_head_dim is there"),
        ("jamba", {"attn_layer_offset": 4}, "attn_layer_offset is 4 of attn_layer_period 4"),
        ("bamba", {"attn_layer_indices": None}, "attn_layer_indices is missing"),
        ("bamba", {"attn_layer_indices": [7]}, "attn_layer_indices has 7; expected 0 to 3"),
        ("bamba", {"attn_layer_indices": "all"}, "expected a list of integers"),
        ("bamba", {"mamba_n_heads": None}, "mamba_n_heads is missing"),
        ("bamba", {"mamba_d_head": None, "mamba_n_heads": 7}, "64 inner channels over 7 heads"),
        ("nemotron-h", {"hybrid_override_pattern": "M*X-M"}, "has 'X'; expected M, "),
        ("nemotron-h", {"hybrid_override_pattern": "M*"}, "has 2 layers; expected"),
        ("zamba2", {"layers_block_type": ["mlp"] * 4}, r"layers_block_type\[0\] is 'mlp'"),
        ("zamba2", {"layers_block_type": None}, "layers_block_type is missing"),
        (
            "zamba2",
            {"layers_block_type": None, "hybrid_layer_ids": [1, 999]},
            "hybrid_layer_ids has 999; expected 0 to 3",
        ),
        ("qwen3-next", {"layer_types": ["nothing"] * 4}, r"layer_types\[0\] is 'nothing'"),
        ("qwen3-next", {"linear_conv_kernel_dim": "4"}, "linear_conv_kernel_dim is '4'"),
        ("lfm2", {"conv_L_cache": 1}, "conv_L_cache is 1; expected 2"),
        ("mamba", {"hidden_size": None}, "hidden_size is missing"),
    ],
)
def test_a_bad_field_of_any_kind_of_model_is_named(name, change, says):
    with pytest.raises(PlanError, match=says):
        read_architecture({**SMALL[name], **change})


def test_kimi_and_minimax_name_the_list_that_is_missing():
    with pytest.raises(PlanError, match="linear_attn_config is missing"):
        read_architecture(small("kimi_linear", kv_lora_rank=16, qk_rope_head_dim=8))
    with pytest.raises(PlanError, match="linear_attn_config is 3; expected a JSON object"):
        read_architecture(small("kimi_linear", linear_attn_config=3))
    linear = {"num_heads": 4, "head_dim": 8, "short_conv_kernel_size": 4}
    latent = {"kv_lora_rank": 16, "qk_rope_head_dim": 8}
    with pytest.raises(PlanError, match="linear_attn_config: full_attn_layers is missing"):
        read_architecture(small("kimi_linear", linear_attn_config=linear, **latent))
    outside = {**linear, "full_attn_layers": [0, 4]}
    with pytest.raises(PlanError, match="full_attn_layers has 0; expected 1 to 4"):
        read_architecture(small("kimi_linear", linear_attn_config=outside, **latent))
    with pytest.raises(PlanError, match="attn_type_list is missing"):
        read_architecture(small("minimax"))
    with pytest.raises(PlanError, match=r"attn_type_list; expected 0 \(linear\) or 1 \(full\)"):
        read_architecture(small("minimax", attn_type_list=[0, 1, 2, 1]))
    kept = read_architecture(small("minimax", attn_type_list=[0, 1, 0, 1])).layers
    assert [type(layer[0]).__name__ for layer in kept] == ["State", "Attention"] * 2


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "is not JSON"), ("[1]", "is a JSON list; expected one JSON object"), ("", "not JSON")],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, text, says):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=says) as caught:
        read_architecture(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PlanError, match=r"config.json' cannot be read: No such file"):
        read_architecture(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "neither memory nor gpu_memory; expected one of them"),
        ({"memory": "1GiB", "gpu_memory": "1GiB"}, "memory and gpu_memory; expected memory alone"),
        ({"memory": "1GiB", "weights": 1}, "memory and weights; expected memory alone"),
        ({"memory": 0}, "memory is 0; expected bytes, 1 or more"),
        ({"memory": "lots"}, "memory is 'lots'; expected bytes"),
        ({"memory": True}, "memory is True"),
        ({"gpu_memory": "8GiB"}, "gpu_memory without weights"),
        ({"gpu_memory": "8GiB", "weights": -1}, "weights is -1; expected bytes, 0 or more"),
        ({"gpu_memory": "8GiB", "weights": "8GiB"}, "weights of 8 GiB in 90 % of 8 GiB"),
        ({"gpu_memory": "8GiB", "weights": 1, "utilization": 0.0}, "utilization is 0.0; expected"),
        ({"gpu_memory": "8GiB", "weights": 1, "utilization": 1.5}, "utilization is 1.5; expected"),
        ({"memory": 1000}, "1000 B for the cache; expected at least 1 block of 8 KiB: one"),
        ({"memory": "1GiB", "kv_dtype": "int3"}, "kv_dtype is 'int3'; expected one of float64"),
        ({"memory": "1GiB", "state_dtype": "int4"}, "state_dtype is int4; expected 8 bits"),
        ({"memory": "1GiB", "scales": "row"}, "scales is 'row'; expected one of tensor, block"),
        (
            {"memory": "1GiB", "scales": "token"},
            "scales a token of float32; expected one of",
        ),
        ({"memory": "1GiB", "block_size": 0}, "block_size is 0; expected an integer, 1 or more"),
        ({"memory": "1GiB", "block_size": 1.5}, "block_size is 1.5"),
        ({"memory": "1GiB", "prefill_chunk": 0}, "prefill_chunk is 0"),
        ({"memory": "1GiB", "max_seqs": 0}, "max_seqs is 0"),
        ({"memory": "1GiB", "lengths": []}, "no lengths; expected at least one"),
        ({"memory": "1GiB", "lengths": [8, 0]}, "a length is 0"),
        ({"memory": "1GiB", "tensor_parallel": 0}, "tensor_parallel is 0"),
        ({"memory": "1GiB", "tensor_parallel": 2.0}, "tensor_parallel is 2.0; expected an integer"),
        ({"memory": "1GiB", "tensor_parallel": "2"}, "tensor_parallel is '2'; expected an integer"),
        ({"memory": "1GiB", "lengths": 8192}, "lengths is 8192; expected a sequence of integers"),
        ({"memory": "1GiB", "lengths": "8192"}, "lengths is '8192'; expected a sequence"),
        ({"memory": "1GiB", "kv_dtype": ["int8"]}, r"kv_dtype is \['int8'\]; expected one of"),
        ({"memory": "1GiB", "trace": "trace.csv"}, "trace is 'trace.csv'; expected a Trace"),
        ({"memory": "1GiB", "step_ms": 25.0}, "step_ms without a trace; expected both"),
        ({"memory": "1GiB", "max_seqs": 4}, "max_seqs for a model without recurrent states"),
        ({"memory": "1GiB", "state_dtype": "float16"}, "state_dtype for a model without recurrent"),
        ({"memory": "1GiB", "utilization": 5}, "memory and utilization; expected memory alone"),
        (
            {"gpu_memory": "8GiB", "weights": 1, "utilization": "0.9"},
            "utilization is '0.9'; expected above 0, up to 1",
        ),
        ({"memory": "1GiB", "tensor_parallel": 3}, "4 attention heads over tensor_parallel=3"),
    ],
)
def test_a_bad_argument_is_named(arguments, says):
    with pytest.raises(PlanError, match=rf"^\[plan.plan\] {says}"):
        plan(small("llama"), **arguments)


def test_a_configuration_of_another_type_is_named():
    with pytest.raises(PlanError, match=r"the configuration is None; expected a path or a mapping"):
        plan(None, "1GiB")


@pytest.mark.parametrize("step_ms", [0, -1.0, float("nan"), float("inf"), "25", True])
def test_a_step_that_takes_no_time_is_named(step_ms):
    with pytest.raises(PlanError, match=r"\[plan.plan\] step_ms is .*; expected a number above 0"):
        plan(small("llama"), "1GiB", trace=Trace("made", "mooncake", []), step_ms=step_ms)


def test_heads_that_ranks_do_not_divide_are_named():
    ten_heads = published("phi-4")
    with pytest.raises(PlanError, match="10 KV heads over tensor_parallel=4"):
        plan(ten_heads, "1GiB", tensor_parallel=4)
    odd = {**SMALL["bamba"], "mamba_n_heads": 5, "mamba_d_head": 16}
    with pytest.raises(PlanError, match="5 heads of Mamba-2 state over tensor_parallel=2"):
        plan(odd, "1GiB", tensor_parallel=2)
    groups = {**SMALL["bamba"], "mamba_n_groups": 3}
    with pytest.raises(PlanError, match="3 groups of Mamba-2 state over tensor_parallel=2"):
        plan(groups, "1GiB", tensor_parallel=2)


def test_odd_rows_cannot_be_int4():
    with pytest.raises(PlanError, match="int4 with rows of 7 and 7 values; expected even sizes"):
        plan(small("llama", head_dim=7), "1GiB", kv_dtype="int4")


def test_latent_rows_have_no_scales_a_token():
    with pytest.raises(PlanError, match="scales a token of latent rows; expected tensor"):
        plan(SMALL["deepseek"], "1GiB", kv_dtype="int8", scales="token")
    assert plan(SMALL["deepseek"], "1GiB", kv_dtype="int8", scales="tensor").bytes_per_token == 96


def test_states_alone_have_no_manager_and_need_a_slot():
    states = plan(SMALL["mamba"], "1MiB")
    with pytest.raises(PlanError, match=r"\[Plan.manager\] a model of states alone"):
        states.manager()
    with pytest.raises(PlanError, match="expected at least 1 slot of"):
        plan(SMALL["mamba"], 10)
    with pytest.raises(PlanError, match=r"\[Plan.sequences\] length is 0"):
        states.sequences(0)
    with pytest.raises(PlanError, match=r"\[Plan.sequences\] length is '8'; expected an integer"):
        states.sequences("8")


def test_more_slots_than_memory_holds_are_refused():
    one = plan(SMALL["jamba"], "1MiB", max_seqs=1).layout.slot_bytes
    with pytest.raises(PlanError, match=r"expected at least 1,000 slots of .* and 1 block of"):
        plan(SMALL["jamba"], 1000 * one, max_seqs=1000)


def test_memory_that_holds_no_sequence_at_all_is_refused():
    """A token needs a block of each group, here of windows and of full attention."""
    block = plan(published("gpt-oss-120b"), "1GiB").layout.block_bytes
    with pytest.raises(PlanError, match=r"2 blocks of .*: one sequence of one token takes"):
        plan(published("gpt-oss-120b"), 2 * block - 1)
    smallest = plan(published("gpt-oss-120b"), 2 * block)
    assert (smallest.num_blocks, smallest.max_tokens, smallest.sequences(1)) == (2, 16, 1)


def test_the_error_is_one_of_the_librarys_and_a_value_error():
    assert issubclass(PlanError, PagedKvError)
    assert issubclass(PlanError, ValueError)
