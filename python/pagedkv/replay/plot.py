"""Utilization over time, paged and contiguous one above the other (needs matplotlib)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pagedkv.replay.errors import ReplayError
from pagedkv.replay.figures import RunFigures
from pagedkv.replay.job import ReplayResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PLOT_SUFFIXES", "draw", "over_time", "require_matplotlib"]

PLOT_SUFFIXES = (".pdf", ".png", ".svg")

# Points along the time axis: more cannot be told apart on paper.
MAX_POINTS = 800

# From Okabe and Ito's palette, which colour-blind readers tell apart; dark on light as well.
HELD = "#0072B2"
RESERVED = "#E69F00"


def require_matplotlib() -> None:
    """Raise `ReplayError` where matplotlib is missing."""
    try:
        import matplotlib as _matplotlib  # noqa: F401
    except ImportError as error:
        raise ReplayError(
            f"[replay.plot] matplotlib cannot be imported ({error}); expected it to be installed: "
            "pip install 'pagedkv[plot]'"
        ) from error


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


def draw(result: ReplayResult, path: str, file_format: str) -> None:
    """Write the picture of a replay that kept its history; `file_format` is png, svg or pdf."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = [("paged", result.paged)]
    if result.contiguous is not None:
        runs.append(("contiguous", result.contiguous))
    last_step = max(run.last_step for _, run in runs)
    figure = Figure(figsize=(8.0, 1.2 + 2.4 * len(runs)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(runs), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (name, run) in zip(panels, runs, strict=True):
        _panel(axes, name, run, last_step, result.config.step_ms)
    panels[-1].set_xlabel("time (s)")
    figure.supylabel("share of the pool's token slots", fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, format=file_format, dpi=150)


def _panel(axes: Axes, name: str, run: RunFigures, last_step: int, step_ms: float) -> None:
    title = name
    if run.useful_fraction is not None:
        title += f": {100 * run.useful_fraction:.1f} % of what is reserved holds tokens"
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_ylim(0.0, 1.02)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
    axes.margins(x=0)
    if last_step < 0:
        return
    steps, reserved, held = over_time(run, last_step)
    edges = np.append(steps, last_step + 1) * (step_ms / 1000.0)
    axes.stairs(reserved, edges, baseline=held, fill=True, color=RESERVED, label="reserved, empty")
    axes.stairs(held, edges, fill=True, color=HELD, label="holds tokens")
