"""Hit rate over capacity, a line a policy (needs matplotlib)."""

from __future__ import annotations

from typing import Any

from pagedkv.replay.belady import BELADY
from pagedkv.replay.plot import require_matplotlib
from pagedkv.replay.policies import PolicyResult

__all__ = ["draw_policies"]

# Okabe and Ito's palette without its yellow, which is faint on white; markers tell lines apart too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "os^Dvp"
BOUND = "black"

# Capacities that are labelled each; of more, powers of ten are.
MAX_LABELS = 8


def draw_policies(result: PolicyResult, path: str, file_format: str) -> None:
    """Write the picture; `file_format` is png, svg or pdf."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
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
            style = {
                "color": COLOURS[place % len(COLOURS)],
                "marker": MARKERS[place % len(MARKERS)],
                "markersize": 5,
            }
        label = f"{policy} (knows the future)" if policy == BELADY else policy
        axes.plot(capacities, rates, label=label, **style)
    axes.axhline(100 * result.blocks.most_hits, color="grey", linestyle=":", label="no eviction")
    axes.set_xscale("log")
    if len(capacities) <= MAX_LABELS:
        axes.xaxis.set_major_locator(FixedLocator(capacities))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda capacity, _: f"{capacity:,.0f}")
    axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:.0f} %")
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("capacity (blocks of the trace)")
    axes.set_ylabel("block references that hit")
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
    axes.legend(frameon=False)
    figure.savefig(path, format=file_format, dpi=150)
