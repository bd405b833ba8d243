"""The gallery: sources, their two views, and what SAIB makes of the query view (Fig. 2)."""

import pathlib

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

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
    axes = (1, 2, 3)
    low, high = views.min(), views.max()
    shown = (views - low) / (high - low)
    query = views[1]
    centred = query - query.mean(axes, keepdims=True)
    deviation = transformed - transformed.mean(axes, keepdims=True)
    ratio = query.std(axes, keepdims=True) / (deviation.std(axes, keepdims=True) + 1e-6)
    slope = (deviation * centred).sum(axes, keepdims=True) / (centred**2).sum(axes, keepdims=True)
    added = deviation - slope * centred
    spread = 3 * added.std() + 1e-6
    rows = (
        sources,
        shown[0],
        shown[1],
        (deviation * ratio + query.mean(axes, keepdims=True) - low) / (high - low),
        0.5 + added / (2 * spread),
    )
    count = len(sources)
    figure = Figure(figsize=(1.1 * count + 1.2, 1.15 * len(rows)), dpi=100)
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), count, squeeze=False)
    for title, images, cells in zip(ROWS, rows, grid, strict=True):
        for image, cell in zip(images, cells, strict=True):
            cell.imshow(np.clip(image, 0, 1), interpolation="nearest")
            cell.set(xticks=[], yticks=[])
        cells[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    figure.subplots_adjust(
        left=1.2 / (1.1 * count + 1.2),
        right=0.995,
        top=0.995,
        bottom=0.005,
        wspace=0.05,
        hspace=0.05,
    )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(picture: np.ndarray, path: pathlib.Path) -> None:
    """Writes uint8 [h, w, 3] as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    Image.fromarray(picture).save(partial, format="PNG")
    partial.replace(path)
