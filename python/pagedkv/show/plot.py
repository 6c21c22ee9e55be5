"""A map of a pool as a picture: a square a block, and the sequences that hold the most (needs
matplotlib)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pagedkv.picture import (
    GREY,
    LINES,
    new_figure,
    require_matplotlib,
    soft_grid,
    write,
)
from pagedkv.show.pool_map import BlockState, PoolMap
from pagedkv.show.text import WORDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

__all__ = ["draw", "map_figure"]

# Brightness tells states apart, also without colours: what is free is light.
STATE_COLOURS = {
    BlockState.UNUSED: "#FFFFFF",
    BlockState.CACHED: "#D0D0D0",
    BlockState.FREE: "#E8E8E8",
    BlockState.SHARED: "#000000",
    BlockState.KEPT: GREY,
    BlockState.UNTOLD: "#B4B4B4",
}

MOST_LISTED = 12
MOST_TICKS = 10
# How far the colours of the seventh to the twelfth sequence are on the way to white.
LIGHTENED = 0.55
# Thin lines between blocks, as long as blocks are larger than the lines.
MOST_WITH_LINES = 4096


def draw(
    pool: PoolMap, path: str | Path, file_format: str | None = None, *, title: str = ""
) -> None:
    """Write the picture; `file_format` is png, svg or pdf, by default what `path` ends with."""
    write(map_figure(pool, title=title), path, file_format)


def map_figure(pool: PoolMap, *, title: str = "") -> Figure:
    """Left: the blocks in order of their ids, row by row. Right: blocks of the largest sequences.

    The largest sequences have colours of their own, the same on both sides; after twelve the
    colours come again.
    """
    require_matplotlib("show.map_figure")
    from matplotlib.legend_handler import HandlerTuple

    figure = new_figure(11.0, 5.6)
    left, right = figure.subplots(1, 2, width_ratios=(2.2, 1.0))
    _map(left, pool, title)
    _sequences(right, pool)
    # Words and counts in one place, in the order of the terminal's map.
    shown = [(state, words) for state, words in WORDS.items() if pool.count(state)]
    # matplotlib's stubs know of artists alone, and not of tuples of them.
    handles: list[Any] = [tuple(map(_patch, _of_state(state))) for state, _ in shown]
    labels = [f"{words} ({pool.count(state):,})" for state, words in shown]
    figure.legend(
        handles,
        labels,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.0)},
        loc="outside upper center",
        ncols=3,
        frameon=False,
    )
    return figure


def _of_state(state: BlockState) -> tuple[str, ...]:
    """The colour of a state, or all those that sequences have."""
    return LINES if state is BlockState.HELD else (STATE_COLOURS[state],)


def _patch(colour: str) -> Patch:
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, edgecolor="black", linewidth=0.5)


def _map(axes: Axes, pool: PoolMap, title: str) -> None:
    width = _width(pool.num_blocks)
    rows = -(-pool.num_blocks // width)
    image = np.ones((rows * width, 4))
    image[:, 3] = 0.0  # behind the last block there is nothing
    image[: pool.num_blocks] = _colours(pool)
    axes.imshow(
        image.reshape(rows, width, 4),
        extent=(0.0, width, rows * width, 0.0),
        aspect="auto",
        interpolation="nearest",
    )
    if pool.num_blocks <= MOST_WITH_LINES:
        axes.vlines(range(1, width), 0, rows * width, colors="white", linewidth=0.4)
        axes.hlines(range(width, rows * width, width), 0, width, colors="white", linewidth=0.4)
    axes.set_xlabel("block id, within a row")
    axes.set_ylabel("block id of the row's first block")
    axes.set_yticks(range(0, rows * width, width * max(1, -(-rows // MOST_TICKS))))
    axes.yaxis.set_major_formatter(lambda block, _: f"{block:,.0f}")
    axes.set_title(title, loc="left", fontsize="medium")


def _sequences(axes: Axes, pool: PoolMap) -> None:
    order = pool.largest[:MOST_LISTED]
    places = np.arange(len(order))
    shared = pool.seq_shared[order]
    alone = pool.seq_blocks[order] - shared
    axes.barh(places, alone, color=_of_ranks(places))
    axes.barh(places, shared, left=alone, color=STATE_COLOURS[BlockState.SHARED])
    axes.set_yticks(places, [str(pool.seq_ids[index]) for index in order])
    axes.set_xlim(0, 1.08 * max([1, *pool.seq_blocks]))
    axes.invert_yaxis()
    axes.set_xlabel("blocks")
    axes.set_ylabel("sequence")
    more = len(pool.seq_ids) - len(order)
    title = "sequences" if not more else f"largest {len(order)} of {len(pool.seq_ids):,} sequences"
    axes.set_title(title, loc="left", fontsize="medium")
    soft_grid(axes)


def _colours(pool: PoolMap) -> NDArray[np.float64]:
    """RGBA of each block, `[num_blocks, 4]`."""
    from matplotlib.colors import to_rgba_array

    of_states = to_rgba_array([STATE_COLOURS.get(state, "#FFFFFF") for state in BlockState])
    colours: NDArray[np.float64] = of_states[pool.states]
    held = pool.states == BlockState.HELD
    colours[held] = _of_ranks(pool.ranks_of_owners()[held])
    return colours


def _of_ranks(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """RGBA `[n, 4]`: the palette, then the palette lightened."""
    from matplotlib.colors import to_rgba_array

    full = to_rgba_array(LINES)
    light = full + (1.0 - full) * LIGHTENED
    both: NDArray[np.float64] = np.concatenate([full, light])
    return both[ranks % len(both)]


def _width(num_blocks: int) -> int:
    """A power of two that makes the map about half as high as wide."""
    return int(2 ** max(0, round(math.log2(max(1.0, math.sqrt(2 * num_blocks))))))
