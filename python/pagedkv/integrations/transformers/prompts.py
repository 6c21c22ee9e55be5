"""Token ids of a batch, without the padding on their left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pagedkv.errors import ShapeError

__all__ = ["Prompts", "leading_zeros", "read_prompts"]


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
        ShapeError: other shapes, or a mask that is 0 elsewhere than on the left.
    """
    if (
        not isinstance(input_ids, torch.Tensor)
        or input_ids.ndim != 2
        or input_ids.is_floating_point()
    ):
        raise ShapeError(
            f"[{function}] input_ids: {_described(input_ids)}; expected integers [batch, columns]"
        )
    rows = input_ids.detach().cpu().numpy().astype(np.int32)
    pads = np.zeros(len(rows), np.int32)
    if attention_mask is not None:
        if attention_mask.shape != input_ids.shape:
            raise ShapeError(
                f"[{function}] attention_mask: {_described(attention_mask)}; expected the shape of"
                f" input_ids, {tuple(input_ids.shape)}"
            )
        pads = leading_zeros(function, attention_mask)
    return Prompts(
        [row[pad:] for row, pad in zip(rows, pads, strict=True)], pads, input_ids.shape[1]
    )


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


def _described(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return type(value).__name__
