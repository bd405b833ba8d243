"""Decodes images to RGB, and cuts and resizes them on the host with Pillow.

EXIF orientation is ignored, as torchvision's ImageFolder does.
"""

import io
import math
from collections.abc import Sequence
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


def crop_views(
    image: Image.Image, boxes: Sequence[Box], size: int, interpolations: Sequence[str]
) -> np.ndarray:
    """Cuts each box and resizes it to size x size with antialiasing: uint8 [V,S,S,3].

    The image is decoded once. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size (libjpeg's scaled
    inverse DCT) where every box then still has at least size x size pixels: on photographs a view
    then differs by 1 to 2 of 255 on average from that of the full image. Otherwise this is exactly
    torchvision's `resized_crop` of a PIL image. Reduced boxes have fractional edges, which Pillow's
    resize takes.
    """
    width, height = image.size
    reduction = max(1, min(min(box[2:]) for box in boxes) // size)
    # Takes the largest of 1, 2, 4, 8 that is at most `reduction`; None if the file is no JPEG.
    drafted = image.draft(None, (width // reduction, height // reduction))
    reduction = round(width / drafted[1][2]) if drafted else 1
    image = to_rgb(image)
    views = np.empty((len(boxes), size, size, 3), np.uint8)
    for view, (left, top, box_width, box_height), name in zip(
        views, boxes, interpolations, strict=True
    ):
        x0, y0 = left / reduction, top / reduction
        x1, y1 = (left + box_width) / reduction, (top + box_height) / reduction
        outer = math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)
        inner = x0 - outer[0], y0 - outer[1], x1 - outer[0], y1 - outer[1]
        # Cropped first: `resize(box=...)` of the whole image lets pixels outside the box in.
        view[:] = np.asarray(
            image.crop(outer).resize((size, size), INTERPOLATIONS[name], box=inner)
        )
    return views


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
