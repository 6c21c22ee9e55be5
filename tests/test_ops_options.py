"""What each option of attention means, one at a time."""

from typing import Any

import numpy as np
import pytest
from support.attention_oracle import Options, attention, relative_error
from support.paged_cases import PagedCase, Sizes, make_case

from pagedkv import ops

pytestmark = pytest.mark.usefixtures("device")


def run(case: PagedCase, **keywords: Any) -> Any:
    return ops.paged_attention(**case.arrays, **{**case.keywords, **keywords})


def case_of(options: Options | None = None, **keywords: Any) -> PagedCase:
    sizes = Sizes([50, 33, 9], [1, 33, 4])
    return make_case(np.random.default_rng(3), sizes, options=options, **keywords)


def test_a_window_of_one_token_gives_that_tokens_value() -> None:
    case = case_of(Options(window=1))
    out = run(case)
    for i, rows in enumerate((slice(0, 1), slice(1, 34), slice(34, 38))):
        values = case.v[i][-(rows.stop - rows.start) :].astype(np.float32)
        np.testing.assert_allclose(out[rows], np.repeat(values, 4, axis=1), rtol=1e-6)


def test_a_window_as_long_as_the_sequence_hides_nothing() -> None:
    case = case_of()
    assert run(case, window=50).tobytes() == run(case).tobytes()


def test_sink_tokens_mean_nothing_without_a_window() -> None:
    case = case_of()
    assert run(case, sink_tokens=4).tobytes() == run(case).tobytes()


def test_queries_that_are_not_causal_see_later_new_tokens() -> None:
    case = case_of(Options(causal=False))
    out, lse = run(case, return_lse=True)
    case.check(out, lse)
    first = case.q[1:2]
    seen, _ = attention(first, case.k[1], case.v[1], Options(causal=False))
    assert relative_error(out[1:2].astype(np.float64), seen) < 1e-5


def test_sink_logits_take_weight_and_give_no_value() -> None:
    case = case_of()
    out, lse = run(case, return_lse=True)
    with_sinks, with_lse = run(case, sink_logits=lse[0], return_lse=True)
    np.testing.assert_allclose(with_sinks[0], out[0] / 2, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(with_lse[0], lse[0] + np.log(2), rtol=1e-5)


def test_sink_logits_of_minus_infinity_change_nothing() -> None:
    case = case_of()
    out = run(case, sink_logits=np.full(8, -np.inf, np.float32))
    np.testing.assert_allclose(out, run(case), rtol=1e-6)


def test_a_large_softcap_changes_little_and_a_small_one_makes_weights_even() -> None:
    case = case_of()
    np.testing.assert_allclose(run(case, softcap=1e4), run(case), rtol=1e-4, atol=1e-5)
    mean = case.v[0].mean(axis=0).repeat(4, axis=0)
    np.testing.assert_allclose(run(case, softcap=1e-6)[0], mean, rtol=1e-3, atol=1e-5)


def test_alibi_slopes_of_zero_change_nothing_and_steep_ones_leave_the_last_token() -> None:
    case = case_of()
    assert run(case, alibi_slopes=np.zeros(8, np.float32)).tobytes() == run(case).tobytes()
    last = case.v[0][-1].repeat(4, axis=0)
    steep = run(case, alibi_slopes=np.full(8, 1e4, np.float32))
    np.testing.assert_allclose(steep[0], last, rtol=1e-5)


def test_a_tree_mask_of_ones_changes_nothing() -> None:
    case = case_of()
    mask = np.ones((38, 33), np.uint8)
    assert run(case, tree_mask=mask).tobytes() == run(case).tobytes()
    assert run(case, tree_mask=mask.astype(np.bool_)).tobytes() == run(case).tobytes()
    assert run(case, tree_mask=mask * 255).tobytes() == run(case).tobytes()


def test_a_branch_of_a_tree_is_what_its_tokens_alone_would_give() -> None:
    # Drafts 0 - 1 - 3 and 0 - 2: of the last four tokens, 3 sees 0, 1 and itself.
    sizes = Sizes([24], [4])
    case = make_case(np.random.default_rng(0), sizes)
    mask = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], np.uint8)
    out = run(case, tree_mask=mask)
    branch = [*range(20), 20, 21, 23]
    expected, _ = attention(case.q[3:], case.k[0][branch], case.v[0][branch], Options())
    assert relative_error(out[3:].astype(np.float64), expected) < 1e-5


def test_a_query_that_a_tree_mask_leaves_nothing_gives_zeros() -> None:
    for length in (4, 1200):
        case = make_case(np.random.default_rng(0), Sizes([length], [4]))
        mask = np.tril(np.ones((4, 4), np.uint8))
        mask[2] = 0
        out, lse = run(case, tree_mask=mask, window=1, return_lse=True)
        assert np.all(out[2] == 0)
        assert np.all(np.isneginf(lse[2]))
        assert np.all(np.isfinite(lse[[0, 1, 3]]))


@pytest.mark.parametrize("dtype", ["int8", "int4", "float8_e4m3"])
def test_scales_of_all_kinds_that_are_equal_give_the_same(dtype: str) -> None:
    case = case_of(dtype=dtype)
    shape = case.arrays["k_cache"].shape[:3]
    expected = run(case, k_scale=0.125, v_scale=0.25)
    for axes in (shape[:2], shape):
        scales = {
            "k_scale": np.full(axes, 0.125, np.float32),
            "v_scale": np.full(axes, 0.25, np.float32),
        }
        out = run(case, **scales)
        np.testing.assert_allclose(
            out, expected, rtol=2e-2 if dtype != "float8_e4m3" else 1e-5, atol=1e-2
        )


@pytest.mark.elements("int8")
def test_scales_may_be_views() -> None:
    case = case_of(dtype="int8", scales="token")
    expected = run(case)
    both = np.stack([case.keywords["k_scale"], case.keywords["v_scale"]], axis=-1)
    out = run(case, k_scale=both[..., 0], v_scale=both[..., 1])
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_exact_is_nearer_than_integer_products(dtype: str) -> None:
    case = make_case(np.random.default_rng(0), Sizes([300] * 4), dtype, scales="head")
    expected, _ = case.expected()
    exact = relative_error(run(case, exact=True).astype(np.float64), expected)
    quick = relative_error(run(case).astype(np.float64), expected)
    assert exact < 1e-5
    assert quick < 1e-2
