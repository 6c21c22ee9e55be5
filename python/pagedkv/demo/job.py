"""The whole demo: a model, its requests, the engine's run and the proof."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pagedkv._core import Stats
from pagedkv.demo.engine import Engine, EngineConfig, Progress, Request
from pagedkv.demo.prompts import PROMPTS, SYSTEM
from pagedkv.demo.proof import Proof, prove
from pagedkv.models import DOCSTRINGS, Llama, ModelError, Sampler, Tokenizer, load_tokenizer

__all__ = ["DemoConfig", "DemoResult", "generated_text", "run_demo"]

# So many requests get a pool that holds them all at their longest.
FEW = 4

GREEDY = Sampler()


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """What is run.

    Attributes:
        model: a Hugging Face folder.
        prompts: texts to go on from; taken in turn where there are more requests.
        system: text before each prompt; may be empty.
        num_requests: None: one for each prompt.
        max_tokens: generated at most a request, fewer where the model's positions end.
        num_blocks: None: half of what contiguous reservation would take; all of it for up to 4.
        verify: decode again with a dense cache, and compare.
    """

    model: Path = DOCSTRINGS
    prompts: Sequence[str] = PROMPTS
    system: str = SYSTEM
    num_requests: int | None = None
    max_tokens: int = 128
    num_blocks: int | None = None
    block_size: int = 16
    kv_dtype: str = "float32"
    max_running: int | None = None
    max_batch_tokens: int = 128
    sampler: Sampler = GREEDY
    verify: bool = True

    def prompt(self, number: int) -> str:
        """The text that request `number` goes on from, without the system prompt."""
        return self.prompts[number % len(self.prompts)]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What came of it.

    Attributes:
        engine: how memory was spent, `num_blocks` filled in.
        model: that ran.
        tokenizer: its vocabulary.
        requests: with their tokens, in order.
        progress: the engine's counters.
        stats: the manager's counters.
        block_bytes: of one block of the pool, all layers counted.
        proof: None without `verify`.
    """

    config: DemoConfig
    engine: EngineConfig
    model: Llama
    tokenizer: Tokenizer
    requests: list[Request]
    progress: Progress
    stats: Stats
    block_bytes: int
    proof: Proof | None

    @property
    def success(self) -> bool:
        """Whether nothing was shown to be wrong."""
        return self.proof is None or self.proof.holds

    @property
    def reserved_tokens(self) -> int:
        """What contiguous reservation keeps for each request: the longest that one may become."""
        return max(request.max_len for request in self.requests)

    @property
    def contiguous_bytes(self) -> int:
        """What contiguous reservation takes for all requests, in the pool's dtype."""
        slots = len(self.requests) * self.reserved_tokens
        return slots * self.block_bytes // self.engine.block_size

    @property
    def peak_bytes(self) -> int:
        """Blocks that requests held when they held most."""
        return self.progress.peak_blocks * self.block_bytes

    def prompt(self, request: Request) -> str:
        """The text that a request was given, without the system prompt."""
        return self.config.prompt(request.number)

    def text(self, request: Request) -> str:
        """What was generated."""
        return generated_text(self.tokenizer, request)


def generated_text(tokenizer: Tokenizer, request: Request) -> str:
    """What a request's text has behind its prompt. O(tokens).

    Many vocabularies drop the space that a text begins with: what was generated is decoded with
    the prompt before it, and the prompt's text is then taken away.
    """
    prompt = tokenizer.decode(request.tokens[: request.num_prompt_tokens])
    whole = tokenizer.decode(request.tokens)
    if whole.startswith(prompt):
        return whole.removeprefix(prompt)
    return tokenizer.decode(request.generated)


def run_demo(
    config: DemoConfig,
    *,
    started: Callable[[Llama, Tokenizer, Sequence[Request]], None] | None = None,
    advanced: Callable[[Sequence[Request]], None] | None = None,
    compared: Callable[[int, int], None] | None = None,
) -> DemoResult:
    """Run it all.

    Args:
        config: what to run.
        started: told once, before the first step.
        advanced: told after each step who got a token.
        compared: told how many of all tokens are compared.

    Raises:
        ModelError: the model cannot be read, or a request fits neither it nor the pool.
        UnsupportedError: the model, or its tokenizer, is of a kind that is not here.
    """
    model = Llama.load(config.model)
    tokenizer = load_tokenizer(config.model, model.config)
    requests = _requests(config, model, tokenizer)
    engine_config = EngineConfig(
        num_blocks=config.num_blocks or _default_blocks(requests, config.block_size),
        block_size=config.block_size,
        kv_dtype=config.kv_dtype,
        max_running=config.max_running,
        max_batch_tokens=config.max_batch_tokens,
    )
    engine = Engine(model, engine_config, requests, config.sampler)
    if started is not None:
        started(model, tokenizer, requests)
    proof = None
    for who in engine.run():
        if advanced is not None:
            advanced(who)
    if config.verify:
        exact = config.kv_dtype == "float32"
        proof = prove(model, requests, config.sampler, exact=exact, progress=compared)
    return DemoResult(
        config=config,
        engine=engine_config,
        model=model,
        tokenizer=tokenizer,
        requests=requests,
        progress=engine.progress,
        stats=engine.stats,
        block_bytes=engine.block_bytes,
        proof=proof,
    )


def _requests(config: DemoConfig, model: Llama, tokenizer: Tokenizer) -> list[Request]:
    if not config.prompts:
        raise ModelError("[demo.run_demo] no prompts; expected one at least")
    count = len(config.prompts) if config.num_requests is None else config.num_requests
    positions = model.config.max_position_embeddings
    requests = []
    for number in range(count):
        tokens = tokenizer.encode(config.system, config.prompt(number))
        if len(tokens) >= positions:
            raise ModelError(
                f"[demo.run_demo] prompt {number} has {len(tokens)} tokens with the system "
                f"prompt; expected fewer than the {positions} positions of the model"
            )
        requests.append(Request(number, tokens, min(config.max_tokens, positions - len(tokens))))
    return requests


def _default_blocks(requests: Sequence[Request], block_size: int) -> int:
    """Half of what contiguous reservation takes; for a few requests all of it."""
    longest = -(-max(request.max_len for request in requests) // block_size)
    return longest * max(min(len(requests), FEW), len(requests) // 2)
