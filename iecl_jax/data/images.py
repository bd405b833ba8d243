"""Decodes images to RGB, and crops and resizes them on the host with Pillow."""

import io
import math
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_collections
import numpy as np
from PIL import Image

# Encoded bytes, a file, pixels uint8 [H,W,3], or an image that is open already.
Source = bytes | Path | np.ndarray | Image.Image
Box = tuple[int, int, int, int]  # left, top, width, height in pixels

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# What Pillow raises for files that are truncated, damaged, or not an image.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error)
# What turns an image upright, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LONG = 8  # longer side / shorter side above which an image is cut before it is resized

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit; here it is `data.max_pixels`.


class Reading(NamedTuple):
    """How a file becomes RGB: the settings of `config.data` of the same names."""

    alpha: str = "white"
    bit_depth: int = 16
    exif_rotation: bool = False
    max_pixels: int = 178_956_970


AS_IT_IS = Reading()  # the defaults of the settings


class Header(NamedTuple):
    """What is known of an image that is not decoded yet.

    Attributes:
      size: (width, height) as it will be decoded.
      transparent: True if it has an alpha band or a transparent colour.
      turned: True if its EXIF orientation says that it does not lie upright.
      deep: True if it has more than 8 bits per channel.
    """

    size: tuple[int, int]
    transparent: bool
    turned: bool
    deep: bool


def reading(data: ml_collections.ConfigDict) -> Reading:
    """Returns the settings in `config.data` that say how files are read."""
    return Reading(**{name: data[name] for name in Reading._fields})


def open_image(source: Source, how: Reading = AS_IT_IS) -> Image.Image:
    """Opens an image and reads only its header, without decoding it.

    Raises:
      OSError: the source is not an image.
      ValueError: it has more than `data.max_pixels` pixels.
    """
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    return _open(io.BytesIO(source if isinstance(source, bytes) else source.read_bytes()), how)


def read_header(path: Path, how: Reading) -> Header:
    """Reads the header of a file; raises what `open_image` raises."""
    with open(path, "rb") as file, _open(file, how) as image:
        turn = _turn(image)
        return Header(
            size=_turned_size(image, turn if how.exif_rotation else None),
            transparent=image.has_transparency_data,
            turned=turn is not None,
            deep=_is_deep(image),
        )


def largest_value(source: Source) -> int:
    """Returns the largest value of an image of more than 8 bits per channel."""
    return int(_deep_values(open_image(source)).max())


def to_rgb(image: Image.Image, how: Reading = AS_IT_IS) -> Image.Image:
    """Converts an image to RGB.

    An RGB image is returned as it is, and may still be undecoded.

    Raises:
      ValueError: its values are floating-point numbers, whose range is unknown.
    """
    turn = _turn(image) if how.exif_rotation else None
    if image.mode == "F":
        raise ValueError("its values are floating-point numbers, of which no range is known")
    if image.mode.startswith("I") or (how.bit_depth < 16 and _is_deep(image)):
        # Pillow's conversion would clip the values above 255.
        values = np.clip(_deep_values(image), 0, 2**how.bit_depth - 1)
        image = Image.fromarray((values >> (how.bit_depth - 8)).astype(np.uint8))
    if image.has_transparency_data and how.alpha == "white":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":  # `convert` always copies
        image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def decode(source: Source, how: Reading = AS_IT_IS) -> np.ndarray:
    """Decodes an image to RGB, uint8 [H,W,3]."""
    if isinstance(source, np.ndarray):
        return source
    return np.asarray(to_rgb(open_image(source, how), how))


def _open(file: IO[bytes], how: Reading) -> Image.Image:
    image = Image.open(file)
    width, height = image.size
    if width * height > how.max_pixels:
        raise ValueError(
            f"it has {width} x {height} pixels, more than data.max_pixels={how.max_pixels}: raise "
            "that if the file is meant"
        )
    return image


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Returns what turns an image upright; None if it lies so. Pillow turns TIFF files itself."""
    if "exif" not in image.info:  # asking a PNG file for its EXIF would decode it
        return None
    try:
        return _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # Damaged EXIF says nothing about the pixels.
        return None


def _turned_size(image: Image.Image, turn: Image.Transpose | None) -> tuple[int, int]:
    """Returns (width, height) of an image after the turn."""
    across = (_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8])
    return (image.height, image.width) if turn in across else image.size


def _deep_bands(image: Image.Image) -> bool:
    """Returns whether this is a colour PNG of 16 bits, of which Pillow decodes the upper 8."""
    return any(part.args in ("RGB;16B", "RGBA;16B") for part in getattr(image, "tile", ()))


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or _deep_bands(image)


def _deep_values(image: Any) -> np.ndarray:
    """Returns the values [H,W] or [H,W,C] of an image of more than 8 bits, in its own range."""
    if not _deep_bands(image):
        return np.asarray(image)
    # Read as little-endian, Pillow keeps the other byte of each value.
    lower: Any = Image.open(io.BytesIO(image.fp.getvalue()))
    lower.tile = [tile._replace(args=tile.args.replace("16B", "16L")) for tile in lower.tile]
    return np.asarray(image).astype(np.uint16) << 8 | np.asarray(lower)


def reduction(boxes: Sequence[Box], sizes: Sequence[int]) -> int:
    """Returns by what factor an image may shrink while no box gets smaller than its view."""
    return max(1, min(min(box[2:]) // size for box, size in zip(boxes, sizes, strict=True)))


def decode_reduced(
    image: Image.Image, most: int, how: Reading = AS_IT_IS
) -> tuple[Image.Image, int]:
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
    return to_rgb(image, how), round(width / drafted[1][2]) if drafted else 1


def crop_views(
    source: Source,
    boxes_of: Callable[[int, int], Sequence[Box]],
    sizes: Sequence[int],
    interpolations: Sequence[str],
    how: Reading = AS_IT_IS,
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
      how: how the file is read.

    Returns:
      A list of uint8 [S_i,S_i,3].
    """
    image = open_image(source, how)
    boxes = boxes_of(*_turned_size(image, _turn(image) if how.exif_rotation else None))
    decoded = decode_reduced(image, reduction(boxes[:2], sizes[:2]), how)
    most = reduction(boxes[2:], sizes[2:]) if boxes[2:] else decoded[1]
    finer = decode_reduced(open_image(source, how), most, how) if most < decoded[1] else decoded
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


def size_with_shorter(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Returns (width, height) after the shorter side is resized, as torchvision's `Resize`."""
    width, height = (int(shorter * side / min(size)) for side in size)  # multiplies first
    return width, height


def center_crop(source: Source, size: int, how: Reading = AS_IT_IS) -> np.ndarray:
    """Resizes the shorter side to S * 256 / 224 (bilinear), cuts out the centre: uint8 [S,S,3].

    It equals torchvision's `Resize` and `CenterCrop` of a PIL image. An image of extreme format is
    cut first, since resizing it whole could fill the memory; a pixel then may differ by rounding.
    """
    image = to_rgb(open_image(source, how), how)
    least = min(image.size)
    width, height = size_with_shorter(image.size, round(size * 256 / 224))
    left, top = round((width - size) / 2), round((height - size) / 2)
    if max(image.size) > _LONG * least:
        x, y = image.width / width, image.height / height  # pixels for one of the resized image
        right, bottom = min((left + size) * x, image.width), min((top + size) * y, image.height)
        box = left * x, top * y, right, bottom
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + size, top + size)))
