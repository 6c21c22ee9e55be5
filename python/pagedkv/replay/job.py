"""The main job: one trace, replayed with pages and with contiguous reservation."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pagedkv.replay.engine import Engine
from pagedkv.replay.errors import ReplayError
from pagedkv.replay.figures import History, RunFigures
from pagedkv.replay.managed import HASH_TOKENS, ManagedStorage
from pagedkv.replay.shape import CacheShape
from pagedkv.replay.storage import PagedStorage, Storage
from pagedkv.replay.trace import Request, Trace
from pagedkv.replay.verify import Mismatch, VerifyingStorage

__all__ = ["DEFAULT_BLOCKS", "Rejection", "ReplayConfig", "ReplayResult", "replay"]

DEFAULT_BLOCKS = 16_384
MAX_BLOCKS = 2**31 - 1

# Told which run it is ("paged" or "contiguous"), requests completed and requests in all.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    """The pool, the model and the engine of a replay."""

    num_blocks: int = DEFAULT_BLOCKS
    block_size: int = 16
    shape: CacheShape = field(default_factory=CacheShape)
    max_batch: int | None = None
    max_model_len: int | None = None
    step_ms: float = 25.0
    seed: int = 0
    verify: bool = False
    keep_history: bool = False
    prefix_caching: bool = True
    hash_tokens: int = HASH_TOKENS

    def __post_init__(self) -> None:
        if not 1 <= self.num_blocks <= MAX_BLOCKS or self.block_size < 1:
            raise ReplayError(
                f"[replay.ReplayConfig] {self.num_blocks} blocks of {self.block_size} tokens; "
                f"expected 1 to {MAX_BLOCKS} blocks of 1 token or more"
            )

        if self.hash_tokens < 1:
            raise ReplayError(
                f"[replay.ReplayConfig] {self.hash_tokens} tokens a hash id; expected 1 or more"
            )

    @property
    def num_slots(self) -> int:
        """Tokens that the pool can hold."""
        return self.num_blocks * self.block_size

    @property
    def block_bytes(self) -> int:
        """Bytes of a block: keys and values of `block_size` tokens in all layers."""
        return self.block_size * self.shape.token_bytes


@dataclass(frozen=True, slots=True)
class Rejection:
    """A request that could never run."""

    request: Request
    limit: int
    reason: str

    def __str__(self) -> str:
        return (
            f"request {self.request.number} needs {self.request.total_length} tokens; "
            f"expected at most {self.limit} ({self.reason})"
        )


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay found. `contiguous` is None where not one reservation fits the pool."""

    trace: Trace
    config: ReplayConfig
    max_model_len: int
    rejections: list[Rejection]
    paged: RunFigures
    contiguous: RunFigures | None
    mismatches: list[Mismatch]
    verified: bool | None

    @property
    def accepted(self) -> int:
        """Requests that ran."""
        return len(self.trace.requests) - len(self.rejections)

    @property
    def prefix_reuse(self) -> bool:
        """Whether anything could be reused: it is asked for, and a request has hash ids."""
        return self.config.prefix_caching and any(
            request.hash_ids is not None for request in self.trace.requests
        )

    @property
    def success(self) -> bool:
        """Whether every accepted request completed and, where asked for, was verified."""
        return self.paged.completed == self.accepted and self.verified is not False


def replay(trace: Trace, config: ReplayConfig, progress: Progress | None = None) -> ReplayResult:
    """Run the trace twice from the same memory, paged and reserved to the maximum length."""
    requests, rejections = split_requests(trace.requests, config)
    longest = max((request.total_length for request in requests), default=1)
    reservation = config.max_model_len or longest

    verifying = None
    if config.verify:
        verifying = _verifying_storage(config, longest, requests)
    paged_storage: Storage[Any] = verifying or ManagedStorage(
        config.num_blocks,
        config.block_size,
        requests,
        prefix_caching=config.prefix_caching,
        hash_tokens=config.hash_tokens,
    )
    paged = _run("paged", requests, paged_storage, config, progress)

    contiguous = None
    if reservation <= config.num_slots:
        # A reservation is one block that holds the longest sequence there may be.
        whole = PagedStorage(config.num_slots // reservation, reservation, reservation)
        contiguous = _run("contiguous", requests, whole, config, progress)

    verified = None
    if verifying is not None:
        verified = verifying.verified == len(requests)
    return ReplayResult(
        trace,
        config,
        reservation,
        rejections,
        paged,
        contiguous,
        verifying.mismatches if verifying is not None else [],
        verified,
    )


def split_requests(
    requests: list[Request], config: ReplayConfig
) -> tuple[list[Request], list[Rejection]]:
    """The requests that can run, and those that are too long for the pool or for the model."""
    limit, reason = config.num_slots, "the whole pool"
    if config.max_model_len is not None and config.max_model_len < limit:
        limit, reason = config.max_model_len, "the maximum model length"
    accepted = [request for request in requests if request.total_length <= limit]
    rejected = [
        Rejection(request, limit, reason) for request in requests if request.total_length > limit
    ]
    return accepted, rejected


def _run(
    name: str,
    requests: list[Request],
    storage: Storage[Any],
    config: ReplayConfig,
    progress: Progress | None,
) -> RunFigures:
    history = History() if config.keep_history else None
    figures = RunFigures(config.num_slots, storage.block_size, history)
    engine = Engine(requests, storage, figures, step_ms=config.step_ms, max_batch=config.max_batch)
    report = None
    if progress is not None:

        def report(completed: int) -> None:
            progress(name, completed, len(requests))

    engine.run(report)
    if storage.blocks_in_use:
        raise ReplayError(
            f"[replay.replay] {storage.blocks_in_use} blocks are still in use after the {name} "
            "run; expected none"
        )
    return figures


def _verifying_storage(
    config: ReplayConfig, longest: int, requests: list[Request]
) -> VerifyingStorage:
    needed = config.num_blocks * config.block_bytes
    memory = _physical_memory()
    if memory is not None and needed > memory:
        raise ReplayError(
            f"[replay.replay] verifying needs a pool of {needed / 2**30:.1f} GiB; expected at most "
            f"the {memory / 2**30:.1f} GiB of this machine"
        )
    return VerifyingStorage(
        config.num_blocks,
        config.block_size,
        longest,
        config.shape,
        requests,
        config.seed,
        prefix_caching=config.prefix_caching,
        hash_tokens=config.hash_tokens,
    )


def _physical_memory() -> int | None:
    """Bytes of this machine's memory, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
