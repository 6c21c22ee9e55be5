"""Paged attention gives what dense attention in float64 gives."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.attention_oracle import Options
from support.devices import Device
from support.paged_cases import PagedCase, Sizes, make_case
from support.pairwise import pairwise
from support.values import DTYPES

import pagedkv
from pagedkv import ops

pytestmark = pytest.mark.usefixtures("device")

# Lengths and new tokens: decode, chunks, and both with sequences that have nothing new.
BATCHES: dict[str, tuple[list[int], list[int] | None]] = {
    "decode": ([1, 70, 0, 133], None),
    "chunks": ([9, 140, 65], [9, 23, 1]),
    "mixed": ([30, 0, 77, 17], [1, 0, 5, 0]),
    "drafts": ([33, 2], [2, 2]),
}

GRID = pairwise(
    {
        "head_dim": [64, 80, 96, 112, 128, 192, 256, 8, 40, 512],
        "ratio": [1, 2, 3, 4, 5, 8, 16, 64],
        "block_size": [1, 8, 16, 32, 64, 128, 256],
        "dtype": DTYPES,
        "q_dtype": ["float32", "float16", "bfloat16"],
        "layout": ["HND", "NHD"],
        "batch": list(BATCHES),
        "window": [None, 1, 20, 100],
        "sink_tokens": [0, 5, 40],
        "sink_logits": [False, True],
        "softcap": [None, 2.0],
        "alibi": [False, True],
        "tree": [False, True],
        "causal": [True, False],
        "v_head_dim": ["the same", 16, 136],
        "scales": [None, "tensor", "head", "token"],
        "exact": [False, True],
    }
)


def grid_case(rng: np.random.Generator, row: dict[str, Any]) -> PagedCase:
    seq_lens, query_lens = BATCHES[row["batch"]]
    v_head_dim = None if row["v_head_dim"] == "the same" else row["v_head_dim"]
    sizes = Sizes(
        seq_lens,
        query_lens,
        row["head_dim"],
        v_head_dim,
        num_kv_heads=1 if row["ratio"] > 8 else 2,
        ratio=row["ratio"],
        block_size=row["block_size"],
        layout=row["layout"],
    )
    heads = sizes.num_kv_heads * sizes.ratio
    options = Options(
        causal=row["causal"],
        window=row["window"],
        sink_tokens=row["sink_tokens"],
        sink_logits=rng.standard_normal(heads) if row["sink_logits"] else None,
        softcap=row["softcap"],
        alibi_slopes=rng.uniform(0.01, 0.5, heads) if row["alibi"] else None,
    )
    q_dtype = "float64" if row["dtype"] == "float64" else row["q_dtype"]
    return make_case(
        rng,
        sizes,
        row["dtype"],
        q_dtype,
        options,
        scales=row["scales"],
        tree=row["tree"],
        exact=row["exact"],
    )


def run(case: PagedCase, **keywords: Any) -> tuple[Any, Any]:
    return ops.paged_attention(**case.arrays, **{**case.keywords, **keywords}, return_lse=True)


@pytest.mark.parametrize("row", GRID, ids=lambda row: "-".join(str(x) for x in row.values()))
def test_every_pair_of_options_gives_what_dense_attention_gives(row: dict[str, Any]) -> None:
    case = grid_case(np.random.default_rng(4), row)
    case.check(*run(case))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_batch_of_64_sequences_of_all_lengths(rng: np.random.Generator, dtype: str) -> None:
    seq_lens = [int(x) for x in rng.integers(1, 400, 64)]
    query_lens = [min(int(rng.choice([0, 1, 1, 1, 7, 60])), n) for n in seq_lens]
    case = make_case(rng, Sizes(seq_lens, query_lens, num_kv_heads=1), dtype, scales="tensor")
    case.check(*run(case))


@pytest.mark.parametrize("ratio", [1, 4])
@pytest.mark.parametrize("new_tokens", [1, 3, 70])
def test_long_sequences_are_cut_into_pieces_that_merge(
    rng: np.random.Generator, ratio: int, new_tokens: int
) -> None:
    sizes = Sizes([3000, 513, 512], [new_tokens] * 3, ratio=ratio, num_kv_heads=1)
    for options in (Options(), Options(window=700, sink_tokens=4), Options(softcap=5.0)):
        case = make_case(rng, sizes, options=options)
        case.check(*run(case))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_scores_that_grow_along_the_sequence_are_rescaled(
    rng: np.random.Generator, dtype: str
) -> None:
    case = make_case(rng, Sizes([900, 40], [1, 20]), dtype, "float32", Options(scale=6.0))
    case.check(*run(case, exact=True) if dtype == "int8" else run(case))


def test_a_sequence_of_no_tokens_gives_zeros_and_no_weight() -> None:
    case = make_case(np.random.default_rng(0), Sizes([0, 0, 5]))
    out, lse = run(case)
    assert np.all(out[:2] == 0)
    assert np.all(np.isneginf(lse[:2]))
    assert np.all(np.isfinite(lse[2]))


def test_a_sequence_of_no_tokens_with_sink_logits_has_them_as_its_lse() -> None:
    logits = np.arange(8, dtype=np.float64)
    case = make_case(np.random.default_rng(0), Sizes([0]), options=Options(sink_logits=logits))
    out, lse = run(case)
    assert np.all(out == 0)
    np.testing.assert_allclose(lse[0], logits, rtol=1e-6)


def test_a_batch_of_no_sequences_gives_no_rows() -> None:
    case = make_case(np.random.default_rng(0), Sizes([3]))
    arrays = case.arrays | {
        "q": case.arrays["q"][:0],
        "block_tables": np.zeros((0, 4), np.int32),
        "seq_lens": np.zeros(0, np.int32),
    }
    assert ops.paged_attention(**arrays).shape == (0, 8, 64)


def test_a_sequence_of_one_token_gives_its_value(rng: np.random.Generator) -> None:
    case = make_case(rng, Sizes([1], ratio=1))
    out, lse = run(case)
    np.testing.assert_allclose(out[0], case.v[0][0], rtol=1e-6)
    scores = np.einsum("hd,hd->h", case.q[0], case.k[0][0]) / 8
    np.testing.assert_allclose(lse[0], scores, rtol=1e-5, atol=1e-5)


# Results that do not depend on what else is computed


@pytest.fixture
def threads() -> Any:
    before = pagedkv.get_num_threads()
    yield pagedkv.set_num_threads
    pagedkv.set_num_threads(before)


@pytest.mark.only_on("cpu")
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float8_e4m3", "int8", "int4"])
def test_the_number_of_threads_changes_no_bit(
    rng: np.random.Generator, threads: Any, dtype: str
) -> None:
    sizes = Sizes([1200, 60, 2000, 333], [1, 40, 3, 333], head_dim=40)
    case = make_case(rng, sizes, dtype, scales="head")
    results = []
    for number in (1, 2, 3, 7):
        threads(number)
        results.append(run(case, batch_invariant=True))
    for out, lse in results[1:]:
        assert out.tobytes() == results[0][0].tobytes()
        assert lse.tobytes() == results[0][1].tobytes()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "int8"])
def test_the_rest_of_the_batch_changes_no_bit(rng: np.random.Generator, dtype: str) -> None:
    sizes = Sizes([700, 1, 64, 1100, 90], [1, 1, 64, 5, 17])
    case = make_case(rng, sizes, dtype)
    together, lse_together = run(case, batch_invariant=True)
    starts = case.keywords["query_start_loc"]
    for i, first in enumerate(starts[:-1]):
        rows = slice(first, starts[i + 1])
        alone = case.arrays | {
            "q": case.arrays["q"][rows],
            "block_tables": case.arrays["block_tables"][i : i + 1],
            "seq_lens": case.arrays["seq_lens"][i : i + 1],
        }
        keywords = case.keywords | {"query_start_loc": [0, rows.stop - rows.start]}
        keywords["batch_invariant"] = True
        out, lse = ops.paged_attention(**alone, **keywords, return_lse=True)
        assert out.tobytes() == together[rows].tobytes()
        assert lse.tobytes() == lse_together[rows].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_where_blocks_lie_changes_no_bit(rng: np.random.Generator, dtype: str) -> None:
    case = make_case(rng, Sizes([300, 41], [1, 20]), dtype)
    moved = dict(case.arrays)
    order = rng.permutation(len(case.arrays["k_cache"]))
    for name in ("k_cache", "v_cache"):
        moved[name] = case.arrays[name][order]
    tables = case.arrays["block_tables"]
    moved["block_tables"] = np.where(tables < 0, -1, np.argsort(order)[tables]).astype(np.int32)
    out, lse = run(case)
    again, lse_again = ops.paged_attention(**moved, **case.keywords, return_lse=True)
    assert again.tobytes() == out.tobytes()
    assert lse_again.tobytes() == lse.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "int4"])
def test_both_layouts_give_the_same_bits(rng: np.random.Generator, dtype: str) -> None:
    case = make_case(rng, Sizes([100, 41], [1, 20]), dtype)
    arrays = dict(case.arrays)
    for name in ("k_cache", "v_cache"):
        arrays[name] = arrays[name].transpose(0, 2, 1, 3).copy()
    out, _ = run(case)
    again = ops.paged_attention(**arrays, **{**case.keywords, "layout": "NHD"})
    assert again.tobytes() == out.tobytes()


# What is stored where


@pytest.mark.parametrize("which", ["k_cache", "v_cache"])
def test_a_nan_that_a_query_sees_reaches_its_result(rng: np.random.Generator, which: str) -> None:
    for sizes in (Sizes([40]), Sizes([40], [20])):
        case = make_case(rng, sizes)
        case.arrays[which][case.arrays["block_tables"][0, 0], 1, 3, 5] = np.nan
        out, lse = run(case)
        assert np.all(np.isnan(out[:, 4:]).any(axis=-1))
        assert np.all(np.isfinite(out[:, :4]))
        assert np.all(np.isnan(lse[:, 4:]) == (which == "k_cache"))


def test_one_block_may_serve_several_sequences(rng: np.random.Generator) -> None:
    case = make_case(rng, Sizes([48, 48]))
    case.arrays["block_tables"][1] = case.arrays["block_tables"][0]
    case.arrays["q"][1] = case.arrays["q"][0]
    out, _ = run(case)
    assert out[0].tobytes() == out[1].tobytes()


def test_offsets_beyond_two_to_the_31_elements(rng: np.random.Generator) -> None:
    # 2^33 bytes of which nobody touches more than a few pages.
    shape = (2**21 + 64, 1, 16, 64)
    try:
        k_cache, v_cache = (np.zeros(shape, np.float32) for _ in range(2))
    except MemoryError:
        pytest.skip("this system does not promise memory that is not touched")
    case = make_case(rng, Sizes([60], num_kv_heads=1))
    far = np.array([2**21 + 63, 5, 2**21 + 1, 2**20 + 3], dtype=np.int32)
    near = case.arrays["block_tables"][0, :4]
    k_cache[far], v_cache[far] = case.arrays["k_cache"][near], case.arrays["v_cache"][near]
    arrays = case.arrays | {"k_cache": k_cache, "v_cache": v_cache, "block_tables": far[None]}
    out, lse = ops.paged_attention(**arrays, return_lse=True)
    case.check(out, lse)


# Any shape

LENGTHS = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=4)


@settings(max_examples=60)
@given(
    lengths=LENGTHS,
    head_dim=st.integers(1, 20),
    v_head_dim=st.integers(1, 20),
    ratio=st.integers(1, 13),
    num_kv_heads=st.integers(1, 3),
    block_size=st.integers(1, 40),
    window=st.none() | st.integers(1, 100),
    sink_tokens=st.integers(0, 50),
    causal=st.booleans(),
    tree=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["HND", "NHD"]),
    seed=st.integers(0, 2**16),
)
def test_any_shape_gives_what_dense_attention_gives(
    device: Device, lengths: list[tuple[int, int]], window: int | None, sink_tokens: int,
    causal: bool, tree: bool, dtype: str, seed: int, **shape: Any,
) -> None:  # fmt: skip
    assume(dtype in device.dtypes)
    seq_lens = [length for length, _ in lengths]
    query_lens = [min(new, length) for length, new in lengths]
    sizes = Sizes(seq_lens, query_lens, **shape)
    sizes = dataclasses.replace(
        sizes, head_dim=8 * sizes.head_dim, v_head_dim=8 * (sizes.v_head_dim or 1)
    )
    options = Options(window=window, sink_tokens=sink_tokens, causal=causal)
    case = make_case(
        np.random.default_rng(seed),
        sizes,
        dtype,
        None,
        options,
        tree=tree,
        scales="tensor" if "head" in device.refuses else "head",
        exact=True,
    )
    case.check(*run(case))
