"""The arrays of NumPy, torch and others go in as they lie, and results come in kind."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from support.elements import decode, encode
from support.errors import refuses
from support.paged_cases import PagedCase, Sizes, make_case

import pagedkv
from pagedkv import BlockAllocator, KvCache, ShapeError, UnsupportedError, ops

WHERE = "ops.paged_attention"


def case_of(dtype: str = "float32", q_dtype: str | None = None, **keywords: Any) -> PagedCase:
    return make_case(np.random.default_rng(1), Sizes([40, 3, 0]), dtype, q_dtype, **keywords)


def run(case: PagedCase, **changes: Any) -> Any:
    keywords = {k: changes.pop(k) for k in list(changes) if k not in case.arrays}
    return ops.paged_attention(**{**case.arrays, **changes}, **{**case.keywords, **keywords})


# NumPy


def test_ml_dtypes_arrays_say_what_they_hold() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    names = {"bfloat16": "bfloat16", "float8_e4m3": "float8_e4m3fn", "float8_e5m2": "float8_e5m2"}
    for dtype, name in names.items():
        case = case_of(dtype, "bfloat16")
        theirs = {
            array: case.arrays[array].view(getattr(ml_dtypes, name))
            for array in ("k_cache", "v_cache")
        }
        q = case.arrays["q"].view(ml_dtypes.bfloat16)
        out = run(case, **theirs, q=q, dtype=None)
        assert out.dtype == ml_dtypes.bfloat16
        assert out.tobytes() == run(case).tobytes()


def test_the_float8_that_has_infinities_is_refused() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    case = case_of("float8_e4m3")
    k_cache = case.arrays["k_cache"].view(ml_dtypes.float8_e4m3)
    with refuses(ShapeError, WHERE, "k_cache of dtype float8_e4m3"):
        run(case, k_cache=k_cache)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_raw_integers_of_16_bits_are_what_is_named(dtype: str) -> None:
    case = case_of(dtype)
    arrays = {name: case.arrays[name].view(np.uint16) for name in ("q", "k_cache", "v_cache")}
    out = run(case, **arrays, dtype=dtype)
    assert out.dtype == np.uint16
    assert out.tobytes() == run(case).tobytes()


def test_uint16_is_bfloat16_unless_told() -> None:
    case = case_of("bfloat16")
    assert run(case, dtype=None).tobytes() == run(case).tobytes()


def test_queries_of_uint16_are_bfloat16_over_any_named_cache() -> None:
    for dtype in ("float8_e4m3", "int4"):
        case = case_of(dtype, "bfloat16")
        out = run(case)
        assert out.dtype == np.uint16
        case.check(*run(case, return_lse=True))


@pytest.mark.parametrize("dtype", ["int8", "int4", "float8_e5m2"])
def test_bytes_may_be_signed_or_not(dtype: str) -> None:
    case = case_of(dtype)
    arrays = {name: case.arrays[name].view(np.int8) for name in ("k_cache", "v_cache")}
    unsigned = {name: case.arrays[name].view(np.uint8) for name in ("k_cache", "v_cache")}
    expected = run(case, **arrays, dtype=dtype)
    assert run(case, **unsigned, dtype=dtype).tobytes() == expected.tobytes()


def test_bytes_without_a_name_are_refused() -> None:
    case = case_of("float8_e4m3")
    with refuses(ShapeError, WHERE, "k_cache of uint8", "dtype="):
        run(case, dtype=None)


def test_elements_other_than_those_named_are_refused() -> None:
    case = case_of("float32")
    with refuses(ShapeError, WHERE, "k_cache of float32", "float16"):
        run(case, dtype="float16")


@pytest.mark.parametrize(
    "dtype", [np.int64, np.complex64, np.longdouble, "datetime64[s]", ">f4", object, "U3"]
)
def test_elements_that_are_never_stored_are_refused(dtype: Any) -> None:
    case = case_of()
    with refuses(ShapeError, WHERE, "v_cache of "):
        run(case, v_cache=np.zeros(case.arrays["v_cache"].shape, dtype))


def test_views_of_larger_arrays_go_in_without_a_copy() -> None:
    case = case_of()
    expected = run(case)
    k_cache, v_cache, q = (case.arrays[name] for name in ("k_cache", "v_cache", "q"))
    both = np.stack([k_cache, v_cache], axis=1)
    fused = np.full((3, 20, 64), np.nan, np.float32)
    fused[:, 4:12] = q
    tables = np.full((3, 9), -7, np.int64)
    tables[:, ::2][:, : case.arrays["block_tables"].shape[1]] = case.arrays["block_tables"]
    wide = {
        "k_cache": both[:, 0],
        "v_cache": both[:, 1],
        "q": fused[:, 4:12],
        "block_tables": tables[:, ::2],
        "seq_lens": np.repeat(case.arrays["seq_lens"], 2)[::2],
    }
    out = np.full((3, 9, 70), 7, np.float32)
    result = run(case, **wide, out=out[:, 1:, 3:67])
    assert result.tobytes() == expected.tobytes()
    out[:, 1:, 3:67] = 7
    assert np.all(out == 7)


def test_out_may_lie_between_the_rows_of_an_input() -> None:
    case = case_of()
    fused = np.zeros((3, 16, 64), np.float32)
    fused[:, :8] = case.arrays["q"]
    run(case, q=fused[:, :8], out=fused[:, 8:])
    assert fused[:, 8:].tobytes() == run(case).tobytes()


def test_a_cache_of_padded_rows_goes_in() -> None:
    case = case_of("float16")
    k_cache = np.zeros((*case.arrays["k_cache"].shape[:3], 72), np.float16)
    k_cache[..., :64] = case.arrays["k_cache"]
    assert run(case, k_cache=k_cache[..., :64]).tobytes() == run(case).tobytes()


def test_read_only_inputs_are_accepted() -> None:
    case = case_of("int8", scales="head")
    expected = run(case)
    for array in (*case.arrays.values(), case.keywords["k_scale"], case.keywords["v_scale"]):
        array.flags.writeable = False
    assert run(case).tobytes() == expected.tobytes()


def test_a_read_only_out_is_refused() -> None:
    case = case_of()
    out = np.zeros((3, 8, 64), np.float32)
    out.flags.writeable = False
    with refuses(ShapeError, WHERE, "out that is read-only", unchanged=(out,)):
        run(case, out=out)


@pytest.mark.parametrize("name", ["q", "k_cache", "v_cache"])
def test_rows_that_are_not_in_one_piece_are_refused(name: str) -> None:
    case = case_of()
    apart = np.repeat(case.arrays[name], 2, axis=-1)[..., ::2]
    with refuses(ShapeError, WHERE, f"{name} whose last dimension has a stride of 8 bytes"):
        run(case, **{name: apart})


def test_negative_strides_are_refused() -> None:
    case = case_of()
    with refuses(ShapeError, WHERE, "q with a negative stride"):
        run(case, q=case.arrays["q"][::-1])


def test_elements_that_are_not_aligned_are_refused() -> None:
    case = case_of()
    raw = np.zeros(case.arrays["q"].nbytes + 1, np.uint8)
    with refuses(ShapeError, WHERE, "q whose elements are not aligned"):
        run(case, q=raw[1:].view(np.float32).reshape(3, 8, 64))


@pytest.mark.parametrize("name", ["q", "k_cache"])
def test_an_out_over_an_input_is_refused(name: str) -> None:
    case = case_of()
    out = case.arrays[name].reshape(-1)[: 3 * 8 * 64].reshape(3, 8, 64)
    with refuses(ShapeError, WHERE, name, unchanged=(out,)):
        run(case, out=out)


def test_an_out_whose_rows_share_memory_is_refused() -> None:
    case = case_of()
    row = np.zeros(64, np.float32)
    out = np.lib.stride_tricks.as_strided(row, (3, 8, 64), (0, 0, 4))
    with refuses(ShapeError, WHERE, "out"):
        run(case, out=out)


def test_lists_of_integers_and_numbers_are_converted() -> None:
    case = case_of()
    logits = np.arange(8, dtype=np.float32)
    expected = run(case, sink_logits=logits)
    lists = {name: case.arrays[name].tolist() for name in ("block_tables", "seq_lens")}
    assert run(case, **lists, sink_logits=logits.tolist()).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_integers_of_any_width_are_converted(dtype: Any) -> None:
    case = case_of()
    lens = case.arrays["seq_lens"].astype(dtype)
    assert run(case, seq_lens=lens).tobytes() == run(case).tobytes()


def test_integers_beyond_32_bits_are_refused() -> None:
    case = case_of()
    for name in ("seq_lens", "block_tables"):
        wide = case.arrays[name].astype(np.int64)
        wide.flat[0] += 2**32
        with refuses(ShapeError, WHERE, f"{name} with a value beyond int32"):
            run(case, **{name: wide})


@pytest.mark.parametrize("what", [None, 3, "text", object(), [[0.5], [1.5]], {"a": 1}])
def test_what_is_no_array_is_refused(what: Any) -> None:
    case = case_of()
    with refuses(ShapeError, WHERE, "q"):
        run(case, q=what)


def test_numpy_scalars_are_scales() -> None:
    case = case_of("int8")
    expected = run(case, k_scale=0.5, v_scale=2)
    factors = {"k_scale": np.float32(0.5), "v_scale": np.array(2, np.float32)}
    assert run(case, **factors).tobytes() == expected.tobytes()


def test_the_storage_of_a_kv_cache_goes_in(rng: np.random.Generator) -> None:
    allocator = BlockAllocator(8)
    for dtype in ("float32", "bfloat16"):
        cache = KvCache.paged(8, 2, 64, 16, 4, allocator, dtype)
        k, v = (encode(rng.standard_normal((37, 2, 64)), dtype) for _ in range(2))
        cache.append(k, v)
        q = encode(rng.standard_normal((1, 8, 64)), dtype)
        table, lens = cache.block_table, cache.context_lens
        assert table is not None
        assert lens is not None
        out = ops.paged_attention(q, cache.k, cache.v, table[None], lens)
        weights = np.einsum("gd,td->gt", decode(q, dtype)[0, :4], decode(k, dtype)[:, 0]) / 8
        weights = np.exp(weights - weights.max(axis=1, keepdims=True))
        expected = weights @ decode(v, dtype)[:, 0] / weights.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(decode(out, dtype)[0, :4], expected, rtol=0.1, atol=0.02)


# torch


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed")


def as_torch(torch: Any, case: PagedCase) -> dict[str, Any]:
    types = {"float8_e4m3": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
    types |= {"bfloat16": torch.bfloat16}
    tensors = {name: torch.from_numpy(array) for name, array in case.arrays.items()}
    for name in ("k_cache", "v_cache"):
        tensors[name] = tensors[name].view(types.get(case.dtype, tensors[name].dtype))
    tensors["q"] = tensors["q"].view(types.get(case.q_dtype, tensors["q"].dtype))
    return tensors


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3", "float8_e5m2", "int8"]
)
def test_torch_tensors_give_torch_tensors(torch: Any, dtype: str) -> None:
    case = case_of(dtype, "float64" if dtype == "float64" else "bfloat16")
    tensors = as_torch(torch, case)
    out, lse = run(case, **tensors, dtype=None, return_lse=True)
    assert isinstance(out, torch.Tensor)
    assert (out.dtype, lse.dtype) == (tensors["q"].dtype, torch.float32)
    expected, expected_lse = run(case, return_lse=True)
    raw = torch.int16 if dtype != "float64" else torch.int64
    assert out.view(raw).numpy().tobytes() == expected.tobytes()
    assert lse.numpy().tobytes() == expected_lse.tobytes()


def test_results_go_into_a_torch_tensor(torch: Any) -> None:
    case = case_of()
    out = torch.full((3, 10, 64), 7.0)
    assert run(case, **as_torch(torch, case), out=out[:, 1:9]).data_ptr() == out[:, 1:9].data_ptr()
    assert out[:, 1:9].numpy().tobytes() == run(case).tobytes()
    assert torch.all(out[:, 0] == 7)


def test_numpy_and_torch_may_come_together(torch: Any) -> None:
    case = case_of()
    tensors = as_torch(torch, case)
    out = run(case, k_cache=tensors["k_cache"], seq_lens=tensors["seq_lens"].long())
    assert isinstance(out, np.ndarray)
    assert out.tobytes() == run(case).tobytes()


def test_tensors_that_record_gradients_are_refused(torch: Any) -> None:
    case = case_of()
    tensors = as_torch(torch, case)
    tensors["q"].requires_grad_()
    with refuses(UnsupportedError, WHERE, "q requires grad", "torch.no_grad()"):
        run(case, **tensors)
    with torch.no_grad():
        out = run(case, **tensors)
    assert not out.requires_grad
    assert out.numpy().tobytes() == run(case).tobytes()


def test_tensors_of_other_devices_are_refused(torch: Any) -> None:
    case = case_of()
    q = torch.empty((3, 8, 64), device="meta")
    with refuses(UnsupportedError, WHERE, "q on device meta", "memory of the CPU"):
        run(case, **as_torch(torch, case) | {"q": q})


def test_sparse_tensors_are_refused(torch: Any) -> None:
    case = case_of()
    with refuses(ShapeError, WHERE, "q of layout torch.sparse_coo"):
        run(case, q=torch.zeros((3, 8, 64)).to_sparse())


def test_classes_derived_from_tensors_go_in_as_tensors_do(torch: Any) -> None:
    class Named(torch.Tensor):  # type: ignore[misc]
        pass

    case = case_of("bfloat16", "bfloat16")
    tensors = as_torch(torch, case)
    kinds = (torch.nn.Parameter(tensors["q"], requires_grad=False), tensors["q"].as_subclass(Named))
    for q in kinds:
        out = run(case, **tensors | {"q": q}, dtype=None)
        assert out.view(torch.int16).numpy().tobytes() == run(case).tobytes()


def test_tensors_whose_sign_is_still_to_be_changed_are_refused(torch: Any) -> None:
    case = case_of()
    with refuses(ShapeError, WHERE, "q whose sign is still to be changed", "x.resolve_neg()"):
        run(case, q=torch._neg_view(as_torch(torch, case)["q"]))


@pytest.mark.parametrize("shape", [(0, 8, 64), (3, 0, 64)])
def test_empty_tensors_have_no_contents_and_need_none(torch: Any, shape: tuple[int, ...]) -> None:
    with refuses(ShapeError, WHERE, unchanged=()):  # of the wrong shape, not of none
        run(case_of(), q=torch.empty(shape))


def test_torch_scalars_and_masks_go_in(torch: Any) -> None:
    case = case_of("int8")
    factors = {"k_scale": torch.tensor(0.25), "v_scale": torch.tensor(3.0)}
    expected = run(case, k_scale=0.25, v_scale=3.0)
    assert run(case, **factors).tobytes() == expected.tobytes()
    mask = torch.ones((3, 1), dtype=torch.bool)
    assert run(case, **factors, tree_mask=mask).tobytes() == expected.tobytes()


# Anything with DLPack


class Exported:
    """An array that only speaks DLPack."""

    def __init__(self, array: np.ndarray[Any, Any], *, device: tuple[int, int] = (1, 0)) -> None:
        self.array = array
        self.device = device

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


class ExportedBeforeVersions(Exported):
    """Likewise, of a library that knows no versions of DLPack."""

    def __dlpack__(self) -> Any:
        return self.array.__dlpack__()


@pytest.mark.parametrize("kind", [Exported, ExportedBeforeVersions])
def test_any_array_with_dlpack_goes_in_and_numpy_comes_out(kind: type[Exported]) -> None:
    case = case_of()
    out = run(case, **{name: kind(array) for name, array in case.arrays.items()})
    assert isinstance(out, np.ndarray)
    assert out.tobytes() == run(case).tobytes()


def test_results_go_into_any_array_with_dlpack() -> None:
    case = case_of()
    out = Exported(np.zeros((3, 8, 64), np.float32))
    assert run(case, out=out) is out
    assert out.array.tobytes() == run(case).tobytes()


def test_what_dlpack_says_is_read_only_is_no_out() -> None:
    array = np.zeros((3, 8, 64), np.float32)
    array.flags.writeable = False
    try:
        array.__dlpack__(max_version=(1, 0))
    except (TypeError, BufferError):
        pytest.skip("this NumPy exports no read-only arrays")
    case = case_of()
    with refuses(ShapeError, WHERE, "out that is read-only"):
        run(case, out=Exported(array))


def test_arrays_of_libraries_before_versions_of_dlpack_are_not_written_to() -> None:
    # Nothing says that they may be: an array of JAX never changes.
    case, array = case_of(), np.zeros((3, 8, 64), np.float32)
    with refuses(ShapeError, WHERE, "out that is read-only"):
        run(case, out=ExportedBeforeVersions(array))
    assert not array.any()


@pytest.mark.parametrize(("number", "name"), [(2, "cuda"), (8, "metal")])
def test_arrays_of_a_device_that_was_not_built_are_refused_with_the_reason(
    number: int, name: str
) -> None:
    reason = pagedkv.build_info()["backends"][name]
    if reason is True:
        pytest.skip(f"this build has {name}")
    case = case_of()
    with refuses(UnsupportedError, WHERE, f"arrays on device {name}", reason):
        run(case, q=Exported(case.arrays["q"], device=(number, 0)))


def test_other_devices_are_refused() -> None:
    case = case_of()
    with refuses(UnsupportedError, WHERE, "q on device number 99"):
        run(case, q=Exported(case.arrays["q"], device=(99, 0)))


def test_what_a_library_does_not_export_is_refused() -> None:
    class Failing(Exported):
        def __dlpack__(self, **keywords: Any) -> Any:
            raise BufferError("not this one")

    class Wrong(Exported):
        def __dlpack__(self, **keywords: Any) -> Any:
            return "no capsule"

    case = case_of()
    with refuses(UnsupportedError, WHERE, "not this one"):
        run(case, q=Failing(case.arrays["q"]))
    with refuses(ShapeError, WHERE, "gives no capsule"):
        run(case, q=Wrong(case.arrays["q"]))


def test_exported_memory_is_let_go_after_the_call() -> None:
    case = case_of()
    array = case.arrays["q"].copy().view(type("Watched", (np.ndarray,), {}))
    watched = weakref.ref(array)
    run(case, q=Exported(array))
    del array
    gc.collect()
    assert watched() is None
