"""The arrays that hold keys and values of a pool."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pagedkv import ops
from pagedkv.errors import UnsupportedError
from pagedkv.integrations.transformers.layout import Place

__all__ = ["KVStorage"]

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)

DEVICE_EXPECTED = "expected None, or the device of the model's keys"

Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]


class KVStorage:
    """Keys and values ``[num_blocks, num_kv_heads, block_size, head_dim]`` of each slot of layers.

    Arrays are made when the first keys come, which tell heads, dims, dtype and device; where that
    is the CPU, memory is taken when blocks are written. A layer of another shape than the others of
    its slot gets arrays of its own.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            names = ", ".join(str(known).removeprefix("torch.") for known in DTYPES)
            raise UnsupportedError(f"[PagedPool] dtype {dtype!r}; expected None or torch's {names}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype
        try:
            self.device = None if device is None else torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise UnsupportedError(f"[PagedPool] device {device!r}; {DEVICE_EXPECTED}") from error
        self._arrays: dict[tuple[str, int], Pair] = {}
        self._of_layer: dict[int, Pair] = {}

    def of(self, place: Place) -> Pair | None:
        """The arrays of a layer; None before its first keys."""
        return self._of_layer.get(place.number)

    def provide(self, place: Place, keys: torch.Tensor, values: torch.Tensor) -> Pair:
        """The arrays for a layer's ``[batch, num_kv_heads, tokens, head_dim]``."""
        arrays = self._of_layer.get(place.number)
        if arrays is None:
            arrays = self._arrays.get(("slot", place.slot))
            if arrays is None or not all(map(_fits, arrays, (keys, values))):
                kind, number = ("slot", place.slot) if arrays is None else ("layer", place.number)
                arrays = self._empty(keys), self._empty(values)
                self._arrays[kind, number] = arrays
            self._of_layer[place.number] = arrays
        return arrays

    def _empty(self, states: torch.Tensor) -> torch.Tensor:
        return torch.empty(
            (self.num_blocks, states.shape[1], self.block_size, states.shape[3]),
            dtype=self.dtype or states.dtype,
            device=states.device,
        )

    def require_device(self, device: torch.device) -> None:
        """Raises UnsupportedError where keys are on another device than was asked for."""
        asked = self.device
        if asked is None:
            return
        if asked.type != device.type or asked.index not in (None, device.index):
            raise UnsupportedError(
                f"[PagedPool] device {str(asked)!r} under keys on {str(device)!r};"
                f" {DEVICE_EXPECTED}"
            )

    def copy(self, pairs: NDArray[np.int32]) -> None:
        """Block copies that a manager's batch asks for."""
        if len(pairs):
            ops.copy_blocks([array for pair in self._arrays.values() for array in pair], pairs)

    @property
    def bytes_per_block(self) -> int:
        """0 before the first keys."""
        return sum(
            array[0].numel() * array.element_size()
            for pair in self._arrays.values()
            for array in pair
        )


def _fits(array: torch.Tensor, states: torch.Tensor) -> bool:
    return bool(array.shape[1] == states.shape[1] and array.shape[3] == states.shape[3])
