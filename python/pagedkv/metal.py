"""Arrays in memory that the processor shares with a Metal device: what operations there work on.

They are arrays of NumPy, and so are views of them, so that an engine fills and reads them without a
copy; ``pagedkv.ops`` runs on the device where its arrays are these.
"""

import importlib
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pagedkv import _core
from pagedkv.errors import UnsupportedError

__all__ = ["Array", "array", "empty", "set_device_checks", "set_waits", "synchronize", "zeros"]


class Array(np.ndarray[Any, Any]):
    """An array of NumPy in memory of the device, made by ``empty``, ``zeros`` or ``array``."""

    def __dlpack_device__(self) -> tuple[Any, Any]:
        return (8, 0) if _module().owns(self) else super().__dlpack_device__()


def empty(shape: int | tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
    """A new array on the device, whose elements are anything.

    Raises:
        UnsupportedError: where pagedkv was not built with Metal.
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    return _as_array(_module().empty(sizes, np.dtype(dtype)))


def zeros(shape: int | tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
    """A new array of zeros on the device."""
    made = empty(shape, dtype)
    made[...] = 0
    return made


def array(values: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Array:
    """A copy of ``values`` on the device."""
    given = np.asarray(values, dtype)
    made = empty(given.shape, given.dtype)
    made[...] = given
    return made


def synchronize() -> None:
    """Returns when everything that was given to the device has run."""
    _module().synchronize()


def set_waits(waits: bool) -> None:
    """Whether operations return when their kernels have run, as at first, or before.

    Without, results may be read, and arguments written to, after ``synchronize``.
    """
    _module().set_waits(waits)


def set_device_checks(checks: bool) -> None:
    """Whether operations raise what their kernels found: ids, slots and lengths out of range."""
    _module().set_device_checks(checks)


def _as_array(made: npt.NDArray[Any]) -> Array:
    return made.view(Array)


@cache
def _module() -> Any:
    try:
        return importlib.import_module("pagedkv._metal")
    except ImportError as error:
        reason = _core.build_info()["backends"]["metal"]
        raise UnsupportedError(f"[metal] {reason}; expected a build with Metal") from error
