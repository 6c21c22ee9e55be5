"""Requests for the demo's engine, and the model that it serves."""

from __future__ import annotations

from functools import cache

from pagedkv.demo import Request
from pagedkv.models import DOCSTRINGS, Llama, Sampler

GREEDY = Sampler()
SYSTEM = list(b"Functions of Python's library.")
PROMPTS = [b"Return ", b"Return the name", b"Set", b"Return ", b"A class for all the "]


@cache
def model() -> Llama:
    return Llama.load(DOCSTRINGS)


def requests(max_tokens: int = 20, prompts: list[bytes] = PROMPTS) -> list[Request]:
    return [
        Request(number, [256, *SYSTEM, 257, 256, *prompt], max_tokens)
        for number, prompt in enumerate(prompts)
    ]
