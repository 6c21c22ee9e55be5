"""The engine schedules as a slow, plain model does, and its counters are a plain recount."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagedkv.replay import (
    Engine,
    History,
    ManagedStorage,
    PagedStorage,
    ReplayError,
    Request,
    RunFigures,
)

STEP_MS = 25.0


@dataclass
class PlainModel:
    """Continuous batching token by token, with lists and without cleverness."""

    requests: list[Request]
    num_blocks: int
    block_size: int
    max_batch: int
    held: dict[int, int] = field(default_factory=dict)
    generated: dict[int, int] = field(default_factory=dict)
    running: list[Request] = field(default_factory=list)
    waiting: list[Request] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)
    preemptions: int = 0
    recomputed: int = 0
    step: int = -1

    def blocks(self) -> int:
        return sum(math.ceil(tokens / self.block_size) for tokens in self.held.values())

    def next_step(self) -> tuple[int, list[int], list[int], int, int] | None:
        """What runs, waits and is held at the end of the next step that does something."""
        arrival = {r.number: int(r.timestamp_ms // STEP_MS) for r in self.requests}
        queued = {r.number for r in [*self.running, *self.waiting]} | set(self.completed)
        future = [r for r in self.requests if r.number not in queued]
        self.step += 1
        if not self.running and not self.waiting:
            if not future:
                return None
            self.step = max(self.step, arrival[future[0].number])
        self.waiting += [r for r in future if arrival[r.number] <= self.step]

        preempted = False
        for request in list(self.running):
            if request not in self.running:
                continue
            self.held[request.number] += 1
            while request in self.running and self.blocks() > self.num_blocks:
                victim = self.running.pop()
                del self.held[victim.number]
                self.waiting.insert(0, victim)
                self.preemptions += 1
                preempted = True
            if request in self.running:
                self.generated[request.number] += 1

        while not preempted and self.waiting and len(self.running) < self.max_batch:
            request = self.waiting[0]
            done = self.generated.get(request.number)
            tokens = request.input_length + (done or 0)
            first = min(1, request.output_length)
            self.held[request.number] = tokens + first
            if self.blocks() > self.num_blocks:
                del self.held[request.number]
                break
            self.recomputed += 0 if done is None else tokens
            self.generated[request.number] = (done or 0) + first
            self.running.append(self.waiting.pop(0))

        seen = (
            self.step,
            [request.number for request in self.running],
            [request.number for request in self.waiting],
            sum(self.held.values()),
            self.blocks(),
        )
        for request in list(self.running):
            if self.generated[request.number] == request.output_length:
                self.running.remove(request)
                del self.held[request.number]
                self.completed.append(request.number)
        return seen


@st.composite
def workloads(draw):
    block_size = draw(st.integers(1, 5))
    num_blocks = draw(st.integers(1, 12))
    slots = num_blocks * block_size
    lengths = st.tuples(st.integers(1, slots), st.integers(0, 20), st.integers(0, 400))
    requests = [
        Request(number, float(time), prompt, min(output, slots - prompt))
        for number, (prompt, output, time) in enumerate(draw(st.lists(lengths, max_size=14)), 1)
    ]
    requests.sort(key=lambda request: request.timestamp_ms)
    return requests, num_blocks, block_size, draw(st.integers(1, 6))


class Watched:
    """Remembers which requests ended, and what is open."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.completed = []
        self.owners = {}

    def open(self, request, num_tokens):
        sequence = super().open(request, num_tokens)
        if sequence is not None:
            self.owners[sequence] = request
        return sequence

    def release(self, sequence, *, completed):
        if completed:
            self.completed.append(self.owners[sequence].number)
        del self.owners[sequence]
        super().release(sequence, completed=completed)


class WatchedAllocator(Watched, PagedStorage):
    """Blocks of an allocator."""

    @classmethod
    def make(cls, num_blocks, block_size, _requests):
        return cls(num_blocks, block_size, num_blocks * block_size)

    def blocks_of_open_sequences(self):
        return [block for sequence in self.owners for block in sequence.state.blocks]


class WatchedManager(Watched, ManagedStorage):
    """Blocks of a manager, for requests that share nothing."""

    @classmethod
    def make(cls, num_blocks, block_size, requests):
        return cls(num_blocks, block_size, requests)

    def blocks_of_open_sequences(self):
        self.manager.check()
        return [block for seq in self.owners for block in self.manager.block_ids(seq.ordinal)]


both_storages = pytest.mark.parametrize("storage", [WatchedAllocator, WatchedManager])


class StepByStep:
    """Seen at the end of each step, before requests that are done leave."""

    def __init__(self, storage, requests, num_blocks, block_size, max_batch):
        self.storage = storage.make(num_blocks, block_size, requests)
        self.rows = []
        seen = self

        class Figures(RunFigures):
            def add_step(self, step, running, blocks, tokens):
                engine = seen.engine
                assert running == len(engine.running)
                assert blocks == len(seen.storage.blocks_of_open_sequences())
                assert len(set(seen.storage.blocks_of_open_sequences())) == blocks <= num_blocks
                seen.rows.append(
                    (
                        step,
                        [request.number for request in engine.running],
                        [request.number for request in engine.waiting],
                        tokens,
                        blocks,
                    )
                )
                super().add_step(step, running, blocks, tokens)

        self.figures = Figures(num_blocks * block_size, block_size, History())
        self.engine = Engine(
            requests, self.storage, self.figures, step_ms=STEP_MS, max_batch=max_batch
        )


@both_storages
@settings(max_examples=150, deadline=None)
@given(workload=workloads())
def test_every_step_is_that_of_the_plain_model(storage, workload):
    requests, num_blocks, block_size, max_batch = workload
    engine = StepByStep(storage, requests, num_blocks, block_size, max_batch)
    model = PlainModel(requests, num_blocks, block_size, max_batch)
    ranks = {request.number: rank for rank, request in enumerate(requests)}
    while (expected := model.next_step()) is not None:
        assert engine.engine.step()
        assert engine.rows[-1] == expected
        _, running, waiting, _, _ = expected
        assert [ranks[n] for n in running + waiting] == sorted(ranks[n] for n in running + waiting)
        assert len(running) <= max_batch
    assert not engine.engine.step()
    assert sorted(engine.storage.completed) == sorted(request.number for request in requests)
    assert engine.storage.completed == model.completed
    assert engine.storage.blocks_in_use == 0
    assert engine.engine.tokens_held == 0
    assert engine.figures.preemptions == model.preemptions
    assert engine.figures.recomputed_tokens == model.recomputed


@both_storages
@settings(max_examples=75, deadline=None)
@given(workload=workloads())
def test_the_figures_are_a_plain_recount_of_the_steps(storage, workload):
    requests, num_blocks, block_size, max_batch = workload
    seen = StepByStep(storage, requests, num_blocks, block_size, max_batch)
    figures = seen.engine.run()
    steps = len(seen.rows)
    assert figures.steps == steps
    assert figures.completed == len(requests)
    assert figures.prompt_tokens == sum(request.input_length for request in requests)
    assert figures.generated_tokens == sum(request.output_length for request in requests)
    assert list(figures.history.steps) == [row[0] for row in seen.rows]
    assert list(figures.history.held) == [row[3] for row in seen.rows]
    if not steps:
        assert figures.useful_fraction is None
        assert figures.mean_utilization == figures.peak_utilization == 0.0
        return
    utilization = [row[4] / num_blocks for row in seen.rows]
    useful = [row[3] / (row[4] * block_size) for row in seen.rows]
    assert all(0.0 < share <= 1.0 for share in utilization + useful)
    assert figures.mean_utilization == pytest.approx(sum(utilization) / steps, rel=1e-12)
    assert figures.peak_utilization == pytest.approx(max(utilization), rel=1e-12)
    assert figures.useful_fraction == pytest.approx(sum(useful) / steps, rel=1e-12)
    assert figures.mean_running == pytest.approx(sum(len(row[1]) for row in seen.rows) / steps)
    assert figures.peak_running == max(len(row[1]) for row in seen.rows)
    assert figures.last_step == seen.rows[-1][0]


def run(requests, num_blocks, block_size, **options):
    figures = RunFigures(num_blocks * block_size, block_size, History())
    storage = PagedStorage(num_blocks, block_size, num_blocks * block_size)
    return Engine(requests, storage, figures, **options).run()


def test_a_request_takes_one_step_for_each_token_that_it_generates():
    figures = run([Request(1, 0.0, 5, 4)], 4, 4)
    assert list(figures.history.held) == [6, 7, 8, 9]
    assert list(figures.history.reserved) == [8, 8, 8, 12]
    assert figures.latency_steps == 4


def test_a_request_that_generates_nothing_takes_the_prefill_alone():
    figures = run([Request(1, 0.0, 5, 0)], 4, 4)
    assert list(figures.history.held) == [5]


def test_a_request_arrives_at_its_timestamp_over_the_step():
    figures = run([Request(1, 74.9, 1, 1), Request(2, 1000.0, 1, 1)], 4, 4, step_ms=25.0)
    assert list(figures.history.steps) == [2, 40]
    assert figures.wait_steps == 0


def test_steps_in_which_nothing_runs_do_not_count():
    figures = run([Request(1, 0.0, 4, 1), Request(2, 1e9, 4, 1)], 2, 5)
    assert figures.steps == 2
    assert figures.mean_utilization == 0.5
    assert figures.useful_fraction == 1.0


def test_the_newest_is_preempted_and_keeps_what_it_generated():
    requests = [Request(1, 0.0, 2, 6), Request(2, 0.0, 2, 6)]
    figures = run(requests, 6, 2)
    # Step 4 needs an 8th block for both; request 2 leaves with 4 tokens generated, waits for
    # request 1, and starts again with 2 + 4 tokens recomputed.
    assert figures.preemptions == 1
    assert figures.recomputed_tokens == 6
    assert list(figures.history.held) == [6, 8, 10, 12, 7, 8, 7, 8]
    assert figures.completed == 2


def test_a_batch_limit_holds_back_requests_that_would_fit():
    requests = [Request(number, 0.0, 1, 3) for number in range(1, 6)]
    figures = run(requests, 100, 4, max_batch=2)
    assert figures.peak_running == 2
    assert figures.steps == 9


def test_a_request_that_can_never_fit_is_refused_before_the_run():
    with pytest.raises(ReplayError, match=r"request 7 needs 9 tokens; expected at most the 8"):
        run([Request(7, 0.0, 8, 1)], 2, 4)
