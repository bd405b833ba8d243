"""Decodes images to RGB, and cuts and resizes them on the host with Pillow.

EXIF orientation is ignored, as torchvision's ImageFolder does.
"""

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Source = bytes | Path | np.ndarray  # encoded, in a file, or decoded already: uint8 [H,W,3]
Box = tuple[int, int, int, int]  # left, top, width, height in pixels

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def open_image(source: Source) -> Image.Image:
    """Opens without decoding: only the header is read. OSError if it is no image."""
    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    return Image.open(io.BytesIO(source if isinstance(source, bytes) else source.read_bytes()))


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts grey, CMYK and palette images; transparent ones are laid over white.

    An RGB image comes back as it is, and may still be undecoded.
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy


def decode(source: Source) -> np.ndarray:
    """The image as uint8 [H,W,3], RGB."""
    if isinstance(source, np.ndarray):
        return source
    return np.asarray(to_rgb(open_image(source)))


def reduction(boxes: Sequence[Box], sizes: Sequence[int]) -> int:
    """How many times smaller an image may be and still have the pixels of every view in its box."""
    return max(1, min(min(box[2:]) // size for box, size in zip(boxes, sizes, strict=True)))


def decode_reduced(image: Image.Image, most: int) -> tuple[Image.Image, int]:
    """Decodes an image that was just opened, a JPEG at 1/1, 1/2, 1/4 or 1/8 of its size (libjpeg's
    scaled inverse DCT), the smallest that is at least 1 / `most`.

    Returns:
      The image in RGB, and 1, 2, 4 or 8.
    """
    width, height = image.size
    # Takes the largest of 1, 2, 4, 8 that is at most `most`; None if the file is no JPEG.
    drafted = image.draft(None, (width // most, height // most))
    return to_rgb(image), round(width / drafted[1][2]) if drafted else 1


def crop_views(
    source: Source,
    boxes_of: Callable[[int, int], Sequence[Box]],
    sizes: Sequence[int],
    interpolations: Sequence[str],
) -> list[np.ndarray]:
    """Cuts a box for each view and resizes it with antialiasing: a list of uint8 [S_i,S_i,3].

    The image is decoded once, and a JPEG at a fraction of its size where the boxes of the first two
    views then still have at least as many pixels as the views: on photographs a view then differs
    by 1 to 2 of 255 on average from that of the full image. Otherwise this is exactly torchvision's
    `resized_crop` of a PIL image. Further views change nothing of the first two: where they need
    more pixels, the image is decoded once more for them.

    Args:
      source: of the image.
      boxes_of: (width, height) of the image -> a box for each view.
      sizes: S_i in pixels.
      interpolations: for each view a name of INTERPOLATIONS.
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
    """uint8 [size,size,3] of the box in the coordinates of an image that is `reduced` times as
    large; then the box has fractional edges, which Pillow's resize takes."""
    left, top, width, height = box
    x0, y0 = left / reduced, top / reduced
    x1, y1 = (left + width) / reduced, (top + height) / reduced
    outer = math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)
    inner = x0 - outer[0], y0 - outer[1], x1 - outer[0], y1 - outer[1]
    # Cropped first: `resize(box=...)` of the whole image lets pixels outside the box in.
    cut = image.crop(outer).resize((size, size), INTERPOLATIONS[interpolation], box=inner)
    return np.asarray(cut)


def center_crop(source: Source, size: int) -> np.ndarray:
    """Resizes the shorter side to S * 256 / 224 (bilinear) and keeps the middle: uint8 [S,S,3]."""
    image = to_rgb(open_image(source))
    shorter = round(size * 256 / 224)
    scale = shorter / min(image.size)
    # torchvision's Resize rounds the longer side down.
    width, height = (max(shorter, int(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))
