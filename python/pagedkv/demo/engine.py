"""Continuous batching: each step takes the next token of all who decode, and prompts in chunks.

In one step, in this order:
1. waiting requests start in order of arrival, while there is room for their text and the step has
   tokens left to spend on prompts; what the prefix index has of a prompt is not computed again;
2. where blocks are short, the newest running request is preempted: it gives its blocks back, keeps
   its tokens, and goes to the front of the queue;
3. the model runs over the batch; who has computed all its known tokens gets the next one;
4. who is done leaves, and its blocks stay cached until somebody needs them.

Every running request arrived before every waiting one, and the oldest is never preempted for
another: it always moves on, and nothing starves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import numpy.typing as npt

from pagedkv._core import KVCacheManager, Stats
from pagedkv.models import Llama, ModelError, PagedCache, Sampler

__all__ = ["Engine", "EngineConfig", "Progress", "Request", "require_finite"]


@dataclass(slots=True, eq=False)
class Request:
    """A prompt on its way to being a text.

    Attributes:
        number: its place among the requests; from 0.
        tokens: the prompt's ids, and those that were generated.
        num_prompt_tokens: how many of them are the prompt.
        max_tokens: generated at most.
        logits: what the model thought of each generated token, `[num_generated]`.
        finish_reason: "stop" at an end-of-text token, which is kept, or "length"; None: it runs.
        cached_tokens: of the prompt that were found in the prefix index when it first started.
        preemptions: how often it gave its blocks back.
    """

    number: int
    tokens: list[int]
    max_tokens: int
    num_prompt_tokens: int = 0
    logits: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    cached_tokens: int = 0
    preemptions: int = 0
    started: bool = False

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.tokens)

    @property
    def generated(self) -> list[int]:
        """The ids behind the prompt."""
        return self.tokens[self.num_prompt_tokens :]

    @property
    def max_len(self) -> int:
        """Tokens at its longest. The last one is never fed back, but a reservation has room."""
        return self.num_prompt_tokens + self.max_tokens


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How an engine spends memory and steps.

    Attributes:
        num_blocks: blocks of the pool.
        block_size: tokens a block.
        kv_dtype: of keys and values, one of `pagedkv.models.KV_DTYPES`.
        max_running: requests at once; None: any number.
        max_batch_tokens: tokens of a step; decoding ones go before prompts.
    """

    num_blocks: int
    block_size: int = 16
    kv_dtype: str = "float32"
    max_running: int | None = None
    max_batch_tokens: int = 128


@dataclass(slots=True)
class Progress:
    """What an engine has done so far.

    Attributes:
        steps: batches that the model ran over.
        computed_tokens: tokens that the model ran over.
        generated_tokens: tokens that it chose.
        peak_blocks: most blocks that running requests held.
        peak_running: most requests that ran at once.
        seconds: in steps.
    """

    steps: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    peak_blocks: int = 0
    peak_running: int = 0
    seconds: float = 0.0


class Engine:
    """Runs requests to their ends, a batch a step.

    Attributes:
        progress: counters.
        block_bytes: of one block, all layers counted.
    """

    def __init__(
        self, model: Llama, config: EngineConfig, requests: Sequence[Request], sampler: Sampler
    ) -> None:
        """The requests in order of arrival; all are waiting.

        Raises:
            ModelError: a request is longer than the pool or the model allows, has no tokens, or
                ids that the model does not know.
        """
        self.progress = Progress()
        self._model = model
        self._config = config
        self._sampler = sampler
        for request in requests:
            self._check(request)
        self._manager = KVCacheManager(config.num_blocks, config.block_size)
        longest = max((request.max_len for request in requests), default=1)
        self._cache = PagedCache(
            model.config,
            config.num_blocks,
            config.block_size,
            dtype=config.kv_dtype,
            max_len=longest,
        )
        self.block_bytes = self._cache.block_bytes
        self._waiting = deque(requests)
        self._running: list[Request] = []
        for request in requests:
            self._manager.add(request.number, request.tokens)

    @property
    def stats(self) -> Stats:
        """The manager's counters."""
        return self._manager.stats()

    @property
    def running(self) -> list[Request]:
        """Requests that hold blocks, oldest first."""
        return list(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for room."""
        return len(self._waiting)

    @property
    def blocks_held(self) -> int:
        """Blocks of running requests; one that several share counts once."""
        return self._config.num_blocks - self._manager.num_free_blocks

    def run(self) -> Iterator[list[Request]]:
        """Step until all are done; after each step, those that got a token or ended in it."""
        while self._waiting or self._running:
            yield self.step()

    def step(self) -> list[Request]:
        """One batch; the requests that got a token in it, oldest first. None may be left.

        Raises:
            ModelError: the model gives logits that are not all finite; nobody gets a token then.
        """
        if not self._waiting and not self._running:
            return []
        begin = perf_counter()
        self._admit()
        counts = self._make_room()
        advanced = self._forward(counts)
        self.progress.seconds += perf_counter() - begin
        return advanced

    def _admit(self) -> None:
        config, manager = self._config, self._manager
        limit = len(self._waiting) + len(self._running)
        if config.max_running is not None:
            limit = config.max_running
        budget = config.max_batch_tokens - sum(self._due(request) for request in self._running)
        while self._waiting and len(self._running) < limit and budget > 0:
            request = self._waiting[0]
            # Its text and one token more, and a block for everyone who may need one this step.
            needed = len(request.tokens) // config.block_size + 1 + len(self._running)
            if self._running and needed > manager.num_free_blocks:
                return
            self._running.append(self._waiting.popleft())
            cached = int(manager.acquire([request.number])[0])
            if not request.started:
                request.started, request.cached_tokens = True, cached
            budget -= self._due(request)

    def _due(self, request: Request) -> int:
        """Its known tokens that the model has not seen."""
        return len(request.tokens) - self._manager.num_scheduled(request.number)

    def _make_room(self) -> list[int]:
        """How many tokens each running request computes; preempts until they fit."""
        while True:
            counts = self._share()
            numbers = [request.number for request in self._running]
            if self._manager.fit(numbers, counts) == len(numbers):
                return counts
            newest = self._running[-1]
            self._manager.preempt([newest.number])
            if len(self._running) > 1:
                newest.preemptions += 1
                self._waiting.appendleft(self._running.pop())
            else:
                # The pool holds it, but for a cached block that it begins like and has to copy.
                self._manager.evict(1)
                self._manager.acquire([newest.number])

    def _share(self) -> list[int]:
        """The step's tokens: one for each that decodes, the rest to prompts, oldest first."""
        due = [self._due(request) for request in self._running]
        left = max(0, self._config.max_batch_tokens - due.count(1))
        counts = []
        for each in due:
            counts.append(1 if each == 1 else min(each, left))
            left -= 0 if each == 1 else counts[-1]
        return counts

    def _forward(self, counts: list[int]) -> list[Request]:
        running, manager = self._running, self._manager
        numbers = [request.number for request in running]
        tokens = []
        for request, count in zip(running, counts, strict=True):
            first = manager.num_scheduled(request.number)
            tokens += request.tokens[first : first + count]
        batch = manager.schedule(numbers, counts)
        self._count(len(tokens))
        self._cache.begin(batch)
        hidden = self._model.forward(np.array(tokens), self._cache)
        last = batch.query_start_loc[1:] - 1
        manager.commit(numbers, counts)
        ready = [
            (request, row)
            for request, row, count in zip(running, last, counts, strict=True)
            if count and manager.num_committed(request.number) == len(request.tokens)
        ]
        if not ready:
            return []
        logits = self._model.logits(hidden[[row for _, row in ready]])
        advanced = [request for request, _ in ready]
        require_finite("demo.Engine", advanced, logits)
        for request, row in zip(advanced, logits, strict=True):
            self._extend(request, row)
        manager.append([r.number for r in advanced], [r.tokens[-1] for r in advanced])
        manager.free([r.number for r in advanced if r.finish_reason])
        self._running = [r for r in running if not r.finish_reason]
        return advanced

    def _extend(self, request: Request, logits: npt.NDArray[np.float32]) -> None:
        place = len(request.logits)
        token = self._sampler.choose(logits, request.number, place)
        request.tokens.append(token)
        request.logits.append(float(logits[token]))
        self.progress.generated_tokens += 1
        if token in self._model.config.eos_token_ids:
            request.finish_reason = "stop"
        elif place + 1 == request.max_tokens:
            request.finish_reason = "length"

    def _count(self, num_tokens: int) -> None:
        progress = self.progress
        progress.steps += 1
        progress.computed_tokens += num_tokens
        progress.peak_blocks = max(progress.peak_blocks, self.blocks_held)
        progress.peak_running = max(progress.peak_running, len(self._running))

    def _check(self, request: Request) -> None:
        def refused(came: str, expected: str) -> ModelError:
            return ModelError(f"[demo.Engine] request {request.number} {came}; expected {expected}")

        config = self._model.config
        if not request.tokens or request.max_tokens < 1:
            raise refused("has no tokens, or wants none", "one of each at least")
        if request.max_len > config.max_position_embeddings:
            raise refused(
                f"takes {request.max_len} tokens",
                f"at most the {config.max_position_embeddings} positions of the model",
            )
        slots = self._config.num_blocks * self._config.block_size
        if request.max_len > slots:
            raise refused(f"takes {request.max_len} tokens", f"at most the {slots} of the pool")
        unknown = [t for t in request.tokens if not 0 <= t < config.vocab_size]
        if unknown:
            raise refused(f"has token {unknown[0]}", f"ids below {config.vocab_size}")


def require_finite(
    function: str, requests: Sequence[Request], logits: npt.NDArray[np.float32]
) -> None:
    """Logits ``[len(requests), vocab_size]`` are numbers: of NaNs any token would be as good, and
    two models that are both broken would agree."""
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        number = requests[int(finite.argmin())].number
        raise ModelError(
            f"[{function}] request {number}: logits that are not all finite; expected numbers: "
            "the weights are broken, or kv_dtype overflows"
        )
