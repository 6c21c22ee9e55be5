"""What one run of the engine is measured by. Every average is over the steps that ran."""

from __future__ import annotations

from array import array

__all__ = ["History", "RunFigures"]


class History:
    """One row a step, for plots: the step, slots reserved, tokens held."""

    def __init__(self) -> None:
        self.steps = array("q")
        self.reserved = array("q")
        self.held = array("q")

    def add(self, step: int, reserved: int, held: int) -> None:
        self.steps.append(step)
        self.reserved.append(reserved)
        self.held.append(held)


class RunFigures:
    """Counters of a run over `pool_slots` token slots in blocks of `block_size`."""

    def __init__(self, pool_slots: int, block_size: int, history: History | None = None) -> None:
        self.pool_slots = pool_slots
        self.block_size = block_size
        self.history = history
        self.completed = 0
        self.preemptions = 0
        self.steps = 0
        self.last_step = -1
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.recomputed_tokens = 0
        self.prompt_hits = 0
        self.resumed_hits = 0
        self.peak_running = 0
        self.peak_blocks = 0
        self.wait_steps = 0
        self.latency_steps = 0
        self.seconds = 0.0
        self._block_steps = 0
        self._running_steps = 0
        self._useful = 0.0

    def add_step(self, step: int, running: int, blocks: int, tokens: int) -> None:
        """Count a step at whose end `running` sequences hold `tokens` tokens in `blocks` blocks; a
        block that several of them hold, and its tokens, count once."""
        self.steps += 1
        self.last_step = step
        self._running_steps += running
        self._block_steps += blocks
        reserved = blocks * self.block_size
        self._useful += tokens / reserved
        if running > self.peak_running:
            self.peak_running = running
        if blocks > self.peak_blocks:
            self.peak_blocks = blocks
        if self.history is not None:
            self.history.add(step, reserved, tokens)

    @property
    def tokens(self) -> int:
        """Tokens that were put into sequences, recomputed ones each time."""
        return self.prompt_tokens + self.generated_tokens + self.recomputed_tokens

    @property
    def tokens_per_second(self) -> float:
        """Of the whole run, writes and checks of data included where there are any."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def prefix_hit_rate(self) -> float:
        """Share of prompt tokens that were found when their request first started; 0 without."""
        return self.prompt_hits / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def tokens_saved(self) -> int:
        """Tokens that were found and so not computed, by requests that resume too."""
        return self.prompt_hits + self.resumed_hits

    @property
    def peak_utilization(self) -> float:
        """The largest share of the pool's slots that was reserved at the end of a step."""
        return self.peak_blocks * self.block_size / self.pool_slots

    @property
    def mean_utilization(self) -> float:
        """Share of the pool's slots that was reserved, averaged over steps; 0 without steps."""
        if not self.steps:
            return 0.0
        return self._block_steps * self.block_size / (self.steps * self.pool_slots)

    @property
    def useful_fraction(self) -> float | None:
        """Tokens held / slots reserved, averaged over steps; None without steps."""
        return self._useful / self.steps if self.steps else None

    @property
    def mean_running(self) -> float:
        """Sequences that ran in a step, on average."""
        return self._running_steps / self.steps if self.steps else 0.0

    @property
    def mean_wait_steps(self) -> float:
        """Steps from a request's arrival to its first prefill, over completed requests."""
        return self.wait_steps / self.completed if self.completed else 0.0

    @property
    def mean_latency_steps(self) -> float:
        """Steps from a request's arrival to its end, both counted, over completed requests."""
        return self.latency_steps / self.completed if self.completed else 0.0
