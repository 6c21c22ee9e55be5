"""Utilization over time, paged and contiguous one above the other (needs matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pagedkv.picture import BLUE, ORANGE, new_figure, require_matplotlib, soft_grid, write
from pagedkv.replay.errors import ReplayError
from pagedkv.replay.figures import RunFigures
from pagedkv.replay.job import ReplayResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "over_time", "usage_figure"]

# Points along the time axis: more cannot be told apart on paper.
MAX_POINTS = 800

HELD = BLUE
RESERVED = ORANGE


def over_time(run: RunFigures, last_step: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """First step, share of slots reserved and share of slots that hold tokens, an interval each.

    Shares are means over the steps of the interval; steps in which nothing runs count as 0.
    """
    if run.history is None:
        raise ReplayError("[replay.plot] the run kept no history; expected keep_history")
    num_steps = last_step + 1
    width = max(1, -(-num_steps // MAX_POINTS))
    starts = np.arange(0, num_steps, width)
    lengths = np.minimum(starts + width, num_steps) - starts
    interval = np.frombuffer(run.history.steps, dtype=np.int64) // width
    shares = [
        np.bincount(interval, weights=np.frombuffer(slots, dtype=np.int64), minlength=len(starts))
        / (lengths * run.pool_slots)
        for slots in (run.history.reserved, run.history.held)
    ]
    return starts, shares[0], shares[1]


def draw(result: ReplayResult, path: str | Path, file_format: str | None = None) -> None:
    """Write the picture of a replay that kept its history; `file_format` is png, svg or pdf, by
    default what `path` ends with."""
    write(usage_figure(result), path, file_format)


def usage_figure(result: ReplayResult) -> Figure:
    """Slots reserved and slots that hold tokens over time, a panel a run."""
    require_matplotlib("replay.usage_figure")
    runs = [("paged", result.paged)]
    if result.contiguous is not None:
        runs.append(("contiguous", result.contiguous))
    last_step = max(run.last_step for _, run in runs)
    figure = new_figure(8.0, 1.2 + 2.4 * len(runs))
    panels = figure.subplots(len(runs), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (name, run) in zip(panels, runs, strict=True):
        _panel(axes, name, run, last_step, result.config.step_ms)
    panels[-1].set_xlabel("time (s)")
    figure.supylabel("share of the pool's token slots", fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _panel(axes: Axes, name: str, run: RunFigures, last_step: int, step_ms: float) -> None:
    title = name
    if run.useful_fraction is not None:
        title += f": {100 * run.useful_fraction:.1f} % of what is reserved holds tokens"
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_ylim(0.0, 1.02)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    soft_grid(axes)
    axes.margins(x=0)
    if last_step < 0:
        return
    steps, reserved, held = over_time(run, last_step)
    edges = np.append(steps, last_step + 1) * (step_ms / 1000.0)
    axes.stairs(reserved, edges, baseline=held, fill=True, color=RESERVED, label="reserved, empty")
    axes.stairs(held, edges, fill=True, color=HELD, label="holds tokens")
