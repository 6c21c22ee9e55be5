"""The batch that fits: a trace, run through the engine of `pagedkv replay` in the planned pool.

Twice: *packed*, with every request there from the start, so that the batch is as large as the pool
allows; and *as it came*, by the trace's own clock. Running requests are counted at the end of each
step; of the packed run only while requests wait, because the last ones leave a pool that is no
longer full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pagedkv.plan.errors import PlanError
from pagedkv.plan.fit import Pool
from pagedkv.replay.engine import Engine
from pagedkv.replay.figures import RunFigures
from pagedkv.replay.managed import ManagedStorage
from pagedkv.replay.storage import Storage
from pagedkv.replay.trace import Request, Trace

__all__ = ["Batch", "GroupedStorage", "TraceFit", "fit_trace"]

UNLIMITED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that run at once: mean and maximum over steps."""

    mean: float
    peak: int
    preemptions: int
    steps: int


@dataclass(frozen=True, slots=True)
class TraceFit:
    """What a trace makes of the pool."""

    name: str
    requests: int
    rejected: int
    """Longer than the longest sequence that fits."""
    prefix_reuse: bool
    """Whether prompts share blocks: the trace has hash ids, and all layers of the model share one
    table and attend to everything."""
    packed: Batch
    as_it_came: Batch


class GroupedSequence:
    """A sequence's blocks, and how long it may get with them."""

    __slots__ = ("blocks", "capacity")

    cached = 0

    def __init__(self, blocks: int, capacity: int) -> None:
        self.blocks = blocks
        self.capacity = capacity


class GroupedStorage:
    """Blocks of several groups, counted by the plan's formulas; nothing is shared.

    A sequence holds what it needs at most up to its length. A prompt starts when there is room for
    it and for the chunk of its prefill.
    """

    repeated_slots = 0

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._layout = pool.layout
        # A model of states alone has a slot a sequence, and no blocks.
        self.num_blocks = pool.num_blocks or pool.state_slots
        self.block_size = max((group.block_size for group in self._layout.groups), default=1)
        self.num_slots = pool.max_tokens or UNLIMITED
        self.blocks_in_use = 0

    def open(self, request: Request, num_tokens: int) -> GroupedSequence | None:  # noqa: ARG002
        left = self.num_blocks - self._layout.prefill_blocks(num_tokens, self._pool.prefill_chunk)
        if self._blocks(num_tokens) > left - self.blocks_in_use:
            return None
        sequence = GroupedSequence(0, 0)
        self._hold(sequence, num_tokens)
        return sequence

    def grow(self, sequence: GroupedSequence, num_tokens: int) -> bool:
        more = self._blocks(num_tokens) - sequence.blocks
        if more > self.num_blocks - self.blocks_in_use:
            return False
        self._hold(sequence, num_tokens)
        return True

    def end_step(self) -> None:
        pass

    def release(self, sequence: GroupedSequence, *, completed: bool) -> None:  # noqa: ARG002
        self.blocks_in_use -= sequence.blocks

    def _blocks(self, num_tokens: int) -> int:
        return self._layout.blocks(num_tokens) if self._layout.groups else 1

    def _hold(self, sequence: GroupedSequence, num_tokens: int) -> None:
        blocks = self._blocks(num_tokens)
        self.blocks_in_use += blocks - sequence.blocks
        sequence.blocks = blocks
        sequence.capacity = min(
            (
                group.blocks(num_tokens) * group.block_size
                for group in self._layout.groups
                if group.blocks(num_tokens) < group.blocks(UNLIMITED)
            ),
            default=UNLIMITED,
        )


def fit_trace(pool: Pool, trace: Trace, step_ms: float) -> TraceFit:
    """The batch of the trace in this pool. Raises `PlanError` when no request of it fits."""
    limit = pool.max_tokens
    requests = [r for r in trace.requests if limit is None or r.total_length <= limit]
    if not requests:
        what = "no requests" if not trace.requests else f"no request of {limit:,} tokens or fewer"
        raise PlanError(f"[plan.plan] '{trace.name}' has {what}; expected at least one")
    groups = pool.layout.groups
    one_table = len(groups) == 1 and groups[0].cache.window is None and not pool.layout.states
    packed = [replace(request, timestamp_ms=0.0) for request in requests]
    return TraceFit(
        trace.name,
        len(trace.requests),
        len(trace.requests) - len(requests),
        one_table and any(request.hash_ids is not None for request in requests),
        _run(pool, packed, step_ms, one_table, while_waiting=True),
        _run(pool, requests, step_ms, one_table, while_waiting=False),
    )


def _run(
    pool: Pool, requests: Sequence[Request], step_ms: float, one_table: bool, *, while_waiting: bool
) -> Batch:
    storage = _storage(pool, requests, one_table)
    figures = RunFigures(storage.num_blocks * storage.block_size, storage.block_size)
    slots = pool.state_slots or None
    engine = Engine(requests, storage, figures, step_ms=step_ms, max_batch=slots)
    counted = None
    while engine.step():
        if while_waiting and not engine.num_waiting:
            break
        counted = _batch(figures)
    return counted or _batch(figures)


def _storage(pool: Pool, requests: Sequence[Request], one_table: bool) -> Storage[Any]:
    if one_table:
        return ManagedStorage(pool.num_blocks, pool.layout.groups[0].block_size, requests)
    return GroupedStorage(pool)


def _batch(figures: RunFigures) -> Batch:
    return Batch(figures.mean_running, figures.peak_running, figures.preemptions, figures.steps)
