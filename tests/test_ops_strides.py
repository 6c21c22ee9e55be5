"""Results do not depend on how arguments lie in memory."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.attention_oracle import Options
from support.devices import Device
from support.paged_cases import PagedCase, Sizes, make_case
from support.values import DTYPES

from pagedkv import ops

pytestmark = pytest.mark.usefixtures("device")


def apart(rng: np.random.Generator, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same elements in a larger array, its dimensions but the last in any order."""
    *outer, last = array.shape
    order = rng.permutation(len(outer))
    room = [outer[i] + int(rng.integers(3)) for i in order]
    memory = np.empty((*room, last + 8 * int(rng.integers(3))), array.dtype)
    memory.view(np.uint8)[...] = 0xFF
    view = memory.transpose(*np.argsort(order), len(outer))
    view = view[(*map(slice, outer), slice(last))]
    view[...] = array
    return view


def scattered(rng: np.random.Generator, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same elements with gaps between all of them."""
    steps = [int(rng.integers(1, 4)) for _ in array.shape]
    memory = np.zeros([n * step for n, step in zip(array.shape, steps, strict=True)], array.dtype)
    view = memory[tuple(slice(None, None, step) for step in steps)]
    view[...] = array
    return view


def options_of(rng: np.random.Generator, num_heads: int) -> Options:
    def some(value: Any) -> Any:
        return value if rng.random() < 0.4 else None

    return Options(
        scale=some(float(rng.choice([0.0, -0.3, 1.0]))),
        causal=bool(rng.random() < 0.7),
        window=some(int(rng.integers(1, 100))),
        sink_tokens=int(rng.choice([0, 7, 5000])),
        sink_logits=some(rng.standard_normal(num_heads)),
        softcap=some(float(rng.choice([0.5, 50]))),
        alibi_slopes=some(rng.standard_normal(num_heads) * 0.2),
    )


def case_of(rng: np.random.Generator, dtype: str, layout: str, scales: list[str]) -> PagedCase:
    seq_lens = [int(rng.choice([0, 1, rng.integers(20), rng.integers(200)])) for _ in range(3)]
    query_lens = [min(int(rng.choice([0, 1, 2, rng.integers(30)])), n) for n in seq_lens]
    sizes = Sizes(
        seq_lens,
        query_lens,
        head_dim=8 * int(rng.integers(1, 18)),
        v_head_dim=8 * int(rng.integers(1, 18)),
        num_kv_heads=int(rng.integers(1, 4)),
        ratio=int(rng.choice([1, 2, 3, 4, 8, 9])),
        block_size=int(rng.choice([1, 3, 16, 100])),
        layout=layout,
    )
    q_dtype = str(rng.choice(["float32", "float16", "bfloat16"]))
    return make_case(
        rng,
        sizes,
        dtype,
        "float64" if dtype == "float64" else q_dtype,
        options_of(rng, sizes.num_kv_heads * sizes.ratio),
        scales=str(rng.choice(scales)),
        tree=bool(rng.random() < 0.4),
        exact=bool(rng.random() < 0.5),
    )


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["HND", "NHD"]),
)
def test_attention_of_any_options_gives_the_same_bits_however_its_arguments_lie(
    device: Device, seed: int, dtype: str, layout: str
) -> None:
    assume(dtype in device.dtypes)
    rng = np.random.default_rng(seed)
    scales = [kind for kind in ("tensor", "head", "token") if kind not in device.refuses]
    case = case_of(rng, dtype, layout, scales)
    expected, expected_lse = ops.paged_attention(**case.arrays, **case.keywords, return_lse=True)
    case.check(expected, expected_lse)
    arrays, keywords = dict(case.arrays), dict(case.keywords)
    for name in ("q", "k_cache", "v_cache"):
        arrays[name] = apart(rng, arrays[name])
    for name in ("block_tables", "seq_lens"):
        arrays[name] = scattered(rng, arrays[name].astype(rng.choice([np.int32, np.int64])))
    keywords["query_start_loc"] = keywords["query_start_loc"][::-1].copy()[::-1]
    for name in ("k_scale", "v_scale"):
        if not np.isscalar(keywords[name]):
            keywords[name] = scattered(rng, keywords[name])
    if "tree_mask" in keywords:
        keywords["tree_mask"] = apart(rng, keywords["tree_mask"])
    out = apart(rng, np.zeros_like(expected))
    memory = out.base
    assert memory is not None
    result, lse = ops.paged_attention(**arrays, **keywords, out=out, return_lse=True)
    assert result is out
    assert out.tobytes() == expected.tobytes()
    assert lse.tobytes() == expected_lse.tobytes()
    out[...] = np.zeros_like(expected)
    out.view(np.uint8)[...] = 0xFF
    assert np.all(memory.view(np.uint8) == 0xFF), "bytes beside the result have changed"
