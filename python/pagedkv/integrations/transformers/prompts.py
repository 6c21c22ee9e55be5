"""Token ids of a batch, without the padding on their left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pagedkv.errors import ShapeError

__all__ = ["Prompts", "leading_zeros", "read_ids", "read_prompts"]

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class Prompts:
    """The tokens of each row, and how many columns of padding precede them."""

    tokens: list[NDArray[np.int32]]
    pads: NDArray[np.int32]
    num_columns: int


def read_prompts(
    function: str, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
) -> Prompts:
    """Of ids ``[batch, columns]``, as ``generate()`` takes or gives them, and a mask of that shape.

    Raises:
        ShapeError: other shapes, ids beyond 32 bits, or a mask that is 0 elsewhere than on the
            left.
    """
    rows = read_ids(function, "input_ids", input_ids)
    pads = np.zeros(len(rows), np.int32)
    if attention_mask is not None:
        if not _is_tensor(attention_mask) or attention_mask.shape != input_ids.shape:
            raise ShapeError(
                f"[{function}] attention_mask: {_described(attention_mask)}; expected the shape of"
                f" input_ids, {tuple(input_ids.shape)}"
            )
        pads = leading_zeros(function, attention_mask)
    return Prompts(
        [row[pad:] for row, pad in zip(rows, pads, strict=True)], pads, input_ids.shape[1]
    )


def read_ids(function: str, name: str, ids: torch.Tensor) -> NDArray[np.int32]:
    """Token ids ``[batch, columns]`` as the index takes them.

    Raises:
        ShapeError: another type or shape, or ids beyond 32 bits.
    """
    if not _is_tensor(ids) or ids.ndim != 2 or ids.dtype not in INTEGERS:
        raise ShapeError(
            f"[{function}] {name}: {_described(ids)}; expected integers [batch, columns]"
        )
    rows = ids.detach().cpu().numpy()
    tokens: NDArray[np.int32] = rows.astype(np.int32)
    wrong = rows[rows != tokens]
    if len(wrong):
        raise ShapeError(f"[{function}] {name}: the id {wrong[0]}; expected ids of 32 bits")
    return tokens


def leading_zeros(function: str, mask: torch.Tensor) -> NDArray[np.int32]:
    """How many columns on the left each row of a mask ``[batch, columns]`` leaves out.

    Raises:
        ShapeError: it leaves out others.
    """
    seen = mask.detach().to("cpu", torch.bool)
    counts = seen.shape[1] - seen.sum(1)
    if seen.shape[1] and not bool((seen.cummax(1).values == seen).all()):
        raise ShapeError(
            f"[{function}] a mask with zeros behind the first token of a row; expected padding on"
            " the left alone"
        )
    return np.asarray(counts.numpy(), np.int32)


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _described(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return type(value).__name__
