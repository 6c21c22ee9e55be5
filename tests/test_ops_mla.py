"""Multi-head latent attention: keys in two parts, values that are the first of them."""

from typing import Any

import numpy as np
import pytest
from support.attention_oracle import Options, attention, relative_error
from support.devices import Device
from support.elements import Array, decode, encode, poison
from support.errors import refuses
from support.paged_cases import RAW, error_limit
from support.pairwise import pairwise

from pagedkv import ShapeError, UnsupportedError, ops

pytestmark = pytest.mark.usefixtures("device")

GRID = pairwise(
    {
        "dtype": ["float32", "float16", "bfloat16", "float8_e4m3", "float8_e5m2", "int8", "int4"],
        "q_dtype": ["float32", "float16", "bfloat16"],
        "rank": [512, 64, 8, 40],
        "rope": [64, 8, 136],
        "heads": [1, 5, 16, 128],
        "block_size": [1, 16, 64],
        "lens": ["decode", "mixed", "long"],
    }
)
LENS: dict[str, tuple[list[int], list[int] | None]] = {
    "decode": ([1, 70, 0, 33], None),
    "mixed": ([40, 9, 21], [3, 0, 21]),
    "long": ([1100], [2]),
}


class LatentCase:
    """A latent cache with NaN in unused slots, and what attention over it must give."""

    def __init__(self, seed: int, row: dict[str, Any]) -> None:
        rng = np.random.default_rng(seed)
        seq_lens, query_lens = LENS[row["lens"]]
        heads, rank, rope = row["heads"], row["rank"], row["rope"]
        self.dtype, self.q_dtype, size = row["dtype"], row["q_dtype"], row["block_size"]
        self.new_tokens = query_lens or [1] * len(seq_lens)
        self.scale = 0.05
        widths = [-(-n // size) for n in seq_lens]
        num_blocks = sum(widths) + 2
        ids = rng.permutation(num_blocks).astype(np.int32)
        tables = np.full((len(seq_lens), max(widths)), -1, np.int32)
        used = np.zeros((num_blocks, size), np.bool_)
        for i, width in enumerate(widths):
            tables[i, :width], ids = ids[:width], ids[width:]
            token = np.arange(seq_lens[i])
            used[tables[i, token // size], token % size] = True

        def pool(channels: int) -> tuple[Array, list[Array]]:
            stored = encode(rng.standard_normal((num_blocks, size, channels)) * 2, self.dtype)
            values = decode(stored, self.dtype)
            stored[~used] = poison(self.dtype)
            dense = [values[tables[i, :w]].reshape(-1, channels) for i, w in enumerate(widths)]
            return stored, [rows[:n, None] for rows, n in zip(dense, seq_lens, strict=True)]

        ckv, self.ckv = pool(rank)
        kpe, self.kpe = pool(rope)
        num_tokens = sum(self.new_tokens)
        q_nope = encode(rng.standard_normal((num_tokens, heads, rank)), self.q_dtype)
        q_pe = encode(rng.standard_normal((num_tokens, heads, rope)), self.q_dtype)
        self.q = np.concatenate([decode(q_nope, self.q_dtype), decode(q_pe, self.q_dtype)], axis=-1)
        self.arrays: dict[str, Any] = {
            "q_nope": q_nope,
            "q_pe": q_pe,
            "ckv_cache": ckv,
            "kpe_cache": kpe,
            "block_tables": tables,
            "seq_lens": np.array(seq_lens, np.int32),
            "scale": self.scale,
        }
        if query_lens is not None:
            self.arrays["query_start_loc"] = np.cumsum([0, *query_lens]).astype(np.int32)
        if self.dtype in RAW:
            self.arrays["dtype"] = self.dtype

    def check(self, out: Array, lse: Array) -> None:
        limit = error_limit(self.dtype, self.q_dtype, exact=True)
        first = 0
        for i, count in enumerate(self.new_tokens):
            keys = np.concatenate([self.ckv[i], self.kpe[i]], axis=-1)
            rows = slice(first, first + count)
            options = Options(scale=self.scale)
            expected, expected_lse = attention(self.q[rows], keys, self.ckv[i], options)
            assert relative_error(decode(out[rows], self.q_dtype), expected) <= limit
            np.testing.assert_allclose(lse[rows], expected_lse, rtol=limit, atol=10 * limit)
            first += count


@pytest.mark.parametrize("row", GRID, ids=lambda row: "-".join(str(x) for x in row.values()))
def test_every_pair_of_shapes_gives_what_dense_attention_gives(
    device: Device, row: dict[str, Any]
) -> None:
    case = LatentCase(5, row)
    if device.name.startswith("metal") and row["rank"] + row["rope"] > 576:
        with refuses(UnsupportedError, "ops.mla_decode", "648 channels", "at most 576"):
            ops.mla_decode(**case.arrays)
        return
    case.check(*ops.mla_decode(**case.arrays, return_lse=True))


def usual() -> LatentCase:
    row = {"dtype": "float32", "q_dtype": "float32", "rank": 64, "rope": 16, "heads": 4}
    return LatentCase(0, row | {"block_size": 16, "lens": "decode"})


def test_both_parts_may_be_views_of_one_array() -> None:
    case = usual()
    joined = np.concatenate([case.arrays["ckv_cache"], case.arrays["kpe_cache"]], axis=-1)
    queries = np.concatenate([case.arrays["q_nope"], case.arrays["q_pe"]], axis=-1)
    arrays = case.arrays | {
        "ckv_cache": joined[..., :64],
        "kpe_cache": joined[..., 64:],
        "q_nope": queries[..., :64],
        "q_pe": queries[..., 64:],
    }
    expected = ops.mla_decode(**case.arrays)
    assert ops.mla_decode(**arrays).tobytes() == expected.tobytes()


def test_results_go_into_out() -> None:
    case = usual()
    out = np.empty((4, 4, 64), np.float32)
    assert ops.mla_decode(**case.arrays, out=out) is out
    assert out.tobytes() == ops.mla_decode(**case.arrays).tobytes()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"q_pe": np.zeros((4, 4, 8), np.float32)}, "q_pe with a head_dim of 8"),
    ({"q_pe": np.zeros((3, 4, 16), np.float32)}, "q_pe with tokens of 3"),
    ({"q_pe": np.zeros((4, 3, 16), np.float32)}, "q_pe with heads of 3"),
    ({"q_pe": np.zeros((4, 4, 16), np.float16)}, "q_pe of float16"),
    ({"kpe_cache": np.zeros((1, 16, 16), np.float32)}, "kpe_cache of 1 blocks"),
    ({"kpe_cache": np.zeros((12, 16, 0), np.float32)}, "kpe_cache with no elements"),
    ({"kpe_cache": np.zeros((12, 16, 1, 16), np.float32)}, "kpe_cache of shape (12, 16, 1, 16)"),
    ({"scale": np.inf}, "scale is inf"),
]


@pytest.mark.parametrize(("wrong", "given"), WRONG, ids=[given for _, given in WRONG])
def test_parts_that_do_not_go_together_are_refused(wrong: dict[str, Any], given: str) -> None:
    arrays = usual().arrays | wrong
    with refuses(ShapeError, "ops.mla_decode", given):
        ops.mla_decode(**arrays)


def test_float64_is_refused() -> None:
    arrays = usual().arrays
    for name in ("q_nope", "q_pe", "ckv_cache", "kpe_cache"):
        arrays[name] = arrays[name].astype(np.float64)
    with refuses(UnsupportedError, "ops.mla_decode", "float64"):
        ops.mla_decode(**arrays)
