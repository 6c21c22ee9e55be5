"""What all pictures have in common: colours, the file formats, and how a file is written.

Needs matplotlib, which is imported where a picture is made and nowhere else. Figures are built
without pyplot: nothing is shown, no window system is asked for, and threads do not meet.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pagedkv.errors import PagedKvError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "LIGHT",
    "LINES",
    "MARKERS",
    "ORANGE",
    "PINK",
    "SKY",
    "SUFFIXES",
    "VERMILION",
    "PictureError",
    "check_suffix",
    "new_figure",
    "require_matplotlib",
    "soft_grid",
    "write",
]

SUFFIXES = (".pdf", ".png", ".svg")

# Okabe and Ito's palette, which colour-blind readers tell apart; its yellow is faint on white and
# is left out.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILION, PINK, SKY = "#D55E00", "#CC79A7", "#56B4E9"
GREY, LIGHT = "#8A8A8A", "#EDEDED"

# Lines of one plot, in this order; markers tell them apart where colours do not.
LINES = (BLUE, VERMILION, GREEN, PINK, SKY, ORANGE)
MARKERS = "os^Dvp"

# What would differ from run to run: the time in the file, and ids drawn at random in an SVG.
METADATA = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
SVG_IDS = "pagedkv"


class PictureError(PagedKvError, ValueError):
    """A picture cannot be drawn: no matplotlib, or a file of an unknown kind."""


def require_matplotlib(where: str) -> None:
    """Raise `PictureError` in the name of `where` when matplotlib is missing."""
    try:
        import matplotlib as _matplotlib  # noqa: F401
    except ImportError as error:
        raise PictureError(
            f"[{where}] matplotlib cannot be imported ({error}); expected it to be installed: "
            "pip install 'pagedkv[plot]'"
        ) from error


def check_suffix(where: str, path: str | Path) -> None:
    """Raise `PictureError` in the name of `where` unless the name ends with one of `SUFFIXES`."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise PictureError(
            f"[{where}] the picture's name is '{path}'; expected one that ends with "
            f"{', '.join(SUFFIXES)}"
        )


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, laid out so that nothing overlaps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def soft_grid(axes: Axes) -> None:
    """Thin lines behind what is drawn."""
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)


def write(figure: Figure, path: str | Path, file_format: str | None = None) -> None:
    """Write the figure; equal figures give equal bytes.

    The format is `png`, `svg` or `pdf`, by default what the name ends with.
    """
    import matplotlib

    chosen = file_format or Path(path).suffix.lower().removeprefix(".")
    with matplotlib.rc_context({"svg.hashsalt": SVG_IDS}):
        figure.savefig(path, format=chosen, dpi=150, metadata=METADATA[chosen])
