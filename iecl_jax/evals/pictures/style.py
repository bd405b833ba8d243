"""The common style of all figures: colours for colour-blind readers, and one small font."""

import pathlib
import textwrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from iecl_jax.data import files
from iecl_jax.run.events import Curve

# Okabe and Ito's palette, the darker colours first. Line styles also differ, for prints in grey.
BLUE, RED, GREEN, PURPLE, SKY, ORANGE = "#0072b2 #d55e00 #009e73 #cc79a7 #56b4e9 #e69f00".split()  # noqa: SIM905
COLOURS = (BLUE, RED, GREEN, PURPLE, SKY, ORANGE)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
INK, MUTED, GRID = "#222222", "#6b6b6b", "#d9d9d9"

_SETTINGS: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "iecl_jax",
    "pdf.fonttype": 42,
}
LABEL_WIDTH = 40  # characters
FEW_POINTS = 20  # A curve with at most this many points gets a mark at each.
SUFFIXES = (".png", ".svg", ".pdf")


def context():
    """Returns the context in which a figure must be made, drawn and saved."""
    return matplotlib.rc_context(_SETTINGS)


def subplots(rows: int, columns: int, *, width: float, height: float, **options: Any):
    """Returns (figure, axes [rows, columns]) of `width` by `height` inches.

    It opens no window and changes no global state. Call it, and draw on the axes, within `context`.
    `options` go to `Figure.subplots`.
    """
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def plot(axes: Axes, curve: Curve, number: int, label: str | None = None) -> None:
    """Draws a curve in the colour and dashes of its `number`, counted from 0.

    A short curve gets a dot at each point. Values that are not finite leave a gap. A long label,
    such as the name of a folder, is broken into lines.
    """
    axes.plot(
        curve.steps,
        np.where(np.isfinite(curve.values), curve.values, np.nan),
        color=COLOURS[number % len(COLOURS)],
        linestyle=DASHES[number % len(DASHES)],
        marker="o" if len(curve.steps) <= FEW_POINTS else None,
        markersize=3,
        label=textwrap.fill(label, LABEL_WIDTH) if label else label,
    )


def reference_line(axes: Axes, value: float, *, vertical: bool = False) -> None:
    """Draws a thin dashed line at `value`, a reference for the curves."""
    line = axes.axvline if vertical else axes.axhline
    line(value, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)


def picture(figure: Figure) -> np.ndarray:
    """Returns the figure as uint8 [height, width, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def check_path(path: pathlib.Path) -> None:
    """Raises ValueError unless the file name ends in .png, .svg or .pdf."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--out={path} must end in one of {', '.join(SUFFIXES)}.")


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes the figure in the format of the file name's suffix, whole or not at all.

    Raises:
      ValueError: the suffix is not in `SUFFIXES`.
    """
    check_path(path)
    with context(), files.open_whole(path) as file:
        figure.savefig(file, format=path.suffix[1:])
