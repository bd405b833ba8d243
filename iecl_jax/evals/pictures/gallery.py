"""Draws the gallery: source images, their views, and SAIB's output for the query (Fig. 2)."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from iecl_jax.data import files


def draw(
    sources: np.ndarray,
    views: Sequence[np.ndarray],
    transformed: np.ndarray | None = None,
    further: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Returns the gallery as one picture with a column for each image.

    All views share one scale. SAIB's output is rescaled, image by image, to the mean and standard
    deviation of its view, since its skip connections alone double the input. The last row shows
    SAIB's output minus the best multiple of the view, on its own scale.

    Args:
      sources: [n, H, W, 3] in [0, 1].
      views: anchor and query, each float [n, S, S, 3], normalised as for the network.
      transformed: float [n, S, S, 3], SAIB's output for the query views, in the same units; None
        without SAIB.
      further: the views after the second by name, each float [n, S_i, S_i, 3], in the same units.

    Returns:
      uint8 [height, width, 3].
    """
    shown = {"anchor view": views[0], "query view": views[1]}
    shown |= {f"{name}, {view.shape[1]} px": view for name, view in (further or {}).items()}
    low = min(view.min() for view in shown.values())
    high = max(view.max() for view in shown.values())
    added = {}
    if transformed is not None:
        shown["SAIB(query)"], difference = separate(views[1], transformed)
        added["added by SAIB"] = 0.5 + difference / (6 * difference.std() + 2e-6)
    scaled = {name: (view - low) / (high - low) for name, view in shown.items()}
    return grid([*({"source": sources} | scaled | added).items()])


def separate(query: np.ndarray, transformed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rescales SAIB's output to its input, and separates what SAIB added.

    Args:
      query: float [n, S, S, 3], SAIB's input.
      transformed: float [n, S, S, 3], SAIB's output.

    Returns:
      (rescaled, added), both float [n, S, S, 3]: the output with the mean and standard deviation of
      the input; and the output minus its mean and minus the best multiple (least squares) of the
      centred input. Both are per image.
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
    """Returns rows of images, each with a title on the left, as uint8 [height, width, 3].

    Args:
      rows: (title, images float [n, H, W, 3]); images are clipped to [0, 1]; n is the same in all.
    """
    # Imported here, so that a training begins without Matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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
    """Writes a picture uint8 [h, w, 3] as PNG, whole or not at all."""
    with files.open_whole(path) as file:
        Image.fromarray(picture).save(file, format="PNG")
