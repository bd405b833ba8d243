"""Reads masks: images whose pixels are the numbers of classes."""

from pathlib import Path

import numpy as np
from PIL import Image

from iecl_jax.data import images
from iecl_jax.data.listing import shown

IGNORED = 255  # no class, neither for the loss nor for a measure


def read(path: Path, size: tuple[int, int], num_classes: int) -> np.ndarray:
    """Returns a mask, uint8 [H, W]: 0 = background, 1 to `num_classes`, IGNORED.

    Args:
      path: a file with a number per pixel, in grey or with a palette.
      size: (height, width) of the image.
      num_classes: the number of classes without background.

    Raises:
      ValueError: the file cannot be read, holds colours or another number, or has another size.
    """
    try:
        with Image.open(path) as opened:
            mode, values = opened.mode, np.asarray(opened)
    except images.DECODE_ERRORS as error:
        raise ValueError(
            f"The mask {shown(path)} cannot be read ({error}): repair it, or take its image out of "
            "the list."
        ) from error
    if mode not in ("1", "L", "P"):
        raise ValueError(
            f"The mask {shown(path)} is an image of Pillow's mode {mode}: its pixels must be the "
            "numbers of classes, in 8 bits, grey or with a palette."
        )
    _check_size(path, values.shape, size)
    unknown = values[(values > num_classes) & (values != IGNORED)]
    if unknown.size:
        raise ValueError(
            f"The mask {shown(path)} holds the number {unknown[0]}, but data.classes names "
            f"{num_classes} classes, after 0 for the background, and {IGNORED} is ignored: name "
            "all classes, or change the mask."
        )
    return values.astype(np.uint8)


def check_header(path: Path, size: tuple[int, int]) -> None:
    """Raises ValueError if a mask has another size than (height, width), by its header."""
    try:
        with Image.open(path) as opened:
            height, width = opened.height, opened.width
    except images.DECODE_ERRORS:
        read(path, size, IGNORED)  # says what is wrong
    else:
        _check_size(path, (height, width), size)


def _check_size(path: Path, found: tuple[int, ...], size: tuple[int, int]) -> None:
    if found != size:
        raise ValueError(
            f"The mask {shown(path)} has {found[1]} x {found[0]} pixels, but its image {size[1]} x "
            f"{size[0]}: make them equal."
        )
