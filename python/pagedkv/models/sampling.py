"""The choice of the next token: the likeliest, or one that is drawn.

A draw belongs to the seed, the request and the place in its text, not to the order in which an
engine comes to it: scheduling, batching and preemption change no text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pagedkv.models.errors import ModelError

__all__ = ["Sampler"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sampler:
    """Greedy with a temperature of 0; else by the Gumbel trick: the largest of logit and noise.

    Attributes:
        temperature: what logits are divided by; 0: the likeliest token is taken.
        top_k: only so many of the likeliest may be drawn; 0: all.
        seed: of the draws.
    """

    temperature: float = 0.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise ModelError(
                f"[models.Sampler] temperature is {self.temperature}; expected 0 or more"
            )
        if self.top_k < 0 or self.seed < 0:
            raise ModelError(
                f"[models.Sampler] top_k is {self.top_k}, seed {self.seed}; expected 0 or more"
            )

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0.0 or self.top_k == 1

    def choose(self, logits: Floats, request: int, place: int) -> int:
        """The token of one row of logits ``[vocab_size]``. Of equals the lowest id. O(vocab)."""
        scores = self._scores(logits, request, place)
        return int(np.where(logits >= self._least(logits), scores, -np.inf).argmax())

    def shortfall(
        self, logits: Floats, request: int, place: int, token: int, rounding: float
    ) -> float:
        """By how much logits would have to be off for `choose` to take `token`; 0: it does.

        Which tokens are among the `top_k` is as uncertain as `rounding` makes it.
        """
        scores = self._scores(logits, request, place)
        least = self._least(logits)
        if logits[token] < least - rounding:
            return float(least - logits[token])
        certain = scores[logits >= least + rounding] if math.isfinite(least) else scores
        if self.greedy or not certain.size:
            certain = scores
        return max(0.0, float(certain.max() - scores[token]))

    def _scores(self, logits: Floats, request: int, place: int) -> npt.NDArray[np.float64]:
        """Logits, and the noise in their units."""
        scores = logits.astype(np.float64)
        if not self.greedy:
            noise = np.random.Generator(np.random.Philox([self.seed, request, place]))
            scores += self.temperature * noise.gumbel(size=scores.shape)
        return scores

    def _least(self, logits: Floats) -> float:
        """The lowest logit that may be taken."""
        if self.greedy or not 0 < self.top_k < len(logits):
            return -math.inf
        return float(np.partition(logits, -self.top_k)[-self.top_k])
