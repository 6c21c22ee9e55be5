"""Results are at most twice as wrong as the same arithmetic done plainly, by NumPy or torch.

Both errors are those against attention in a wider float over what the cache holds, dequantised.
"""

import zlib
from typing import Any

import numpy as np
import pytest
from support.attention_oracle import Options, attention, relative_error
from support.paged_cases import PagedCase, Sizes, make_case
from support.pairwise import pairwise
from support.plain_attention import DIRECT_ROWS, plain_result, sequence_parts, uses_integers
from support.values import DTYPES

from pagedkv import ops

pytestmark = pytest.mark.usefixtures("device")

# Lengths and new tokens. Drafts are multiplied as decode is, chunks are not.
BATCHES: dict[str, tuple[list[int], list[int]]] = {
    "decode": ([700, 37, 128, 1, 90, 513, 64, 200], [1] * 8),
    "drafts": ([600, 33, 80, 150], [2] * 4),
    "chunks": ([300, 64, 20], [20, 16, 20]),
}
# Scores of about 1, that leave every token its weight, and of about 8, that leave few tokens any.
SCALES = {"even": None, "peaked": 1.0}

GRID = pairwise(
    {
        "dtype": DTYPES,
        "q_dtype": ["float32", "float16", "bfloat16"],
        "batch": list(BATCHES),
        "exact": [False, True],
        "weights": list(SCALES),
        "scales": ["tensor", "head", "token"],
        "head_dim": [64, 128, 40],
        "ratio": [4, 1],
        "layout": ["HND", "NHD"],
    }
)


def case_of(
    dtype: str, q_dtype: str, batch: str, weights: str = "even", scales: str = "head",
    exact: bool = False, **shape: Any,
) -> PagedCase:  # fmt: skip
    sizes = Sizes(*BATCHES[batch], num_kv_heads=4, **shape)
    seed = zlib.crc32(repr((dtype, q_dtype, batch, weights, scales, exact, shape)).encode())
    options = Options(scale=SCALES[weights])
    wide = "float64" if dtype == "float64" else q_dtype
    rng = np.random.default_rng(seed)
    return make_case(rng, sizes, dtype, wide, options, scales=scales, exact=exact)


def exact_result(case: PagedCase) -> Any:
    """In a float wider than float64, where that is what is judged."""
    kind = np.longdouble if case.q_dtype == "float64" else np.float64
    parts = [
        attention(q.astype(kind), k.astype(kind), v.astype(kind), case.options)[0]
        for q, k, v in sequence_parts(case)
    ]
    return np.concatenate(parts)


def error_of_ours(case: PagedCase, expected: Any) -> float:
    result = ops.paged_attention(**case.arrays, **case.keywords)
    return relative_error(case.values_of(result), expected)


@pytest.mark.parametrize("row", GRID, ids=lambda row: "-".join(str(x) for x in row.values()))
def test_ours_are_at_most_twice_as_wrong_as_numpys(row: dict[str, Any]) -> None:
    case = case_of(**row)
    if case.q_dtype == "float64" and np.finfo(np.longdouble).eps == np.finfo(np.float64).eps:
        pytest.skip("no float here is wider than float64")
    expected = exact_result(case)
    ours, theirs = error_of_ours(case, expected), relative_error(plain_result(case), expected)
    assert ours <= 2 * theirs, f"{ours:.2e} > 2 x {theirs:.2e}"


@pytest.mark.only_on("cpu")
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_integers_are_what_the_error_of_decode_comes_from(dtype: str) -> None:
    case = case_of(dtype, "float32", "decode")
    assert uses_integers(case)
    expected = exact_result(case)
    ours, theirs = error_of_ours(case, expected), relative_error(plain_result(case), expected)
    assert 1e-6 < theirs < 1e-3
    assert theirs / 2 <= ours


@pytest.mark.only_on("cpu")
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_chunks_of_many_rows_are_products_of_floats(dtype: str) -> None:
    case = case_of(dtype, "float32", "chunks")
    assert min(case.sizes.new_tokens) * case.sizes.ratio > DIRECT_ROWS
    assert error_of_ours(case, exact_result(case)) < 1e-6


def torchs_result(torch: Any, case: PagedCase) -> Any:
    """Plain products in the dtype of the queries, over a cache that is converted to it."""
    kind = getattr(torch, case.q_dtype)
    parts = []
    for values in sequence_parts(case):
        q, k, v = (torch.from_numpy(x).to(kind).transpose(0, 1) for x in values)
        k, v = (x.repeat_interleave(case.sizes.ratio, dim=0) for x in (k, v))
        scores = q @ k.transpose(1, 2) * (case.options.scale or q.shape[2] ** -0.5)
        new_tokens, length = scores.shape[1:]
        seen = torch.ones(new_tokens, length, dtype=torch.bool).tril(length - new_tokens)
        weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
        parts.append((weights @ v).transpose(0, 1).double().numpy())
    return np.concatenate(parts)


# Metal's float32 is up to 2.5 times as wrong as torch's where weights are peaked: docs/backends.md.
@pytest.mark.only_on("cpu", "cuda")
@pytest.mark.parametrize("batch", list(BATCHES))
@pytest.mark.parametrize("weights", list(SCALES))
@pytest.mark.parametrize(
    ("dtype", "q_dtype"),
    [
        ("float64", "float64"),
        ("float32", "float32"),
        ("float16", "float16"),
        ("bfloat16", "bfloat16"),
        ("bfloat16", "float32"),
        ("float8_e4m3", "float32"),
        ("float8_e5m2", "bfloat16"),
        ("int8", "float32"),
        ("int4", "float32"),
    ],
)
def test_ours_are_at_most_twice_as_wrong_as_torchs(
    dtype: str, q_dtype: str, weights: str, batch: str
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    # Arrays of scales are what not every device takes, and what only small elements need.
    scales = "head" if dtype.startswith(("float8", "int")) else "tensor"
    case = case_of(dtype, q_dtype, batch, weights, scales, exact=True)
    expected = exact_result(case)
    theirs = relative_error(torchs_result(torch, case), expected)
    assert error_of_ours(case, expected) <= 2 * theirs
