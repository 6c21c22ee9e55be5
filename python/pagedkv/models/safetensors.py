"""Reading safetensors files: a checked header, and tensors that lie in the file (mmap).

A file is the number of bytes of its header (u64, little-endian), the header (JSON: of each tensor
its dtype, its shape, and where its bytes begin and end), and the bytes. Every statement of the
header is checked against the file before a tensor is handed out.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from pagedkv.models.errors import ModelError

__all__ = ["SafetensorsFile", "TensorInfo", "as_float32"]

# What NumPy has no type for comes as the integers of its bits.
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
    "F8_E4M3": "u1", "F8_E5M2": "u1", "BOOL": "?",
}  # fmt: skip

MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 32  # NumPy's least


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What the header says of a tensor; `begin` and `end` are bytes behind the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """A safetensors file, opened and checked; tensors are read-only views of the mapped file.

    Attributes:
        path: of the file.
        tensors: what the header says, by name.
        metadata: free text of whoever wrote the file.

    Raises:
        ModelError: the file is no safetensors file, is cut off, or its header does not fit it.
        OSError: it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            prefix = file.read(8)
            if len(prefix) < 8:
                self._refuse(f"is {size} bytes long", "the 8 of a header's length")
            length = int.from_bytes(prefix, "little")
            if length > MAX_HEADER_BYTES:
                self._refuse(f"has a header of {length:,} bytes", f"at most {MAX_HEADER_BYTES:,}")
            header = file.read(length)
        if len(header) < length:
            self._refuse(
                f"has {len(header):,} bytes behind the header's length",
                f"a header of {length:,}: the file is cut off, or is none of safetensors",
            )
        entries = self._parse(header)
        self.metadata = self._metadata(entries.pop("__metadata__", {}))
        self.tensors = {name: self._info(name, entry) for name, entry in entries.items()}
        self._check_tiling(size - 8 - length)
        # A map of no bytes is an error of the operating system.
        self._data: npt.NDArray[np.uint8] = (
            np.memmap(self.path, np.uint8, "r", offset=8 + length)
            if size > 8 + length
            else np.empty(0, np.uint8)
        )

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """The tensor as it lies in the file: bfloat16 as uint16, float8 as uint8."""
        if name not in self.tensors:
            self._refuse(f"has no tensor '{name:.80}'", f"one of its {len(self.tensors)}")
        info = self.tensors[name]
        return self._data[info.begin : info.end].view(DTYPES[info.dtype]).reshape(info.shape)

    def float32(self, name: str) -> npt.NDArray[np.float32]:
        """A copy of the tensor in float32. F64, F32, F16 and BF16 only."""
        values = self[name]
        return as_float32(f"'{self.path}': tensor '{name}'", values, self.tensors[name].dtype)

    def _refuse(self, came: str, expected: str) -> NoReturn:
        raise ModelError(f"[models.SafetensorsFile] '{self.path}' {came}; expected {expected}")

    def _parse(self, header: bytes) -> dict[str, Any]:
        def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            found = dict(pairs)
            if len(found) < len(pairs):
                self._refuse("names something twice in its header", "each name once")
            return found

        try:
            entries = json.loads(header.decode("utf-8"), object_pairs_hook=once)
        except ModelError:
            raise
        except (ValueError, RecursionError) as error:
            self._refuse(f"has a header that is no JSON ({error})", "a JSON object")
        if not isinstance(entries, dict):
            self._refuse(f"has a header that is a {type(entries).__name__}", "a JSON object")
        return entries

    def _metadata(self, entry: Any) -> dict[str, str]:
        if not isinstance(entry, dict) or not all(isinstance(v, str) for v in entry.values()):
            self._refuse("has a __metadata__ of other things than text", "names and texts")
        return dict(entry)

    def _info(self, name: str, entry: Any) -> TensorInfo:
        def refuse(came: str, expected: str) -> NoReturn:
            self._refuse(f"has a tensor '{name:.80}' whose {came}", expected)

        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            refuse("entry is malformed", "dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            refuse(f"dtype is {dtype!r:.80}", f"one of {', '.join(DTYPES)}")
        if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
            refuse(f"shape is {shape!r:.80}", f"up to {MAX_DIMENSIONS} integers, 0 or more")
        if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            refuse(f"data_offsets are {offsets!r:.80}", "where its bytes begin and end")
        needed = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        if offsets[1] - offsets[0] != needed:
            refuse(
                f"data_offsets span {offsets[1] - offsets[0]} bytes",
                f"the {needed} of {dtype} {shape!r:.80}",
            )
        return TensorInfo(dtype, tuple(shape), *offsets)

    def _check_tiling(self, data_bytes: int) -> None:
        """The tensors lie one after the other: none overlaps another, nothing is in between."""
        end = 0
        for name, info in sorted(
            self.tensors.items(), key=lambda item: (item[1].begin, item[1].end)
        ):
            if info.begin != end:
                what = "overlaps the one before" if info.begin < end else "leaves a hole before it"
                self._refuse(f"has a tensor '{name:.80}' that {what}", f"it to begin at byte {end}")
            end = info.end
        if end > data_bytes:
            self._refuse(
                f"has {data_bytes:,} bytes behind its header",
                f"the {end:,} of its tensors: the file is cut off",
            )
        if end < data_bytes:
            self._refuse(
                f"has {data_bytes:,} bytes behind its header", f"the {end:,} of its tensors alone"
            )


def as_float32(what: str, values: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    """A float32 copy of an array that lies in a file as `dtype` says; `what` names it."""
    if dtype == "BF16":  # the upper half of a float32
        widened: npt.NDArray[np.uint32] = np.left_shift(values, 16, dtype=np.uint32)
        return widened.view(np.float32)
    if dtype not in ("F16", "F32", "F64"):
        raise ModelError(f"[models.as_float32] {what} is {dtype}; expected BF16, F16, F32 or F64")
    return values.astype(np.float32)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)
