"""Operations on a CUDA device, given arrays of NumPy: these go there, and come back."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["OnCuda"]


class OnCuda:
    """The functions of an extension module whose arrays are on a device, on arrays of NumPy."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self.module, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            moved = _Moved()
            result = function(*moved.there(arguments), **moved.there(keywords))
            moved.write_back()
            return moved.back(result)

        return call


class _Moved:
    """The arrays of one call. Views of one array stay views of one tensor: strides are kept."""

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        self.bases: dict[int, tuple[np.ndarray[Any, Any], Any]] = {}
        self.arrays: list[tuple[Any, Any]] = []

    def there(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self.there(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)) and any(isinstance(x, np.ndarray) for x in value):
            return type(value)(self.there(item) for item in value)
        if not isinstance(value, np.ndarray) or value.dtype.kind == "O":
            return value
        tensor = self.view(value)
        self.arrays.append((value, tensor))
        return tensor

    def view(self, array: np.ndarray[Any, Any]) -> Any:
        """A tensor on the device of the array's shape, strides and elements."""
        low, high = np.lib.array_utils.byte_bounds(array)
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        start, end = np.lib.array_utils.byte_bounds(base)
        if (low, high) == (start, end) or not (start <= low <= high <= end):
            base, start, end = array, low, high
        if id(base) not in self.bases:
            raw = np.ndarray((end - start,), np.uint8, buffer=_memory(start, end - start))
            self.bases[id(base)] = (raw, self.torch.from_numpy(raw.copy()).cuda())
        bytes_ = self.bases[id(base)][1][low - start : high - start]
        dtype = self.torch.from_numpy(np.empty(0, array.dtype)).dtype
        width = array.dtype.itemsize
        storage = bytes_.view(dtype) if array.size else self.torch.empty(0, dtype=dtype).cuda()
        strides = [stride // width for stride in array.strides]
        return storage.as_strided(array.shape, strides)

    def write_back(self) -> None:
        """What the operation wrote becomes the arrays' contents."""
        for raw, tensor in self.bases.values():
            came = tensor.cpu().numpy()
            changed = came != raw
            raw[changed] = came[changed]

    def back(self, result: Any) -> Any:
        if isinstance(result, tuple):
            return tuple(self.back(item) for item in result)
        for array, tensor in self.arrays:
            if tensor is result:
                return array
        return result.cpu().numpy() if hasattr(result, "cpu") else result


def _memory(start: int, size: int) -> memoryview:
    ctypes = importlib.import_module("ctypes")
    return memoryview((ctypes.c_uint8 * size).from_address(start)).cast("B")
