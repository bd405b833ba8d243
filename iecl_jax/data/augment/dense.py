"""Places an image on a canvas of a fixed size, and its mask or boxes with it; on the host.

`Placement` says where. It is drawn once for an image and moves everything that belongs to it, so
images, masks and boxes stay together. At scale 1, the whole image just fits into the canvas.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

Size = tuple[int, int]  # height and width in pixels


class Placement(NamedTuple):
    """Where the pixels of a canvas come from.

    The image is resized from `source` to `scaled`. Of that, the part with the top left corner
    `corner` and the size `shown` lies at the top left of the canvas; the rest is padding. The part
    is mirrored if `flip` is True.
    """

    source: Size
    scaled: Size
    corner: tuple[int, int]
    shown: Size
    flip: bool = False


def fitted(source: Size, canvas: Size) -> Placement:
    """Returns the placement of the whole image, as large as the canvas allows."""
    scaled = _scaled(source, canvas, 1.0)
    return Placement(source, scaled, (0, 0), scaled)


def drawn(
    generator: np.random.Generator,
    source: Size,
    canvas: Size,
    *,
    scale: tuple[float, float],
    flip: float = 0.5,
) -> Placement:
    """Draws a placement: a scale, a corner and a mirroring (Chen et al. 2017, section 4).

    What is larger than the canvas is cropped at a random place.

    Args:
      generator: draws four numbers.
      source: the size of the image.
      canvas: the size of the canvas.
      scale: the limits of the scale, which is uniform between them.
      flip: the probability of a mirroring.
    """
    u = generator.random(4)
    scaled = _scaled(source, canvas, scale[0] + (scale[1] - scale[0]) * u[0])
    shown = min(scaled[0], canvas[0]), min(scaled[1], canvas[1])
    free = scaled[0] - shown[0] + 1, scaled[1] - shown[1] + 1
    corner = int(u[1] * free[0]), int(u[2] * free[1])
    return Placement(source, scaled, corner, shown, bool(u[3] < flip))


def _scaled(source: Size, canvas: Size, scale: float) -> Size:
    """Returns the size of the image at a scale; 1 is the largest at which it fits."""
    factor = scale * min(canvas[0] / source[0], canvas[1] / source[1])
    height, width = (max(1, round(factor * side)) for side in source)
    return height, width


def image(pixels: np.ndarray, at: Placement, canvas: Size) -> np.ndarray:
    """Places an image uint8 [H, W, 3], resized bilinearly with antialiasing.

    Returns:
      uint8 [canvas height, canvas width, 3]. The padding has the mean colour of what is shown, so
      that a change of contrast around the mean is that of the image alone.
    """
    part = _part(pixels, at, Image.Resampling.BILINEAR)
    return _padded(part, canvas, np.rint(part.mean((0, 1))).astype(np.uint8))


def mask(classes: np.ndarray, at: Placement, canvas: Size, *, padding: int) -> np.ndarray:
    """Places a mask uint8 [H, W]; a pixel has the class of the nearest one.

    Returns:
      uint8 [canvas height, canvas width], `padding` outside of the image.
    """
    return _padded(_part(classes, at, Image.Resampling.NEAREST), canvas, padding)


def boxes(corners: np.ndarray, at: Placement) -> np.ndarray:
    """Moves boxes float [n, 4] (x1, y1, x2, y2, pixels of the image) to pixels of the canvas.

    What lies outside of the shown part is cut off. A box that lies wholly outside has no width or
    no height then.

    Returns:
      float32 [n, 4].
    """
    by_x, by_y = at.scaled[1] / at.source[1], at.scaled[0] / at.source[0]
    x = np.clip(corners[:, 0::2] * by_x - at.corner[1], 0, at.shown[1])
    y = np.clip(corners[:, 1::2] * by_y - at.corner[0], 0, at.shown[0])
    x = at.shown[1] - x[:, ::-1] if at.flip else x
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1).astype(np.float32)


def boxes_of_source(corners: np.ndarray, at: Placement) -> np.ndarray:
    """Inverts `boxes`: float [n, 4] in pixels of the canvas to float32 [n, 4] in the image's."""
    x, y = corners[:, 0::2], corners[:, 1::2]
    x = at.shown[1] - x[:, ::-1] if at.flip else x
    x = np.clip((x + at.corner[1]) * at.source[1] / at.scaled[1], 0, at.source[1])
    y = np.clip((y + at.corner[0]) * at.source[0] / at.scaled[0], 0, at.source[0])
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1).astype(np.float32)


def _part(array: np.ndarray, at: Placement, how: Image.Resampling) -> np.ndarray:
    """Returns the part of an image or a mask that is shown."""
    by_y, by_x = at.source[0] / at.scaled[0], at.source[1] / at.scaled[1]
    top, left = at.corner[0] * by_y, at.corner[1] * by_x
    # Rounding must not put a corner beyond the image, which Pillow refuses.
    bottom = min(top + at.shown[0] * by_y, at.source[0])
    right = min(left + at.shown[1] * by_x, at.source[1])
    part = Image.fromarray(array).resize(at.shown[::-1], how, box=(left, top, right, bottom))
    return np.asarray(part)[:, ::-1] if at.flip else np.asarray(part)


def _padded(part: np.ndarray, canvas: Size, padding: np.ndarray | int) -> np.ndarray:
    """Returns a canvas with a part at its top left."""
    found = np.full((*canvas, *part.shape[2:]), padding, part.dtype)
    found[: part.shape[0], : part.shape[1]] = part
    return found
