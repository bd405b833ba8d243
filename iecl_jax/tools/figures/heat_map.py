"""Draws a matrix of accuracies as coloured cells with numbers (Fig. 3)."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from iecl_jax.evals.pictures import style

_COLOURS = matplotlib.colormaps["viridis"]
_GAP = 0.2  # Width of the gap before the averages, in cells.


def draw(
    values: np.ndarray,
    averages: np.ndarray | None,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    titles: tuple[str, str],
    title: str,
    unit: str,
) -> Figure:
    """Draws a heat map with the first row on top. NaN cells are hatched and have no number.

    Args:
      values: float [R, C].
      averages: float [R], the averages of the rows (NaN = none), shown as a separate column; None =
        no such column.
      rows, columns: names of the R rows and C columns.
      titles: titles of the axes of rows and columns.
      title: title of the figure.
      unit: unit of the values, shown at the colour bar.

    Raises:
      ValueError: the names do not fit the shapes.
    """
    wanted = (len(rows), len(columns))
    if values.shape != wanted or (averages is not None and averages.shape != wanted[:1]):
        raise ValueError(
            f"values {list(values.shape)} must be [{wanted[0]}, {wanted[1]}], a number for each of "
            "the names, and averages one for each row."
        )
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    scale = ScalarMappable(Normalize(low, high if high > low else low + 1.0), _COLOURS)
    places = [(float(column), values[:, column]) for column in range(len(columns))]
    if averages is not None:
        places.append((len(columns) + _GAP, averages))
    with style.context():
        size = {"width": 2.6 + 0.75 * len(places), "height": 1.5 + 0.55 * len(rows)}
        figure, ((axes,),) = style.subplots(1, 1, **size)
        for left, column in places:
            for top, value in enumerate(column):
                _cell(axes, left, top, value, scale)
        axes.set(xlim=(-0.05, places[-1][0] + 1.05), ylim=(len(rows) + 0.05, -0.05), title=title)
        names = [*columns, *(["average"] if averages is not None else [])]
        axes.set_xticks([left + 0.5 for left, _ in places], names)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
        axes.set(ylabel=titles[0], xlabel=titles[1])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if known.size:
            bar = figure.colorbar(scale, ax=axes, label=unit, pad=0.02)
            bar.outline.set_visible(False)
    return figure


def _cell(axes, left: float, top: float, value: np.ndarray, scale: ScalarMappable) -> None:
    if not np.isfinite(value):
        axes.add_patch(
            Rectangle((left, top), 1, 1, fill=False, hatch="///", edgecolor=style.GRID, linewidth=1)
        )
        return
    colour = np.asarray(scale.to_rgba(value))
    axes.add_patch(Rectangle((left, top), 1, 1, facecolor=colour, edgecolor="white", linewidth=1))
    # Text is dark on light cells and white on dark ones; the weights are Rec. 709's.
    luminance = colour[:3] @ (0.2126, 0.7152, 0.0722)
    ink = style.INK if luminance > 0.45 else "white"
    axes.text(left + 0.5, top + 0.5, f"{value:.1f}", ha="center", va="center", color=ink)
