"""A plan as a picture: sequences that fit over their length, and what one sequence's bytes are for
(needs matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pagedkv.picture import (
    BLUE,
    LIGHT,
    LINES,
    new_figure,
    require_matplotlib,
    soft_grid,
    write,
)
from pagedkv.plan.fit import fit_length
from pagedkv.plan.job import Plan
from pagedkv.plan.report import kinds
from pagedkv.sizes import format_bytes, format_tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "plan_figure"]

POINTS = 160
SHORTEST = 128
# Beyond the longest length that was asked for, so that its point is not the edge.
BEYOND = 4


def draw(plan: Plan, path: str | Path, file_format: str | None = None) -> None:
    """Write the picture; `file_format` is png, svg or pdf, by default what `path` ends with."""
    write(plan_figure(plan), path, file_format)


def plan_figure(plan: Plan) -> Figure:
    """Left: sequences at once over their length. Right: a bar a length, by kind of layer."""
    require_matplotlib("plan.plan_figure")
    figure = new_figure(10.0, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1.0))
    _sequences(left, plan)
    _bytes(right, plan)
    handles, labels = right.get_legend_handles_labels()
    columns = 2 if len(labels) > 3 else len(labels)
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
    return figure


def _sequences(axes: Axes, plan: Plan) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    asked = sorted(fit.length for fit in plan.fits)
    shortest, longest = min(SHORTEST, asked[0]), BEYOND * asked[-1]
    lengths = np.unique(np.geomspace(shortest, longest, POINTS).astype(np.int64))
    fitting = [fit_length(plan.pool, plan.budget.cache, int(n)).sequences for n in lengths]
    axes.plot(lengths, fitting, color=BLUE)
    axes.plot(
        asked,
        [fit_length(plan.pool, plan.budget.cache, n).sequences for n in asked],
        color=BLUE,
        linestyle="none",
        marker="o",
    )
    for fit in plan.fits:
        axes.annotate(
            f"{fit.sequences:,}",
            (fit.length, fit.sequences),
            xytext=(5, 5),
            textcoords="offset points",
        )
    axes.set_xscale("log", base=2)
    if min(fitting):
        axes.set_yscale("log")
        axes.set_ylim(bottom=1.0, top=2.0 * max(fitting))
    else:
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_ylim(bottom=0.0, top=2.0 * max(1, *fitting))
    axes.set_xlim(shortest, longest)
    ticks = [2**power for power in range(31) if shortest <= 2**power <= longest]
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 8)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda length, _: format_tokens(int(length)))
    axes.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    axes.set_xlabel("length of each sequence (tokens)")
    axes.set_ylabel("sequences at once")
    axes.set_title(
        f"{plan.model.model_type}, {plan.layout.kv_dtype}, {format_bytes(plan.budget.cache)}",
        loc="left",
        fontsize="medium",
    )
    soft_grid(axes)


def _bytes(axes: Axes, plan: Plan) -> None:
    """Stacked: what each kind of layer reads, states, and what nobody reads."""
    fits = sorted(plan.fits, key=lambda fit: fit.length)
    unit, name = (2**30, "GiB") if fits[-1].bytes_held >= 2**30 else (2**20, "MiB")
    below = np.zeros(len(fits))
    parts = [
        (
            str(cache),
            [
                sum(group.tokens_needed(fit.length) * group.bytes_per_token for group in groups)
                for fit in fits
            ],
        )
        for cache, groups in kinds(plan).items()
    ]
    parts += [(f"{states.state}", [states.slot_bytes] * len(fits)) for states in plan.layout.states]
    places = np.arange(len(fits))
    for index, (label, sizes) in enumerate(parts):
        heights = np.array(sizes) / unit
        axes.bar(places, heights, bottom=below, color=LINES[index % len(LINES)], label=label)
        below += heights
    wasted = np.array([fit.bytes_held - fit.useful_bytes for fit in fits]) / unit
    if wasted.any():
        axes.bar(
            places,
            wasted,
            bottom=below,
            color=LIGHT,
            edgecolor="black",
            linewidth=0.5,
            hatch="////",
            label="held, not read",
        )
    axes.set_ylim(0.0, 1.08 * max(below + wasted))
    axes.set_xticks(places, [format_tokens(fit.length) for fit in fits])
    axes.set_xlabel("length of the sequence (tokens)")
    axes.set_ylabel(f"one sequence ({name})")
    soft_grid(axes)
