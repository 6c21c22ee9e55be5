"""The safetensors reader: what it reads, and that no broken file gets past it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.llama_folders import safetensors_bytes

from pagedkv.models import DOCSTRINGS, ModelError, SafetensorsFile

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array(1.5, np.float32),
    "c": np.zeros((0, 4), np.float32),
}


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "file.safetensors"
    path.write_bytes(data)
    return path


def of_header(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_tensors_come_back_in_float32(tmp_path: Path, dtype: str) -> None:
    file = SafetensorsFile(written(tmp_path, safetensors_bytes(TENSORS, dtype, {"by": "me"})))
    assert file.metadata == {"by": "me"}
    assert list(file.tensors) == list(TENSORS)
    for name, values in TENSORS.items():
        read = file.float32(name)
        assert read.dtype == np.float32
        assert np.array_equal(read, values)
        assert file.tensors[name].shape == values.shape


@pytest.mark.parametrize(
    ("name", "dtype", "bits"),
    [("BF16", "uint16", 16), ("F8_E4M3", "uint8", 8), ("I64", "int64", 64), ("BOOL", "bool", 8)],
)
def test_a_tensor_is_a_view_of_the_file_as_it_lies_there(
    tmp_path: Path, name: str, dtype: str, bits: int
) -> None:
    data = bytes(i % 2 for i in range(2 * bits // 8))
    header = {"x": entry(dtype=name, data_offsets=[0, len(data)])}
    view = SafetensorsFile(written(tmp_path, of_header(header, data)))["x"]
    assert view.dtype == dtype
    assert view.tobytes() == data
    assert not view.flags.writeable
    assert not view.flags.owndata


def test_bfloat16_is_widened_bit_for_bit(tmp_path: Path) -> None:
    bits = np.arange(2**16, dtype="<u2")
    data = of_header(
        {"x": entry(dtype="BF16", shape=[2**16], data_offsets=[0, 2**17])}, bits.tobytes()
    )
    read = SafetensorsFile(written(tmp_path, data)).float32("x")
    assert np.array_equal(read.view(np.uint32), bits.astype(np.uint32) << 16)


def test_tensors_may_lie_anywhere_but_no_integer_becomes_a_float(tmp_path: Path) -> None:
    # The header has one byte more than a multiple of 4.
    header = {"x": entry(), "y": entry(dtype="I32", data_offsets=[8, 16])}
    text = json.dumps(header).encode()
    text += b" " * (5 - len(text) % 4)
    data = struct.pack("<2f2i", 1, 2, 3, 4)
    file = SafetensorsFile(written(tmp_path, of_header(text, data)))
    assert file["y"].tolist() == [3, 4]
    assert file.float32("x").tolist() == [1, 2]
    with pytest.raises(ModelError, match="is I32; expected BF16, F16, F32 or F64"):
        file.float32("y")
    with pytest.raises(ModelError, match="has no tensor 'z'; expected one of its 2"):
        file["z"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is 0 bytes long; expected the 8 of a header's length"),
        (b"1234567", "is 7 bytes long"),
        (struct.pack("<Q", 2**63), "at most 100,000,000"),
        (struct.pack("<Q", 100) + b"{}", "cut off, or is none of safetensors"),
        (of_header(b"nonsense"), "no JSON"),
        (of_header(b"\xff\xfe"), "no JSON"),
        (of_header(b"[" * 100_000), "no JSON"),
        (of_header([]), "is a list; expected a JSON object"),
        (of_header(b'{"a": {}, "a": {}}'), "names something twice"),
        (of_header({"__metadata__": {"a": 1}}), "names and texts"),
        (of_header({"x": 3}), "malformed"),
        (of_header({"x": {**entry(), "more": 1}}, bytes(8)), "malformed"),
        (of_header({"x": entry(dtype="F4")}, bytes(8)), "dtype is 'F4'; expected one of F64"),
        (of_header({"x": entry(dtype=[1])}, bytes(8)), "dtype is"),
        (of_header({"x": entry(shape=[-2])}, bytes(8)), "expected up to 32 integers, 0 or more"),
        (of_header({"x": entry(shape=[True, 2])}, bytes(8)), "expected up to 32 integers"),
        (of_header({"x": entry(shape=[2.0])}, bytes(8)), "expected up to 32 integers"),
        (of_header({"x": entry(shape=[1] * 33)}, bytes(8)), "expected up to 32 integers"),
        (of_header({"x": entry(shape=[2**62, 4])}, bytes(8)), "span 8 bytes; expected the"),
        (of_header({"x": entry(data_offsets=[8, 0])}, bytes(8)), "where its bytes begin and end"),
        (of_header({"x": entry(data_offsets=[0])}, bytes(8)), "where its bytes begin and end"),
        (of_header({"x": entry(data_offsets=[0, 4])}, bytes(8)), "expected the 8 of F32"),
        (of_header({"x": entry(data_offsets=[4, 12])}, bytes(12)), "leaves a hole before it"),
        (
            of_header({"x": entry(), "y": entry(data_offsets=[4, 12])}, bytes(12)),
            "overlaps the one before",
        ),
        (of_header({"x": entry()}, bytes(7)), "has 7 bytes behind its header; expected the 8"),
        (of_header({"x": entry()}, bytes(9)), "expected the 8 of its tensors alone"),
    ],
)
def test_a_broken_file_is_refused_with_what_is_wrong(
    tmp_path: Path, data: bytes, message: str
) -> None:
    path = written(tmp_path, data)
    with pytest.raises(ModelError) as raised:
        SafetensorsFile(path)
    assert str(raised.value).startswith(f"[models.SafetensorsFile] '{path}'")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = safetensors_bytes(TENSORS)
    for length in range(len(whole)):
        with pytest.raises(ModelError):
            SafetensorsFile(written(tmp_path, whole[:length]))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.sampled_from([2**40, 2**70, "F32", "I8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["x", "y", "z", "__metadata__"]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "U8", "F9"]) | VALUES,
                "shape": st.lists(st.integers(0, 4), max_size=3) | VALUES,
                "data_offsets": st.lists(st.integers(0, 40), min_size=2, max_size=2) | VALUES,
            }
        )
        | VALUES,
        max_size=3,
    ),
    st.integers(0, 48),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_a_header_says_it_is_refused_or_every_tensor_lies_in_the_file(
    tmp_path: Path, header: dict[str, Any], num_bytes: int
) -> None:
    data = bytes(range(num_bytes))
    path = written(tmp_path, of_header(header, data))
    try:
        file = SafetensorsFile(path)
    except ModelError:
        return
    read = sorted((info.begin, file[name].tobytes()) for name, info in file.tensors.items())
    assert b"".join(part for _, part in read) == data
    for name, info in file.tensors.items():
        assert file[name].shape == info.shape


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_file_with_bytes_of_its_header_changed_is_refused_or_read(
    tmp_path: Path, data: st.DataObject
) -> None:
    whole = bytearray(safetensors_bytes(TENSORS))
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    try:
        file = SafetensorsFile(written(tmp_path, bytes(whole)))
    except ModelError:
        return
    assert sum(file[name].nbytes for name in file.tensors) == len(whole) - (
        8 + int.from_bytes(whole[:8], "little")
    )


def test_the_shipped_weights_are_small_and_say_where_their_text_is_from() -> None:
    path = DOCSTRINGS / "model.safetensors"
    assert path.stat().st_size <= 4 * 2**20
    file = SafetensorsFile(path)
    assert {info.dtype for info in file.tensors.values()} == {"BF16"}
    assert "PSF License" in file.metadata["text"]
    assert "tools/train_demo.py" in file.metadata["made_by"]
