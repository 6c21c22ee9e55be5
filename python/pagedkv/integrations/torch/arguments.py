"""Arguments of the operations as torch's dispatcher takes them: tensors, numbers and names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pagedkv.errors import ShapeError

__all__ = [
    "DType",
    "Integers",
    "Numbers",
    "Pairs",
    "Scale",
    "as_floats",
    "as_integers",
    "as_pairs",
    "dtype_name",
    "given",
    "scales",
]

Integers: TypeAlias = torch.Tensor | npt.NDArray[Any] | Sequence[int] | Sequence[Sequence[int]]
Pairs: TypeAlias = torch.Tensor | npt.NDArray[Any] | Sequence[tuple[int, int]]
Numbers: TypeAlias = torch.Tensor | npt.NDArray[Any] | Sequence[float]
Scale: TypeAlias = torch.Tensor | npt.NDArray[Any] | SupportsFloat
DType: TypeAlias = torch.dtype | npt.DTypeLike


def as_integers(values: Integers) -> torch.Tensor:
    """The tensor itself; NumPy's array where it lies; or a new tensor of a list."""
    if isinstance(values, torch.Tensor):
        return values
    if torch.compiler.is_compiling():  # NumPy's arrays are tensors then
        return torch.as_tensor(values)
    if isinstance(values, np.ndarray):
        # What torch cannot show: memory that it must not write to, strides below 0, other bytes.
        if values.flags.writeable and values.dtype.isnative and min(values.strides, default=0) >= 0:
            return torch.from_numpy(values)
        return torch.from_numpy(np.array(values, values.dtype.newbyteorder("=")))
    try:
        return torch.tensor(values)
    except ValueError as error:
        raise ShapeError(
            f"[integrations.torch] lists of integers ({error}); expected equal lengths"
        ) from error


def as_pairs(values: Pairs) -> torch.Tensor:
    """Likewise; an empty list is no pairs."""
    if isinstance(values, list | tuple) and not values:
        return torch.empty((0, 2), dtype=torch.int64)
    return as_integers(values)


def as_floats(values: Numbers | None) -> torch.Tensor | None:
    """Likewise, of a list float32."""
    if values is None or isinstance(values, torch.Tensor):
        return values
    if isinstance(values, np.ndarray):
        return as_integers(values)
    return torch.tensor(values, dtype=torch.float32)


def dtype_name(dtype: DType | None) -> str | None:
    """What the operations call it."""
    if dtype is None:
        return None
    if isinstance(dtype, torch.dtype | str):
        name = str(dtype).removeprefix("torch.")
    else:
        name = str(np.dtype(dtype).name)
    return "float8_e4m3" if name == "float8_e4m3fn" else name


def scales(k_scale: Scale | None, v_scale: Scale | None) -> dict[str, Any]:
    """A schema has scales as tensors, and as numbers beside them."""
    options: dict[str, Any] = {}
    for name, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        if isinstance(scale, torch.Tensor | np.ndarray):
            options[name] = as_floats(scale)
        elif scale is not None:
            options[f"{name}_value"] = float(scale)
    return options


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None: to pass one that is left at its default costs time."""
    return {name: value for name, value in options.items() if value is not None}
