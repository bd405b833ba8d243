"""The gallery: sources, their two views, and what SAIB makes of the query view (Fig. 2)."""

import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from iecl_jax.data import files

ROWS = ("source", "anchor view", "query view", "SAIB(query)", "added by SAIB")


def draw(sources: np.ndarray, views: np.ndarray, transformed: np.ndarray) -> np.ndarray:
    """One picture, a column an image.

    Args:
      sources: [n, H, W, 3] in [0, 1].
      views: float [2, n, S, S, 3], anchor and query, normalised as the network sees them.
      transformed: float [n, S, S, 3], SAIB's output for the query views, in the same units.

    Returns:
      uint8 [height, width, 3].

    The views are shown on one common scale. SAIB's output is rescaled image by image to the mean
    and deviation of its view, because its skip connections alone double it; the last row is what
    remains of it after the best multiple of the view is taken away, on a scale of its own.
    """
    low, high = views.min(), views.max()
    shown = (views - low) / (high - low)
    rescaled, added = separate(views[1], transformed)
    spread = 3 * added.std() + 1e-6
    pictures = (
        sources,
        shown[0],
        shown[1],
        (rescaled - low) / (high - low),
        0.5 + added / (2 * spread),
    )
    return grid(list(zip(ROWS, pictures, strict=True)))


def separate(query: np.ndarray, transformed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What SAIB's output looks like beside its input, and what in it is new.

    Args:
      query: float [n, S, S, 3], SAIB's input.
      transformed: float [n, S, S, 3], its output.

    Returns:
      The output with the mean and deviation of the input, image by image; and the output less its
      mean and less the best multiple of the input. Both float [n, S, S, 3].
    """
    axes = (1, 2, 3)
    mean = query.mean(axes, keepdims=True)
    centred = query - mean
    deviation = transformed - transformed.mean(axes, keepdims=True)
    ratio = query.std(axes, keepdims=True) / (deviation.std(axes, keepdims=True) + 1e-6)
    power = (centred**2).sum(axes, keepdims=True) + 1e-6
    slope = (deviation * centred).sum(axes, keepdims=True) / power
    return deviation * ratio + mean, deviation - slope * centred


def grid(rows: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Images in rows with a title on the left: uint8 [height, width, 3].

    Args:
      rows: (title, images float [n, H, W, 3], shown clipped to [0, 1]), the same n in each.
    """
    count = len(rows[0][1])
    margin = 0.3 + 0.075 * max(len(line) for title, _ in rows for line in title.split("\n"))
    width = 1.1 * count + margin
    figure = Figure(figsize=(width, 1.15 * len(rows)), dpi=100)
    canvas = FigureCanvasAgg(figure)
    cells = figure.subplots(len(rows), count, squeeze=False)
    for (title, images), row in zip(rows, cells, strict=True):
        for image, cell in zip(images, row, strict=True):
            cell.imshow(np.clip(image, 0, 1), interpolation="nearest")
            cell.set(xticks=[], yticks=[])
        row[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    figure.subplots_adjust(
        left=margin / width, right=0.995, top=0.995, bottom=0.005, wspace=0.05, hspace=0.05
    )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(picture: np.ndarray, path: pathlib.Path) -> None:
    """Writes uint8 [h, w, 3] as PNG, whole or not at all."""
    with files.open_whole(path) as file:
        Image.fromarray(picture).save(file, format="PNG")
