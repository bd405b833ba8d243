"""Decodes images to RGB, and crops and resizes them on the host with Pillow.

The EXIF orientation is ignored, as in torchvision's ImageFolder.
"""

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Source = bytes | Path | np.ndarray  # encoded bytes, a file, or pixels uint8 [H,W,3]
Box = tuple[int, int, int, int]  # left, top, width, height in pixels

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def open_image(source: Source) -> Image.Image:
    """Opens an image and reads only its header, without decoding it.

    Raises:
      OSError: the source is not an image.
    """
    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    return Image.open(io.BytesIO(source if isinstance(source, bytes) else source.read_bytes()))


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image to RGB; a transparent image is laid over white.

    An RGB image is returned as it is, and may still be undecoded.
    """
    if image.mode.startswith("I;16"):  # Pillow's conversion clips values above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # `convert` always copies


def decode(source: Source) -> np.ndarray:
    """Decodes an image to RGB, uint8 [H,W,3]."""
    if isinstance(source, np.ndarray):
        return source
    return np.asarray(to_rgb(open_image(source)))


def reduction(boxes: Sequence[Box], sizes: Sequence[int]) -> int:
    """Returns by what factor an image may shrink while no box gets smaller than its view."""
    return max(1, min(min(box[2:]) // size for box, size in zip(boxes, sizes, strict=True)))


def decode_reduced(image: Image.Image, most: int) -> tuple[Image.Image, int]:
    """Decodes an image that was just opened, a JPEG at a fraction of its size.

    A JPEG is decoded at 1/1, 1/2, 1/4 or 1/8 of its size by libjpeg's scaled inverse DCT. The
    fraction is the smallest that is at least 1 / `most`.

    Returns:
      (image, factor): the image in RGB, and by what factor it is smaller: 1, 2, 4 or 8.
    """
    width, height = image.size
    # `draft` picks the largest of 1, 2, 4, 8 that is at most `most`. It returns None for other
    # formats than JPEG.
    drafted = image.draft(None, (width // most, height // most))
    return to_rgb(image), round(width / drafted[1][2]) if drafted else 1


def crop_views(
    source: Source,
    boxes_of: Callable[[int, int], Sequence[Box]],
    sizes: Sequence[int],
    interpolations: Sequence[str],
) -> list[np.ndarray]:
    """Cuts a box out of an image for each view, and resizes it with antialiasing.

    A JPEG is decoded at a fraction of its size if the boxes of the first two views then still have
    at least as many pixels as the views. On photographs such a view differs by 1 to 2 of 255 on
    average from that of the full image. In all other cases a view equals torchvision's
    `resized_crop` of a PIL image.

    Further views do not change the first two. If they need more pixels, the image is decoded a
    second time for them.

    Args:
      source: the image.
      boxes_of: a function from (width, height) of the image to a box for each view.
      sizes: the side S_i of each view in pixels.
      interpolations: a name of INTERPOLATIONS for each view.

    Returns:
      A list of uint8 [S_i,S_i,3].
    """
    image = open_image(source)
    boxes = boxes_of(*image.size)
    decoded = decode_reduced(image, reduction(boxes[:2], sizes[:2]))
    most = reduction(boxes[2:], sizes[2:]) if boxes[2:] else decoded[1]
    finer = decode_reduced(open_image(source), most) if most < decoded[1] else decoded
    views = zip(boxes, sizes, interpolations, strict=True)
    return [
        _cut(*(decoded if i < 2 else finer), box, size, name)
        for i, (box, size, name) in enumerate(views)
    ]


def _cut(image: Image.Image, reduced: int, box: Box, size: int, interpolation: str) -> np.ndarray:
    """Returns the box, resized: uint8 [size,size,3].

    The box is in the coordinates of the full image, of which `image` is `reduced` times smaller. So
    its edges may be fractions of a pixel, which Pillow's `resize` accepts.
    """
    left, top, width, height = box
    x0, y0 = left / reduced, top / reduced
    x1, y1 = (left + width) / reduced, (top + height) / reduced
    outer = math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)
    inner = x0 - outer[0], y0 - outer[1], x1 - outer[0], y1 - outer[1]
    # Crops first, because `resize(box=...)` of the whole image would read pixels outside the box.
    cut = image.crop(outer).resize((size, size), INTERPOLATIONS[interpolation], box=inner)
    return np.asarray(cut)


def center_crop(source: Source, size: int) -> np.ndarray:
    """Resizes the shorter side to S * 256 / 224 (bilinear), cuts out the centre: uint8 [S,S,3]."""
    image = to_rgb(open_image(source))
    shorter = round(size * 256 / 224)
    scale = shorter / min(image.size)
    # The longer side is rounded down, as in torchvision's Resize.
    width, height = (max(shorter, int(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))
