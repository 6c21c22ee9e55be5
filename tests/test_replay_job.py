"""The whole job: workload, both runs, rejections, shapes, report."""

import json
import math
import statistics

import pytest

from pagedkv.replay import (
    CacheShape,
    ReplayConfig,
    ReplayError,
    Request,
    Trace,
    as_dict,
    as_text,
    make_workload,
    read_model_config,
    replay,
)
from pagedkv.replay.workload import SERVICES

REQUIRED_KEYS = {
    "requests",
    "completed",
    "preemptions",
    "peak_utilization",
    "mean_utilization",
    "wasted_fraction",
    "contiguous_useful_fraction",
    "paged_useful_fraction",
    "verified",
}


def trace_of(*lengths):
    requests = [Request(i, 0.0, prompt, output) for i, (prompt, output) in enumerate(lengths, 1)]
    return Trace("test", "made", requests)


def test_the_default_workload_is_completed_with_preemptions_and_pages_win():
    result = replay(make_workload(seed=0), ReplayConfig())
    assert result.success
    assert result.paged.completed == result.contiguous.completed == 4000
    assert result.paged.preemptions > 0
    assert result.paged.useful_fraction > 0.96
    assert result.contiguous.useful_fraction < 0.38
    assert result.contiguous.steps > 2 * result.paged.steps


def test_a_workload_is_made_from_its_seed_alone():
    assert make_workload(7, 100) == make_workload(7, 100)
    assert make_workload(7, 100).requests != make_workload(8, 100).requests


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_lengths_have_the_documented_median_and_nearly_the_mean(service):
    import numpy as np

    for length in (service.prompt, service.output):
        sample = length.sample(np.random.default_rng(1), 200_000)
        assert sample.min() >= 1
        assert sample.max() <= length.longest
        assert statistics.median(sample.tolist()) == pytest.approx(length.median, rel=0.03)
        # Cutting the tail at `longest` takes a little off the mean.
        assert 0.9 * length.mean < sample.mean() < 1.02 * length.mean


def test_contiguous_reserves_the_longest_request_for_each():
    # 4 blocks of 4 slots hold one reservation of 9 tokens, or three requests of up to 4.
    result = replay(trace_of((8, 1), (2, 1), (2, 1)), ReplayConfig(num_blocks=4, block_size=4))
    assert result.max_model_len == 9
    assert result.paged.peak_running == 2
    assert result.contiguous.peak_running == 1
    assert result.contiguous.steps == 3
    assert result.contiguous.useful_fraction == pytest.approx((9 + 3 + 3) / 27)
    assert result.contiguous.peak_utilization == pytest.approx(9 / 16)


def test_a_request_longer_than_the_pool_is_rejected_and_the_rest_completes():
    result = replay(trace_of((8, 1), (20, 1), (2, 1)), ReplayConfig(num_blocks=5, block_size=4))
    assert [rejection.request.number for rejection in result.rejections] == [2]
    assert "request 2 needs 21 tokens; expected at most 20 (the whole pool)" in str(
        result.rejections[0]
    )
    assert result.paged.completed == result.accepted == 2
    assert result.success


def test_a_request_longer_than_the_model_is_rejected():
    config = ReplayConfig(num_blocks=100, max_model_len=8)
    result = replay(trace_of((8, 1), (7, 1)), config)
    assert [str(rejection) for rejection in result.rejections] == [
        "request 1 needs 9 tokens; expected at most 8 (the maximum model length)"
    ]
    assert result.max_model_len == 8


def test_a_reservation_that_the_pool_cannot_hold_leaves_the_comparison_out():
    config = ReplayConfig(num_blocks=4, block_size=4, max_model_len=17)
    result = replay(trace_of((8, 1)), config)
    assert result.contiguous is None
    assert result.success
    report = as_dict(result)
    assert report["contiguous"] is report["contiguous_useful_fraction"] is None
    assert "17 tokens are more than the pool holds" in as_text(result)


def test_no_requests_is_a_result():
    result = replay(trace_of(), ReplayConfig(verify=True))
    report = as_dict(result)
    assert result.success
    assert report["requests"] == report["completed"] == report["steps"] == 0
    assert report["mean_utilization"] == report["peak_utilization"] == 0.0
    assert report["wasted_fraction"] is report["paged_useful_fraction"] is None
    assert as_text(result)


def test_the_report_has_every_promised_key_and_is_json():
    result = replay(make_workload(3, 200), ReplayConfig(verify=False))
    report = as_dict(result)
    assert report.keys() >= REQUIRED_KEYS
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["wasted_fraction"] == pytest.approx(1 - report["paged_useful_fraction"])
    assert report["verified"] is None
    assert as_text(result).isascii()


def test_progress_is_told_of_both_runs():
    seen = []
    replay(make_workload(3, 20), ReplayConfig(), lambda *state: seen.append(state))
    assert {name for name, _, _ in seen} == {"paged", "contiguous"}
    assert seen[-1] == ("contiguous", 20, 20)


@pytest.mark.parametrize("config", [{"num_blocks": 0}, {"num_blocks": 2**31}, {"block_size": 0}])
def test_a_pool_of_no_size_is_refused(config):
    with pytest.raises(ReplayError, match=r"^\[replay.ReplayConfig\] "):
        ReplayConfig(**config)


def test_bytes_follow_from_the_shape():
    assert ReplayConfig().block_bytes == 16 * 2 * 2 * 2 * 16 * 4
    assert CacheShape(32, 8, 128, "bfloat16").token_bytes == 131_072
    assert CacheShape(1, 1, 2, "int4").token_bytes == 2


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 1, 1), "num_layers is 0"),
        ((1, 0, 1), "num_kv_heads is 0"),
        ((1, 1, -1), "head_dim is -1"),
        ((1, 1, 1, "float31"), "dtype is 'float31'"),
        ((1, 1, 3, "int4"), "head_dim is 3"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(shape, message):
    with pytest.raises(ReplayError, match=message):
        CacheShape(*shape)


LLAMA = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "torch_dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        ({}, CacheShape(32, 8, 128, "bfloat16")),
        ({"head_dim": 96}, CacheShape(32, 8, 96, "bfloat16")),
        ({"head_dim": None}, CacheShape(32, 8, 128, "bfloat16")),
        ({"num_key_value_heads": None}, CacheShape(32, 32, 128, "bfloat16")),
        ({"dtype": "float16"}, CacheShape(32, 8, 128, "float16")),
        ({"torch_dtype": "torch.float8_e4m3fn"}, CacheShape(32, 8, 128, "float8_e4m3")),
        ({"torch_dtype": None}, CacheShape(32, 8, 128, "float32")),
        ({"text_config": {"num_hidden_layers": 4}}, CacheShape(4, 8, 128, "bfloat16")),
    ],
)
def test_a_model_config_gives_the_shape(tmp_path, change, shape):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA | change))
    assert read_model_config(path) == shape


def test_a_given_dtype_goes_before_that_of_the_model_config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA | {"torch_dtype": "auto"}))
    assert read_model_config(path, "int8") == CacheShape(32, 8, 128, "int8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is a JSON list"),
        ("{}", "num_hidden_layers is missing"),
        (json.dumps(LLAMA | {"num_hidden_layers": "32"}), "num_hidden_layers is '32'"),
        (json.dumps({"num_hidden_layers": 2}), "num_attention_heads is missing"),
        (json.dumps(LLAMA | {"hidden_size": None}), "hidden_size is missing"),
        (json.dumps(LLAMA | {"torch_dtype": "int3"}), "dtype is 'int3'"),
        (json.dumps(LLAMA | {"kv_lora_rank": 512}), "latent attention"),
    ],
)
def test_a_model_config_that_says_too_little_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ReplayError, match=message) as caught:
        read_model_config(path)
    assert "\n" not in str(caught.value)


def test_a_missing_model_config_is_one_clear_line(tmp_path):
    with pytest.raises(ReplayError, match="cannot be read"):
        read_model_config(tmp_path / "none.json")


def test_means_are_not_nan():
    report = as_dict(replay(trace_of((1, 0)), ReplayConfig()))
    numbers = [value for value in report["paged"].values() if isinstance(value, float)]
    assert numbers
    assert all(math.isfinite(number) for number in numbers)
