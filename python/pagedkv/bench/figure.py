"""What a figure is: an operation, the floor that it is held against, and what is to be reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Bench", "Contest", "Figure", "Measured", "Scale", "duration", "require"]


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    title: str
    floor: str
    """What is timed in turns with it: the least work that does the same, or a rival."""
    least_share: float | None = None
    """Target: floor's time / our time, at least."""
    most_ns: float | None = None
    """Target: nanoseconds of one operation, at most."""

    @property
    def has_target(self) -> bool:
        return self.least_share is not None or self.most_ns is not None

    @property
    def target(self) -> str:
        """The target in words; "-" where there is none."""
        targets = []
        if self.least_share is not None:
            targets.append(f"≥ {self.least_share:.0%} of the floor's speed")
        if self.most_ns is not None:
            targets.append(f"≤ {duration(self.most_ns)}")
        return ", ".join(targets) or "-"


@dataclass(frozen=True)
class Measured:
    """Medians of one figure, nanoseconds of one operation."""

    ns: float
    floor_ns: float
    others: float
    """Share of the machine's processors that other processes used meanwhile."""

    @property
    def share(self) -> float:
        """Share of the floor's speed that is reached; above 1 is faster than the floor."""
        return self.floor_ns / self.ns

    def reaches(self, figure: Figure) -> bool:
        """Whether the figure's target is met; True where there is none."""
        return (figure.least_share is None or self.share >= figure.least_share) and (
            figure.most_ns is None or self.ns <= figure.most_ns
        )


@dataclass(frozen=True)
class Scale:
    """How much is moved."""

    tokens: int
    dim: int
    calls: int
    slots: int
    blocks: int
    """Of the largest pool of block ids."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Contest:
    """The floor and our side, ready to run in turns; each does `operations` operations."""

    operations: int
    floor: Callable[[], None]
    ours: Callable[[], None]
    check: Callable[[], None]
    """Raises AssertionError unless our side's result, after it ran, is right."""
    restore: Callable[[], None] = _nothing
    """Puts things back after each turn; not timed."""


@dataclass(frozen=True)
class Bench:
    """A figure and what measures it."""

    figure: Figure
    prepare: Callable[[Scale], Contest]


def require(holds: bool, what: str) -> None:
    """Raises AssertionError, also where Python strips `assert`: a wrong result has no time."""
    if not holds:
        raise AssertionError(what)


def duration(ns: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)):
        if ns < 999.5 * size or unit == "s":
            value = ns / size
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            text = f"{value:.{digits}f}"
            return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"
    raise AssertionError(ns)
