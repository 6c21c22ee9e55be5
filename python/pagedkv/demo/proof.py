"""The proof: the tokens of the engine are those of the same model with a plain dense cache.

The reference decodes with the longest length reserved for each request, attention in NumPy, and
nothing paged, chunked, shared or preempted. It chooses each token itself, and is then given the
engine's: as long as the two are equal that is its own decoding, and where they are not, what comes
after is compared all the same.

Both compute in float32, but add in different orders. Where two tokens are so near that this decides
between them, neither choice is wrong: that is counted as a tie, shown, and no failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import numpy.typing as npt

from pagedkv.demo.engine import Request, require_finite
from pagedkv.models import DenseCache, Llama, Sampler

__all__ = ["ROUNDING", "Difference", "Proof", "prove"]

# Of the largest logit in size: what two orders of addition in float32 may differ by. The model of
# the package differs by a hundredth of that, and with keys and values of a block swapped by some
# thousand times that.
ROUNDING = 1e-4


@dataclass(frozen=True, slots=True)
class Difference:
    """A token that the reference would not have chosen.

    Attributes:
        request: its number.
        place: of the token among the generated ones.
        token: the engine's.
        expected: the reference's.
        shortfall: by how much the reference's logits would have to be off.
        tie: whether that is within rounding.
    """

    request: int
    place: int
    token: int
    expected: int
    shortfall: float
    tie: bool


@dataclass(slots=True)
class Proof:
    """What the comparison found.

    Attributes:
        exact: whether equality is to be expected; a cache of fewer bits than float32 rounds.
        compared: tokens.
        differences: those that differ, ties too.
        largest_logit_difference: of the chosen tokens' logits.
        dense_bytes: that the dense cache reserved.
        seconds: that the reference took.
    """

    exact: bool
    compared: int = 0
    differences: list[Difference] = field(default_factory=list)
    largest_logit_difference: float = 0.0
    dense_bytes: int = 0
    seconds: float = 0.0

    @property
    def ties(self) -> int:
        """Differences within rounding."""
        return sum(each.tie for each in self.differences)

    @property
    def identical(self) -> bool:
        """Whether every token is the reference's."""
        return not self.differences

    @property
    def holds(self) -> bool:
        """Whether nothing differs but ties; where the cache rounds, nothing is claimed."""
        return not self.exact or self.ties == len(self.differences)

    @property
    def agreement(self) -> float:
        """The share of tokens that are the reference's."""
        return 1.0 - len(self.differences) / self.compared if self.compared else 1.0


def prove(
    model: Llama,
    requests: Sequence[Request],
    sampler: Sampler,
    *,
    exact: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Proof:
    """Decode the requests again with a `DenseCache`, and compare each token.

    `progress` is told how many of all tokens are compared. Raises `ModelError` where the
    reference's logits are not all finite: nothing is proven by them.
    """
    begin = perf_counter()
    longest = max((request.max_len for request in requests), default=1)
    cache = DenseCache(model.config, len(requests), longest)
    proof = Proof(exact, dense_bytes=cache.nbytes)
    total = sum(len(request.generated) for request in requests)
    rows = []
    for row, request in enumerate(requests):
        prompt = request.tokens[: request.num_prompt_tokens]
        cache.begin(np.array([row]), len(prompt))
        rows.append(model.forward(np.array(prompt), cache)[-1])
    hidden, left = np.array(rows), list(range(len(requests)))
    place = 0
    while left:
        logits = model.logits(hidden)
        require_finite("demo.prove", [requests[row] for row in left], logits)
        for row, of_row in zip(left, logits, strict=True):
            _compare(proof, requests[row], place, of_row, sampler)
        place += 1
        left = [row for row in left if place < len(requests[row].generated)]
        if left:
            fed = [requests[row].generated[place - 1] for row in left]
            cache.begin(np.array(left))
            hidden = model.forward(np.array(fed), cache)
        if progress is not None:
            progress(proof.compared, total)
    proof.seconds = perf_counter() - begin
    return proof


def _compare(
    proof: Proof,
    request: Request,
    place: int,
    logits: npt.NDArray[np.float32],
    sampler: Sampler,
) -> None:
    token = request.generated[place]
    off = abs(float(logits[token]) - request.logits[place])
    proof.largest_logit_difference = max(proof.largest_logit_difference, off)
    proof.compared += 1
    expected = sampler.choose(logits, request.number, place)
    if expected != token:
        rounding = ROUNDING * float(np.abs(logits).max())
        short = sampler.shortfall(logits, request.number, place, token, rounding)
        proof.differences.append(
            Difference(request.number, place, token, expected, short, short <= 2 * rounding)
        )
