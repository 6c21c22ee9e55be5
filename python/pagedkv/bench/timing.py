"""Times that mean something on a shared machine: taken in turns, medians, on one processor, of the
thread's own processor time; and how much the others took."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pagedkv.bench.figure import Bench, Measured, Scale

__all__ = ["Others", "measure", "one_processor"]

# Windows counts a thread's time in ticks of 16 ms.
_CLOCK: Callable[[], int] = (
    time.thread_time_ns
    if time.get_clock_info("thread_time").resolution < 1e-6
    else time.perf_counter_ns
)
_STAT = Path("/proc/stat")


def measure(bench: Bench, scale: Scale, turns: int) -> Measured:
    """Check the result, then time floor and figure in turns, then check the result again."""
    contest = bench.prepare(scale)
    contest.floor()
    contest.ours()
    contest.check()
    contest.restore()
    floor_times: list[int] = []
    our_times: list[int] = []
    collects = gc.isenabled()
    gc.disable()
    try:
        with Others() as others:
            for _ in range(turns):
                floor_times.append(_time_of(contest.floor))
                our_times.append(_time_of(contest.ours))
                contest.restore()
    finally:
        if collects:
            gc.enable()
    contest.floor()
    contest.ours()
    contest.check()
    return Measured(
        ns=statistics.median(our_times) / contest.operations,
        floor_ns=statistics.median(floor_times) / contest.operations,
        others=others.share,
    )


def _time_of(work: Callable[[], None]) -> int:
    start = _CLOCK()
    work()
    return _CLOCK() - start


class Others:
    """Within `with`: the share of the machine that other processes take. 0 where nothing tells."""

    share = 0.0

    def __enter__(self) -> Self:
        self._busy, self._all = _ticks()
        self._own = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        busy, everything = _ticks()
        own = (time.process_time() - self._own) * _ticks_per_second()
        if everything > self._all:
            self.share = max(0.0, busy - self._busy - own) / (everything - self._all)


def _ticks() -> tuple[int, int]:
    """Ticks that all processors were busy, and ticks in all, since the machine started."""
    if not _STAT.exists():
        return 0, 0
    fields = [int(field) for field in _STAT.read_text().splitlines()[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@contextmanager
def one_processor() -> Iterator[int | None]:
    """Keeps the process, and those that it starts, on the processor that is fastest just now: one
    of a pair that shares a core with somebody else runs at half speed. Gives its number, or None
    where processes cannot be kept."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    allowed = os.sched_getaffinity(0)
    best = min(sorted(allowed), key=_spin)
    os.sched_setaffinity(0, {best})
    try:
        yield best
    finally:
        os.sched_setaffinity(0, allowed)


def _spin(processor: int) -> int:
    """Nanoseconds of a fixed amount of work on the processor; the best of a few."""
    os.sched_setaffinity(0, {processor})

    def work() -> None:
        sum(range(100_000))

    return min(_time_of(work) for _ in range(20))
