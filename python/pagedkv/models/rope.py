"""Rotary position embeddings: the frequencies of a model, stretched where it says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pagedkv.errors import UnsupportedError
from pagedkv.models.errors import ModelError

__all__ = ["RopeScaling", "cos_sin_table"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How frequencies are stretched for more positions than a model was first trained on.

    `linear`: all by `factor`. `llama3`: those whose wave is longer than
    `original_max_position_embeddings / low_freq_factor` by `factor`, those shorter than
    `original_max_position_embeddings / high_freq_factor` not at all, in between smoothly.
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    @staticmethod
    def parse(raw: dict[str, Any]) -> RopeScaling | None:
        """What `rope_scaling` (or `rope_parameters`) of a config.json says; None: no scaling.

        Raises:
            UnsupportedError: a kind that is not here; the message names it.
            ModelError: a number is missing or out of range.
        """
        kind = raw.get("rope_type", raw.get("type", "default"))
        if raw.get("partial_rotary_factor", 1.0) != 1.0:
            raise UnsupportedError(
                "[models.RopeScaling] partial_rotary_factor is "
                f"{raw['partial_rotary_factor']!r:.40}; expected 1: all channels rotate"
            )
        if kind == "default":
            return None
        if kind == "linear":
            return RopeScaling("linear", _number(raw, "factor"))
        if kind != "llama3":
            raise UnsupportedError(
                f"[models.RopeScaling] the rope type is {kind!r:.40}; expected default, linear or "
                "llama3"
            )
        scaling = RopeScaling(
            "llama3",
            _number(raw, "factor"),
            _number(raw, "low_freq_factor"),
            _number(raw, "high_freq_factor"),
            int(_number(raw, "original_max_position_embeddings")),
        )
        if scaling.low_freq_factor >= scaling.high_freq_factor:
            raise ModelError(
                f"[models.RopeScaling] low_freq_factor is {scaling.low_freq_factor}; expected less "
                f"than the high_freq_factor of {scaling.high_freq_factor}"
            )
        return scaling

    def stretch(self, frequencies: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The frequencies (radians a token) that positions are multiplied by."""
        stretched = frequencies / self.factor
        if self.kind == "linear":
            return stretched
        waves = self.original_max_position_embeddings * frequencies / (2 * math.pi)
        span = self.high_freq_factor - self.low_freq_factor
        keep = np.clip((waves - self.low_freq_factor) / span, 0.0, 1.0)
        return keep * frequencies + (1.0 - keep) * stretched


def cos_sin_table(
    num_positions: int, head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> npt.NDArray[np.float32]:
    """`[num_positions, head_dim]` float32: `head_dim / 2` cosines, then as many sines.

    What `pagedkv.ops.rope_write_kv` takes; channel i turns with channel `i + head_dim / 2`.
    """
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling is not None:
        frequencies = scaling.stretch(frequencies)
    angles = np.outer(np.arange(num_positions), frequencies)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def _number(raw: dict[str, Any], name: str) -> float:
    value = raw.get(name)
    if isinstance(value, (int, float)) and type(value) is not bool and 0.0 < value < math.inf:
        return float(value)
    raise ModelError(f"[models.RopeScaling] {name} is {value!r:.40}; expected a number above 0")
