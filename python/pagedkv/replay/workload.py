"""The workload that is replayed when no trace is given: lengths as two public services had them.

Each service's prompt and output lengths are log-normal with the mean and the median of its trace
(mu = ln(median), sigma^2 = 2 ln(mean / median)); arrivals are Poisson. The figures are those of
the two traces of AzurePublicDataset (AzureLLMInferenceTrace_code and _conv, November 2023), which
Patel et al. describe in "Splitwise", ISCA 2024.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagedkv.replay.trace import Request, Trace

__all__ = ["DEFAULT_REQUESTS", "SERVICES", "LengthStatistics", "Service", "make_workload"]

DEFAULT_REQUESTS = 4000
# Just above what the default pool can serve, so that some requests are preempted.
REQUESTS_PER_SECOND = 50.0


@dataclass(frozen=True, slots=True)
class LengthStatistics:
    """Mean and median of a length in tokens, and where we cut it."""

    mean: float
    median: float
    longest: int

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """`count` lengths in [1, longest]."""
        sigma = math.sqrt(2.0 * math.log(self.mean / self.median))
        lengths = rng.lognormal(math.log(self.median), sigma, count)
        return np.clip(np.rint(lengths), 1, self.longest).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Service:
    """One service's lengths, and its number of requests in the hour that was recorded."""

    name: str
    requests: int
    prompt: LengthStatistics
    output: LengthStatistics


# A context window of 8,192 tokens: at most 7,168 of prompt and 1,024 of output.
SERVICES = (
    Service(
        "conversation",
        19_366,
        LengthStatistics(mean=1155, median=1020, longest=7168),
        LengthStatistics(mean=211, median=129, longest=1024),
    ),
    Service(
        "code",
        8_819,
        LengthStatistics(mean=2048, median=1469, longest=7168),
        LengthStatistics(mean=27.9, median=13, longest=1024),
    ),
)


def make_workload(seed: int, count: int = DEFAULT_REQUESTS) -> Trace:
    """A trace of `count` requests; the same seed makes the same trace."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1000.0 / REQUESTS_PER_SECOND, count))
    weights = np.array([service.requests for service in SERVICES], dtype=np.float64)
    chosen = rng.choice(len(SERVICES), size=count, p=weights / weights.sum())
    prompts = np.choose(chosen, [service.prompt.sample(rng, count) for service in SERVICES])
    outputs = np.choose(chosen, [service.output.sample(rng, count) for service in SERVICES])
    requests = [
        Request(number, float(arrival), int(prompt), int(output))
        for number, (arrival, prompt, output) in enumerate(
            zip(arrivals, prompts, outputs, strict=True), start=1
        )
    ]
    return Trace("default workload", "made", requests)
