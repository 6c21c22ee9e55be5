"""Which extension module computes: an operation runs where its arrays lie."""

import importlib
from functools import cache
from typing import Any

import numpy as np

from pagedkv import _core
from pagedkv.errors import UnsupportedError

__all__ = ["module_for"]

# Kinds of memory by their numbers in DLPack.
MODULES = {2: "cuda", 13: "cuda", 8: "metal"}


def module_for(operation: str, *arrays: Any) -> Any:
    """The module for an operation on these arrays: that of the first one which is not the CPU's.

    Raises:
        UnsupportedError: for arrays of a device whose module was not built.
    """
    for array in arrays:
        if type(array) is np.ndarray:
            continue
        name = MODULES.get(device_type(array))
        if name is not None:
            return device_module(operation, name)
    return _core


def device_type(array: Any) -> int:
    """The number that DLPack has for the device of an array; that of the CPU for what is none."""
    # Asked first because torch's __dlpack_device__ is slow, and refuses tensors with gradients.
    if getattr(array, "is_cuda", False) is True:
        return 2
    if getattr(array, "is_mps", False) is True:
        return 8
    if getattr(array, "is_cpu", False) is True:
        return 1
    try:
        return int(array.__dlpack_device__()[0])
    except Exception:  # whatever it is: the operation will say what it expected
        return 1


@cache
def device_module(operation: str, name: str) -> Any:
    """The extension module of a device."""
    try:
        return importlib.import_module(f"pagedkv._{name}")
    except ImportError as error:
        reason = _core.build_info()["backends"][name]
        said = reason if isinstance(reason, str) else str(error)
        raise UnsupportedError(
            f"[ops.{operation}] arrays on device {name}; expected memory of the CPU: {said}"
        ) from error
