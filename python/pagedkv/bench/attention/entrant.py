"""What takes part in a comparison."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Entrant", "SkipError"]


class Entrant(Protocol):
    """One implementation with a case's keys and values in its cache."""

    note: str
    """What it does otherwise than asked for; mostly empty."""

    def use_threads(self, count: int) -> None:
        """The calls that follow use so many."""

    def run(self) -> None:
        """One call."""

    def result(self) -> npt.NDArray[np.floating[Any]]:
        """What the last call gave: ``[num_seqs * num_new, num_q_heads, head_dim]``."""


class SkipError(Exception):
    """An implementation has no part in a point; says why, unless it has nothing of the kind."""
