"""Hit rate over capacity, a line a policy (needs matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagedkv.picture import GREY, LINES, MARKERS, new_figure, require_matplotlib, soft_grid, write
from pagedkv.replay.belady import BELADY
from pagedkv.replay.policies import PolicyResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_policies", "hit_rate_figure"]

BOUND = "black"

# Capacities that are labelled each; of more, powers of ten are.
MAX_LABELS = 8


def draw_policies(result: PolicyResult, path: str | Path, file_format: str | None = None) -> None:
    """Write the picture; `file_format` is png, svg or pdf, by default what `path` ends with."""
    write(hit_rate_figure(result), path, file_format)


def hit_rate_figure(result: PolicyResult) -> Figure:
    """Share of the block references that hit over the capacity, a line a policy."""
    require_matplotlib("replay.hit_rate_figure")
    from matplotlib.ticker import FixedLocator, NullLocator

    figure = new_figure(8.0, 4.8)
    axes = figure.subplots()
    capacities = sorted(result.capacities)
    online = [policy for policy in result.policies if policy != BELADY]
    style: dict[str, Any]
    for policy in result.policies:
        rates = [100 * result.hit_rate(policy, capacity) for capacity in capacities]
        if policy == BELADY:
            style = {"color": BOUND, "linestyle": "--", "marker": "."}
        else:
            place = online.index(policy)
            # Thinner from line to line: where several coincide, each can still be seen.
            left = len(online) - place
            style = {
                "color": LINES[place % len(LINES)],
                "marker": MARKERS[place % len(MARKERS)],
                "markersize": 4 + left,
                "linewidth": 0.8 + 0.7 * left,
            }
        label = f"{policy} (knows the future)" if policy == BELADY else policy
        axes.plot(capacities, rates, label=label, **style)
    axes.axhline(100 * result.blocks.most_hits, color=GREY, linestyle=":", label="no eviction")
    axes.set_xscale("log")
    if len(capacities) <= MAX_LABELS:
        axes.xaxis.set_major_locator(FixedLocator(capacities))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda capacity, _: f"{capacity:,.0f}")
    axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:.0f} %")
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("capacity (blocks of the trace)")
    axes.set_ylabel("block references that hit")
    soft_grid(axes)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure
