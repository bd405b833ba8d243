"""Draws points in the plane, coloured by class, with the name of each class where it is densest."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from iecl_jax.evals.pictures import style

MOST_CLASSES = 12  # six colours in two shapes
_MARKERS = ("o", "^")


def figure(points: np.ndarray, labels: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Draws the map. Call it within `style.context`.

    Args:
      points: float [N, 2].
      labels: int [N]; -1 = unlabelled, drawn in grey. At most MOST_CLASSES differ.
      names: the names of all classes.
      title: the title.
    """
    drawn, ((axes,),) = style.subplots(1, 1, width=6.4, height=5.2)
    unknown = labels < 0
    size = 14 if len(points) > 300 else 24
    axes.scatter(*points[unknown].T, s=size, c=style.MUTED, linewidths=0)
    for number, label in enumerate(np.unique(labels[~unknown])):
        of_class = points[labels == label]
        name = str(names[label])
        marker = _MARKERS[number // len(style.COLOURS) % len(_MARKERS)]
        colour = style.COLOURS[number % len(style.COLOURS)]
        axes.scatter(
            *of_class.T, s=size, c=colour, marker=marker, alpha=0.8, linewidths=0, label=name
        )
        outline = withStroke(linewidth=2.5, foreground="white")
        axes.annotate(
            name,
            densest(of_class),
            ha="center",
            va="center",
            fontsize=10,
            fontweight="bold",
            path_effects=[outline],
            parse_math=False,  # A class may be called "$a$".
        )
    axes.set(xticks=[], yticks=[], title=title)
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if not unknown.all():
        legend = drawn.legend(loc="outside right center", markerscale=1.4)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return drawn


def densest(points: np.ndarray) -> np.ndarray:
    """Returns the one of points [N, 2] around which the smallest circle holds a quarter of them.

    The mean or median of a class that lies in several groups would be between them.
    """
    squares = ((points[:, None] - points) ** 2).sum(-1)
    radius = np.partition(squares, len(points) // 4, axis=1)[:, len(points) // 4]
    return points[radius.argmin()]
