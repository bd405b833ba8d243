"""Anchors: the boxes at fixed places to which the proposals are relative.

The rules are those of torchvision's `models.detection.anchor_utils.AnchorGenerator`.
"""

from collections.abc import Sequence

import numpy as np


def base_anchors(size: float, ratios: Sequence[float]) -> np.ndarray:
    """Returns the anchors of a cell at (0, 0), float32 [len(ratios), 4], in whole pixels.

    Each has about the area size^2 and height / width = ratio. Their centre is the top left of the
    cell, without an offset of half a stride.
    """
    stretch = np.sqrt(np.asarray(ratios, np.float32))
    half_width, half_height = size / stretch / 2, size * stretch / 2
    corners = [-half_width, -half_height, half_width, half_height]
    return np.stack(corners, axis=1).astype(np.float32).round()


def grid_anchors(
    feature_size: tuple[int, int],
    canvas: tuple[int, int],
    size: float,
    ratios: Sequence[float],
) -> np.ndarray:
    """Returns the anchors of one level, float32 [height * width * len(ratios), 4].

    Args:
      feature_size: height and width of the level, in cells.
      canvas: height and width of the canvas in pixels. The stride is canvas // feature_size.
      size: square root of an anchor's area, in pixels.
      ratios: height / width of the anchors of a cell.

    Returns:
      The anchors of a cell one after another, and the cells row by row. Anchors at the edge reach
      beyond the canvas.
    """
    (height, width), base = feature_size, base_anchors(size, ratios)
    rows = np.arange(height, dtype=np.float32) * (canvas[0] // height)
    columns = np.arange(width, dtype=np.float32) * (canvas[1] // width)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    shifts = np.stack([x, y, x, y], axis=-1)
    return (shifts[:, :, None] + base[None, None]).reshape(-1, 4)
