"""Element types: the names, and what NumPy, ml_dtypes and torch call them."""

from typing import Any

import numpy as np
import pytest
from support.values import DTYPES, SHOWN_AS, same_bits, tokens

from pagedkv import BlockPool, KvCache, KvCachePool, ShapeError, SsmStateSpec, UnsupportedError

ML_DTYPES = {"bfloat16": "bfloat16", "float8_e4m3fn": "float8_e4m3", "float8_e5m2": "float8_e5m2"}


def dtype_of(dtype: Any) -> str:
    return KvCachePool(4, 1, dtype).dtype


@pytest.mark.parametrize("name", DTYPES)
def test_every_name_is_a_dtype(name: str) -> None:
    assert dtype_of(name) == name
    assert BlockPool(1, 4, 1, 2, 4, name).dtype == name
    assert KvCache.contiguous(1, 2, 4, name).dtype == name
    if name != "int4":
        assert SsmStateSpec(1, 1, 1, 1, 1, 1, name).dtype == name


@pytest.mark.parametrize("name", ["float64", "float32", "float16", "int8"])
def test_numpys_types_and_dtypes_are_taken(name: str) -> None:
    numpy_type = getattr(np, name)
    for dtype in numpy_type, np.dtype(numpy_type), np.zeros(1, numpy_type).dtype:
        assert dtype_of(dtype) == name
    assert dtype_of(float) == "float64"


@pytest.mark.parametrize("name", ML_DTYPES)
def test_the_types_of_ml_dtypes_are_taken(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    ml_type = getattr(ml_dtypes, name)
    for dtype in ml_type, np.dtype(ml_type):
        assert dtype_of(dtype) == ML_DTYPES[name]


@pytest.mark.parametrize("name", ML_DTYPES)
def test_arrays_of_ml_dtypes_are_appended_as_they_are(name: str, rng: np.random.Generator) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    dtype = ML_DTYPES[name]
    shown = tokens(rng, dtype, 5, 2, 4)
    cache = KvCache.contiguous(10, 2, 4, dtype)
    cache.append(shown.view(getattr(ml_dtypes, name)), shown)
    for dense in cache.to_dense():
        assert dense.dtype == SHOWN_AS[dtype]
        assert same_bits(dense, shown)


def test_int4_of_ml_dtypes_takes_a_byte_an_element_and_is_refused() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    cache = KvCache.contiguous(10, 2, 4, "int4")
    array = np.zeros((1, 2, 2), ml_dtypes.int4)
    with pytest.raises(ShapeError, match="k of dtype int4; expected int4"):
        cache.append(array, array)


def test_the_dtypes_of_torch_are_taken() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for name in "float64", "float32", "float16", "bfloat16", "int8":
        assert dtype_of(getattr(torch, name)) == name


def test_what_looks_like_a_dtype_of_torch_is_taken() -> None:
    class TorchDType:
        def __str__(self) -> str:
            return "torch.float8_e4m3fn"

    assert dtype_of(TorchDType()) == "float8_e4m3"


@pytest.mark.parametrize(
    "dtype",
    [
        "float",
        "f4",
        "FLOAT32",
        "int32",
        "int64",
        "uint8",
        "complex64",
        "",
        np.int32,
        np.dtype(">f4"),
        np.dtype("f4,f4"),
        np.dtype(object),
        int,
        dict,
        None,
        4,
        [],
        object(),
    ],
)
def test_any_other_dtype_is_unsupported(dtype: Any) -> None:
    with pytest.raises(
        UnsupportedError, match=r"(?s)^\[KvCachePool\] dtype .*; expected float64, "
    ):
        KvCachePool(4, 1, dtype)


def test_int4_holds_two_elements_a_byte(rng: np.random.Generator) -> None:
    assert KvCachePool(6, 1, "int4").dtype == "int4"
    pool = KvCachePool(6, 2, "int4")
    page = pool.page(pool.alloc())
    assert page.shape == (3,)
    assert page.dtype == np.uint8
    cache = KvCache.contiguous(4, 2, 6, "int4")
    values = tokens(rng, "int4", 3, 2, 6)
    assert values.shape == (3, 2, 3)
    cache.append(values, values)
    assert cache.k.shape == (2, 4, 3)
    assert same_bits(cache.to_dense()[0], values)
