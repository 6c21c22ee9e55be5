"""Continuous batching: who runs at each step, who waits, and who must give way.

The clock is the engine's step. In one step, in this order:
1. requests whose time has come join the end of the waiting queue;
2. each running sequence gains one token; where that needs room and there is none, the newest
   running sequence is preempted (its tokens are recomputed later), until there is;
3. unless a sequence was just preempted, waiting requests start in order of arrival, as long as
   there is room for the whole prompt and the first token, which their first step yields;
4. what is held is counted; then requests with all their tokens end.

A preempted request goes back to the front of the queue, keeps the tokens that it generated, and
starts again with all of them and the next one. Every running request arrived before every waiting
one, so the oldest always moves on: nothing starves, nothing loops.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Generic

from pagedkv.replay.errors import ReplayError
from pagedkv.replay.figures import RunFigures
from pagedkv.replay.storage import S, Storage
from pagedkv.replay.trace import Request

__all__ = ["Engine"]


class _Job:
    """A request on its way: its rank is its place in order of arrival."""

    __slots__ = ("arrival", "generated", "rank", "request", "started")

    def __init__(self, request: Request, rank: int, arrival: int) -> None:
        self.request = request
        self.rank = rank
        self.arrival = arrival
        self.generated = 0
        self.started = -1


class _Run(Generic[S]):
    """A job between two admissions: it held `length` tokens after step `start`, one more each
    step since. Its calendar entries are void once it is no longer `active`."""

    __slots__ = ("active", "finish", "job", "length", "sequence", "start")

    def __init__(self, job: _Job, sequence: S, start: int, length: int) -> None:
        self.job = job
        self.sequence = sequence
        self.start = start
        self.length = length
        self.finish = start + job.request.total_length - length
        self.active = True

    def length_after(self, step: int) -> int:
        return self.length + step - self.start


class Engine(Generic[S]):
    """Runs requests through a storage, counting in `figures`.

    Work is done per event (admission, a sequence that needs room, an end), not per token: both
    are known in advance and kept in calendars keyed by step.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        storage: Storage[S],
        figures: RunFigures,
        *,
        step_ms: float = 25.0,
        max_batch: int | None = None,
    ) -> None:
        for request in requests:
            if request.total_length > storage.num_slots:
                raise ReplayError(
                    f"[Engine] request {request.number} needs {request.total_length} tokens; "
                    f"expected at most the {storage.num_slots} of the storage"
                )
        self.figures = figures
        self.now = 0
        self._storage = storage
        self._max_batch = max_batch if max_batch is not None else len(requests)
        self._arrivals = deque(
            _Job(request, rank, math.floor(request.timestamp_ms / step_ms))
            for rank, request in enumerate(sorted(requests, key=lambda r: r.timestamp_ms))
        )
        self._waiting: deque[_Job] = deque()
        # In order of arrival: admissions append, preemptions take from the end.
        self._running: dict[int, _Run[S]] = {}
        self._tokens_held = 0
        self._needs_room: dict[int, list[_Run[S]]] = {}
        self._ends: dict[int, list[_Run[S]]] = {}

    @property
    def running(self) -> list[Request]:
        """The requests that run, oldest first."""
        return [run.job.request for run in self._running.values()]

    @property
    def waiting(self) -> list[Request]:
        """The requests that wait, next one first."""
        return [job.request for job in self._waiting]

    @property
    def num_waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def tokens_held(self) -> int:
        """Tokens of all running sequences."""
        return self._tokens_held

    def run(self, progress: Callable[[int], None] | None = None) -> RunFigures:
        """Step until every request is completed; `progress` is told how many are."""
        begin = perf_counter()
        while self.step():
            if progress is not None:
                progress(self.figures.completed)
        self.figures.seconds += perf_counter() - begin
        return self.figures

    def step(self) -> bool:
        """Do the next step in which something runs; False when all is done."""
        if not self._running and not self._waiting:
            if not self._arrivals:
                return False
            self.now = max(self.now, self._arrivals[0].arrival)
        step = self.now
        self._arrive(step)
        if self._grow(step):
            self._admit(step)
        self._storage.end_step()
        self.figures.add_step(
            step,
            len(self._running),
            self._storage.blocks_in_use,
            self._tokens_held - self._storage.repeated_slots,
        )
        self._end(step)
        self.now = step + 1
        return True

    def _arrive(self, step: int) -> None:
        arrivals = self._arrivals
        while arrivals and arrivals[0].arrival <= step:
            self._waiting.append(arrivals.popleft())

    def _grow(self, step: int) -> bool:
        """Give each running sequence its next token; False when one had to be preempted."""
        self._tokens_held += len(self._running)
        due = self._needs_room.pop(step, None)
        if due is None:
            return True
        preemptions = self.figures.preemptions
        due.sort(key=lambda run: run.job.rank)
        for run in due:
            if run.active and self._make_room(run, step):
                self._plan_growth(run)
        return self.figures.preemptions == preemptions

    def _make_room(self, run: _Run[S], step: int) -> bool:
        """Preempt the newest until the run has room; False when it was itself the newest."""
        length = run.length_after(step)
        while not self._storage.grow(run.sequence, length):
            newest = self._running[next(reversed(self._running))]
            self._preempt(newest, step)
            if newest is run:
                return False
        return True

    def _preempt(self, run: _Run[S], step: int) -> None:
        job = run.job
        self._tokens_held -= run.length_after(step)
        job.generated = run.length_after(step - 1) - job.request.input_length
        self._close(run, completed=False)
        self._waiting.appendleft(job)
        self.figures.preemptions += 1

    def _admit(self, step: int) -> None:
        waiting = self._waiting
        while waiting and len(self._running) < self._max_batch:
            job = waiting[0]
            request = job.request
            again = request.input_length + job.generated
            length = min(again + 1, request.total_length)
            sequence = self._storage.open(request, length)
            if sequence is None:
                return
            waiting.popleft()
            figures = self.figures
            if job.started < 0:
                job.started = step
                figures.prompt_tokens += again
                figures.prompt_hits += sequence.cached
            else:
                figures.recomputed_tokens += again - sequence.cached
                figures.resumed_hits += sequence.cached
            run = _Run(job, sequence, step, length)
            self._running[job.rank] = run
            self._tokens_held += length
            self._ends.setdefault(run.finish, []).append(run)
            self._plan_growth(run)

    def _plan_growth(self, run: _Run[S]) -> None:
        step = run.start + run.sequence.capacity - run.length + 1
        if step <= run.finish:
            self._needs_room.setdefault(step, []).append(run)

    def _end(self, step: int) -> None:
        figures = self.figures
        for run in self._ends.pop(step, ()):
            if not run.active:
                continue
            job = run.job
            self._tokens_held -= job.request.total_length
            self._close(run, completed=True)
            figures.completed += 1
            figures.generated_tokens += job.request.output_length
            figures.wait_steps += job.started - job.arrival
            figures.latency_steps += step - job.arrival + 1

    def _close(self, run: _Run[S], *, completed: bool) -> None:
        self._storage.release(run.sequence, completed=completed)
        run.active = False
        del self._running[run.job.rank]
