"""The pool of a trace that is replayed up to a step, and then looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pagedkv.replay import (
    Engine,
    ManagedSequence,
    ManagedStorage,
    ReplayConfig,
    ReplayError,
    Request,
    RunFigures,
    Trace,
    split_requests,
)
from pagedkv.show.pool_map import PoolMap, pool_map

__all__ = ["ReplayedPool", "replayed_pool"]


@dataclass(frozen=True, slots=True)
class ReplayedPool:
    """A map and when it was made. Sequences are named by the request's line in the trace."""

    pool: PoolMap
    step: int
    """The engine's clock: the number of the last step that was done; -1: none was."""
    steps: int
    """Steps in which something ran."""
    waiting: int
    completed: int
    preemptions: int


def replayed_pool(trace: Trace, config: ReplayConfig, steps: int | None = None) -> ReplayedPool:
    """The pool after so many steps in which something runs.

    By default after the step at whose end the most blocks are held, the first of them: the trace
    is replayed twice then. Raises `ReplayError` for a trace without a request that fits.
    """
    requests, _ = split_requests(trace.requests, config)
    if not requests:
        raise ReplayError(f"[show.replayed_pool] '{trace.name}' has no request that fits the pool")
    if steps is not None and steps < 0:
        raise ReplayError(f"[show.replayed_pool] {steps} steps; expected 0 or more")

    if steps is None:
        steps = _fullest_step(_Run(requests, config))
    run = _Run(requests, config)
    while run.figures.steps < steps and run.engine.step():
        pass
    running = run.engine.running
    ordinals = [run.storage.tokens.ordinals[request.number] for request in running]
    pool = pool_map(run.storage.manager, ordinals, find_cached=True)
    return ReplayedPool(
        replace(pool, seq_ids=tuple(request.number for request in running)),
        run.figures.last_step,
        run.figures.steps,
        run.engine.num_waiting,
        run.figures.completed,
        run.figures.preemptions,
    )


class _Run:
    """An engine over a pool without data."""

    def __init__(self, requests: list[Request], config: ReplayConfig) -> None:
        self.storage = ManagedStorage(
            config.num_blocks,
            config.block_size,
            requests,
            prefix_caching=config.prefix_caching,
            hash_tokens=config.hash_tokens,
        )
        self.figures = RunFigures(config.num_slots, config.block_size)
        self.engine: Engine[ManagedSequence] = Engine(
            requests,
            self.storage,
            self.figures,
            step_ms=config.step_ms,
            max_batch=config.max_batch,
        )


def _fullest_step(run: _Run) -> int:
    """How many steps it takes until the most blocks are held at the end of a step."""
    fullest, most = 0, 0
    while run.engine.step():
        if run.storage.blocks_in_use > most:
            fullest, most = run.figures.steps, run.storage.blocks_in_use
    return fullest
