"""What is wrong with a call of attention is said before anything is read or written."""

from typing import Any

import numpy as np
import pytest
from support.attention_oracle import Options
from support.errors import refuses
from support.paged_cases import PagedCase, Sizes, make_case

from pagedkv import InvalidSlotError, ShapeError, UnsupportedError, ops

WHERE = "ops.paged_attention"


def case_of(*, query_lens: list[int] | None = None, **keywords: Any) -> PagedCase:
    return make_case(np.random.default_rng(2), Sizes([40, 3, 17], query_lens), **keywords)


def refuse(
    case: PagedCase, changes: dict[str, Any], given: str, error: type[Exception] = ShapeError
) -> None:
    keywords = {**case.arrays, **case.keywords, **changes}
    out = np.full((len(keywords["q"]), 8, 64), 7, np.float32)
    keywords.setdefault("out", out)
    with refuses(error, WHERE, given, unchanged=(out,)):
        ops.paged_attention(**keywords)


def zeros(*shape: int, dtype: Any = np.float32) -> Any:
    return np.zeros(shape, dtype)


# The pools of `case_of` have 9 blocks of 2 heads and 16 slots of 64 elements.
ARRAYS: list[tuple[dict[str, Any], str]] = [
    ({"q": zeros(3, 64)}, "q of shape (3, 64)"),
    ({"q": zeros(3, 8, 64, 1)}, "q of shape (3, 8, 64, 1)"),
    ({"q": zeros(3, 8, 64, 1, 1)}, "q of shape (3, 8, 64, 1, 1)"),
    ({"q": zeros(2, 8, 64)}, "q with tokens of 2"),
    ({"q": zeros(3, 7, 64)}, "7 query heads for 2"),
    ({"q": zeros(3, 130, 64)}, "130 query heads for 2"),
    ({"q": zeros(3, 0, 64)}, "q [3, 0, 64]"),
    ({"q": zeros(3, 8, 32)}, "q with a head_dim of 32"),
    ({"q": zeros(3, 8, 64, dtype=np.float64)}, "q of float64 for a cache of float32"),
    ({"q": zeros(3, 8, 64, dtype=np.int8)}, "q of int8"),
    ({"k_cache": zeros(9, 2, 16)}, "k_cache of shape (9, 2, 16)"),
    ({"k_cache": zeros(9, 2, 16, 64, dtype=np.float64)}, "v_cache of 9 blocks"),
    ({"v_cache": zeros(8, 2, 16, 64)}, "v_cache of 8 blocks"),
    ({"v_cache": zeros(9, 1, 16, 64)}, "v_cache of 9 blocks of 1 heads"),
    ({"v_cache": zeros(9, 2, 8, 64)}, "v_cache of 9 blocks of 2 heads and 8 slots"),
    ({"v_cache": zeros(9, 2, 16, 64, dtype=np.float16)}, "v_cache of 9 blocks"),
    ({"v_cache": zeros(9, 2, 16, 12)}, "v_cache with a head_dim of 12"),
    ({"v_cache": zeros(9, 2, 16, 520)}, "v_cache with a head_dim of 520"),
    ({"v_cache": zeros(9, 2, 16, 32)}, "out with a head_dim of 64"),
    ({"k_cache": zeros(9, 0, 16, 64)}, "k_cache [9, 0, 16, 64]"),
    ({"k_cache": zeros(9, 2, 0, 64)}, "k_cache [9, 2, 0, 64]"),
    ({"k_cache": zeros(9, 2, 16, 0)}, "k_cache [9, 2, 16, 0]"),
    ({"out": zeros(3, 8, 32)}, "out with a head_dim of 32"),
    ({"out": zeros(3, 4, 64)}, "out with heads of 4"),
    ({"out": zeros(4, 8, 64)}, "out with tokens of 4"),
    ({"out": zeros(3, 8, 64, dtype=np.float16)}, "out of float16"),
    ({"out": zeros(3, 512)}, "out of shape (3, 512)"),
    ({"block_tables": zeros(3, dtype=np.int32)}, "block_tables of shape (3,)"),
    ({"block_tables": zeros(2, 5, dtype=np.int32)}, "block_tables of 2 rows"),
    ({"block_tables": zeros(3, 2, dtype=np.int32)}, "seq_lens[0] is 40, which takes 3 blocks"),
    ({"block_tables": zeros(3, 5)}, "block_tables of float32"),
    ({"block_tables": [[0, 1, 2], [3]]}, "block_tables that is no array"),
    ({"seq_lens": zeros(3)}, "seq_lens of float32"),
    ({"seq_lens": zeros(3, 1, dtype=np.int32)}, "seq_lens of shape (3, 1)"),
    ({"seq_lens": [40, 3]}, "block_tables of 3 rows"),
    ({"seq_lens": [40, -1, 17]}, "seq_lens[1] is -1"),
    ({"seq_lens": [40, 2**31, 17]}, "seq_lens with a value beyond int32"),
    ({"query_start_loc": [0, 1, 3]}, "query_start_loc of 3 entries"),
    ({"query_start_loc": [1, 1, 2, 3]}, "query_start_loc from 1 to 3"),
    ({"query_start_loc": [0, 1, 2, 4]}, "query_start_loc from 0 to 4"),
    ({"query_start_loc": [0, 2, 1, 3]}, "query_start_loc that falls after sequence 1"),
    ({"seq_lens": [1, 3, 17], "query_start_loc": [0, 2, 2, 3]}, "seq_lens[0] is 1 for 2 new"),
]


@pytest.mark.parametrize(("wrong", "given"), ARRAYS, ids=[given for _, given in ARRAYS])
def test_arrays_that_do_not_go_together_are_refused(wrong: dict[str, Any], given: str) -> None:
    refuse(case_of(), wrong, given)


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"scale": float("nan")}, "scale is nan"),
    ({"scale": float("inf")}, "scale is inf"),
    ({"softcap": 0.0}, "softcap is 0"),
    ({"softcap": -3.0}, "softcap is -3"),
    ({"softcap": float("inf")}, "softcap is inf"),
    ({"window": 0}, "window is 0"),
    ({"window": -5}, "window is -5"),
    ({"sink_tokens": -1}, "sink_tokens is -1"),
    ({"layout": "hnd"}, "layout 'hnd'"),
    ({"sink_logits": zeros(7)}, "sink_logits of float32 and shape (7,)"),
    ({"sink_logits": zeros(8, dtype=np.float64)}, "sink_logits of float64"),
    ({"sink_logits": [1.0] * 9}, "sink_logits of float32 and shape (9,)"),
    ({"alibi_slopes": zeros(8, 1)}, "alibi_slopes of float32 and shape (8, 1)"),
    ({"tree_mask": zeros(3, 1)}, "tree_mask of float32"),
    ({"tree_mask": zeros(2, 1, dtype=np.uint8)}, "tree_mask of shape (2, 1)"),
    ({"tree_mask": zeros(3, 0, dtype=np.uint8)}, "tree_mask of shape (3, 0)"),
    ({"k_scale": zeros(9, 3)}, "k_scale of shape (9, 3)"),
    ({"k_scale": zeros(9)}, "k_scale of shape (9,)"),
    ({"v_scale": zeros(9, 2, 8)}, "v_scale of shape (9, 2, 8)"),
    ({"v_scale": zeros(9, 2, dtype=np.float64)}, "v_scale of float64"),
    ({"scale": 1e39}, "scale is 9999"),
    ({"v_scale": float("nan")}, "v_scale is nan"),
    ({"v_scale": 1e300}, "v_scale is 1e+300"),
    ({"k_scale": "1"}, "k_scale of type str"),
]


@pytest.mark.parametrize(("wrong", "given"), OPTIONS, ids=[given for _, given in OPTIONS])
def test_options_out_of_range_are_refused(wrong: dict[str, Any], given: str) -> None:
    refuse(case_of(), wrong, given)


def test_a_dtype_that_is_not_stored_is_refused() -> None:
    with refuses(UnsupportedError, WHERE, "dtype float128"):
        ops.paged_attention(**case_of().arrays, dtype="float128")


@pytest.mark.parametrize("block", [-1, 9, 2**31 - 1, -(2**31)])
def test_a_block_id_outside_the_cache_is_refused(block: int) -> None:
    for seq, at in ((0, 0), (0, 2), (1, 0), (2, 1)):
        case = case_of()
        case.arrays["block_tables"][seq, at] = block
        with refuses(InvalidSlotError, WHERE, f"block id {block} of sequence {seq}, block {at}"):
            ops.paged_attention(**case.arrays)


def test_block_ids_behind_a_sequence_may_be_anything() -> None:
    case = case_of()
    expected = ops.paged_attention(**case.arrays)
    tables = case.arrays["block_tables"]
    tables[tables < 0] = 2**31 - 1
    assert ops.paged_attention(**case.arrays).tobytes() == expected.tobytes()


def test_block_ids_that_a_window_hides_may_be_anything_and_the_others_may_not() -> None:
    options = Options(window=20, sink_tokens=17)
    case = make_case(np.random.default_rng(0), Sizes([200]), options=options)
    tables = case.arrays["block_tables"]
    hidden = np.flatnonzero(tables[0] == -1)
    assert hidden[0] == 2
    assert 10 in hidden
    tables[0, hidden] = -(2**31)
    case.check(*ops.paged_attention(**case.arrays, **case.keywords, return_lse=True))
    for seen in (0, 1, 11, 12):
        kept, tables[0, seen] = tables[0, seen], -1
        with refuses(InvalidSlotError, WHERE, f"block {seen}"):
            ops.paged_attention(**case.arrays, **case.keywords)
        tables[0, seen] = kept


def test_block_ids_of_a_sequence_with_nothing_new_are_not_looked_at() -> None:
    case = case_of(query_lens=[1, 0, 2])
    case.arrays["block_tables"][1] = -1
    case.check(*ops.paged_attention(**case.arrays, **case.keywords, return_lse=True))


def test_a_window_of_any_length_beyond_all_tokens_is_none() -> None:
    case = case_of()
    expected = ops.paged_attention(**case.arrays)
    for window in (40, 2**31 - 1, 2**31, 2**63 - 1, 2**64 - 1):
        assert ops.paged_attention(**case.arrays, window=window).tobytes() == expected.tobytes()
    out = ops.paged_attention(**case.arrays, sink_tokens=2**64 - 1, window=3)
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["window", "sink_tokens"])
def test_numbers_that_are_no_integers_are_a_type_error(name: str) -> None:
    with pytest.raises(TypeError):
        ops.paged_attention(**case_of().arrays, **{name: 1.5})


def test_options_are_named() -> None:
    with pytest.raises(TypeError):
        ops.paged_attention(*case_of().arrays.values(), None)  # type: ignore[call-overload]
