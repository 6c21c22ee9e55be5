"""Ours and the rivals over one case: checked, then timed in turns."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pagedkv
from pagedkv.bench.attention.case import Case
from pagedkv.bench.attention.entrant import Entrant, SkipError
from pagedkv.bench.attention.ours import Ours
from pagedkv.bench.attention.points import Point
from pagedkv.bench.attention.products import FLOP, products
from pagedkv.bench.attention.reading import Reading
from pagedkv.bench.attention.rivals import enter
from pagedkv.bench.timing import Others

__all__ = ["OUR_16_BIT", "Effort", "Row", "compare"]

OUR_16_BIT = "our bfloat16"
_OURS = "pagedkv"
_READ = "read"
# Seconds in which threads that wait for more work give up and sleep: OpenMP's after 5 ms, those of
# OpenBLAS, which has a part in prefill, after 30.
_SETTLE = 0.01
_SETTLE_PREFILL = 0.04
_TOO_SLOW = 10  # times our time: the best of a few calls tells enough
_QUIET = 0.1  # share of the machine that others may take before a row is measured again
_PREFILL_TURNS = 9


@dataclass(frozen=True)
class Effort:
    turns: int
    tries: int
    """At most so many, while other processes take a tenth of the machine."""


@dataclass(frozen=True)
class Row:
    """A line of the table. Times are medians, in milliseconds."""

    point: Point
    threads: int
    ms: float
    rivals: Mapping[str, float]
    slow: frozenset[str]
    """Those of which a few calls were timed, and the best counts."""
    ours_16_bit: float | None
    peak: float | None
    """Operations a second of the machine's matrix products."""
    others: float
    """Share of the machine's processors that other processes used meanwhile."""
    read_ms: float | None = None
    """What it takes to read our cache once; decode alone."""

    @property
    def fastest(self) -> str | None:
        """The rival that is to be beaten."""
        judges = [name for name in self.point.judges or self.rivals if name in self.rivals]
        return min(judges, key=self.rivals.__getitem__, default=None)

    @property
    def ratio(self) -> float | None:
        """Times as fast as that rival."""
        return None if self.fastest is None else self.rivals[self.fastest] / self.ms

    @property
    def speed(self) -> float:
        """Bytes of cache a second; operations a second for prefill."""
        work = self.point.flop if self.point.is_prefill else self.point.cache_bytes
        return work / self.ms * 1e3

    @property
    def peak_share(self) -> float | None:
        return None if self.peak is None else self.speed / self.peak

    @property
    def reaches_least(self) -> bool:
        """True where there is nothing to compare with."""
        least_peak = self.point.least_peak
        return (self.ratio is None or self.ratio >= self.point.least) and (
            least_peak is None or self.peak_share is None or self.peak_share >= least_peak
        )

    @property
    def reaches_goal(self) -> bool:
        """At 8 and 4 bits that is also to be faster than we are at 16."""
        goal = self.point.goal
        return (
            self.reaches_least
            and (goal is None or self.ratio is None or self.ratio >= goal)
            and (self.ours_16_bit is None or self.ms < self.ours_16_bit)
        )


def compare(
    point: Point,
    rivals: Sequence[str],
    threads: Sequence[int],
    effort: Effort,
    say: Callable[[str], None],
) -> list[Row]:
    """A row for each number of threads. `say` hears who has no part in it, and why. Raises
    AssertionError when our result is wrong."""
    case = Case(point)
    ours = Ours(case)
    reading = None if point.is_prefill else Reading([ours.k_cache, ours.v_cache])
    entrants: dict[str, Entrant] = {_OURS: ours}
    if point.is_integer:
        entrants[OUR_16_BIT] = Ours(case, "bfloat16")
    for rival in rivals:
        try:
            entrants[rival] = enter(rival, case)
        except Exception as error:
            if not isinstance(error, SkipError) or str(error):
                say(f"{rival}, {point.title}: {_first_line(error)}")
        else:
            if entrants[rival].note:
                say(f"{rival}, {point.cache}: {entrants[rival].note}")
    before = pagedkv.get_num_threads()
    try:
        return [_row(case, entrants, reading, count, effort, say) for count in threads]
    finally:
        pagedkv.set_num_threads(before)


def _row(
    case: Case,
    entrants: Mapping[str, Entrant],
    reading: Reading | None,
    threads: int,
    effort: Effort,
    say: Callable[[str], None],
) -> Row:
    point = case.point
    calls: dict[str, Callable[[], None]] = {}
    once: dict[str, float] = {}
    for name, entrant in entrants.items():
        try:
            entrant.use_threads(threads)
            entrant.run()
            case.check(name, entrant.result())
        except Exception as error:
            if name in (_OURS, OUR_16_BIT):
                raise
            say(f"{name}, {point.title}, threads: {threads}: {_first_line(error)}")
            continue
        once[name] = _at_best(entrant.run, enough=_TOO_SLOW * once.get(_OURS, 0))
        calls[name] = entrant.run
    slow = frozenset(name for name in calls if once[name] > _TOO_SLOW * once[_OURS])
    for name in slow:
        del calls[name]
    if point.is_prefill:
        for name, product in products(point.cache).items():
            product.use_threads(threads)
            product.run()
            calls[name] = product.run
    if reading is not None:
        reading.use_threads(threads)
        calls[_READ] = reading.run
    medians, others = _quietest(calls, effort, point)
    read = medians.pop(_READ, None)
    times = {name: medians.get(name, one) for name, one in once.items()}
    peaks = [FLOP / ms * 1e3 for name, ms in medians.items() if name not in entrants]
    return Row(
        point,
        threads,
        times.pop(_OURS),
        ours_16_bit=times.pop(OUR_16_BIT, None),
        rivals=times,
        slow=slow,
        read_ms=read,
        peak=max(peaks, default=None),
        others=others,
    )


def _quietest(
    calls: Mapping[str, Callable[[], None]], effort: Effort, point: Point
) -> tuple[dict[str, float], float]:
    """Medians, taken while the machine is quiet, or else in the quietest of some tries."""
    turns = min(effort.turns, _PREFILL_TURNS) if point.is_prefill else effort.turns
    tries = [_in_turns(calls, turns, prefill=point.is_prefill)]
    while tries[-1][1] >= _QUIET and len(tries) < effort.tries:
        time.sleep(1)
        tries.append(_in_turns(calls, turns, prefill=point.is_prefill))
    return min(tries, key=lambda one: one[1])


def _in_turns(
    calls: Mapping[str, Callable[[], None]], turns: int, *, prefill: bool
) -> tuple[dict[str, float], float]:
    """Each timed call follows one that is not timed, so that it finds its threads awake and the
    caches of the processor as its own calls leave them; not in prefill, whose calls are long."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    collects = gc.isenabled()
    gc.disable()
    try:
        with Others() as others:
            for _ in range(turns):
                for name, call in calls.items():
                    time.sleep(_SETTLE_PREFILL if prefill else _SETTLE)
                    if not prefill:
                        call()
                    times[name].append(_milliseconds(call))
    finally:
        if collects:
            gc.enable()
    return {name: statistics.median(each) for name, each in times.items()}, others.share


def _at_best(call: Callable[[], None], enough: float) -> float:
    """Milliseconds; no further call once they are `enough`."""
    best = _milliseconds(call)
    for _ in range(2):
        if best <= enough:
            break
        best = min(best, _milliseconds(call))
    return best


def _milliseconds(call: Callable[[], None]) -> float:
    """Of the clock on the wall: several threads work."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
