"""Writes text into pictures, and puts pictures on one sheet in rows."""

import functools
import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from iecl_jax.evals.pictures import style

_FONT = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
_GAP, LINE = 10, 16  # pixels: space between pictures, line of text


@functools.cache
def font() -> ImageFont.FreeTypeFont:
    """Returns the font of the text in pictures."""
    return ImageFont.truetype(str(_FONT), 11)


def fitted(pen: ImageDraw.ImageDraw, text: str, width: float) -> str:
    """Returns a text, or its beginning and "…" if it is wider than `width` pixels."""
    while text and pen.textlength(text, font()) > width:
        text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
    return text


def write(
    pen: ImageDraw.ImageDraw, x: float, y: float, text: str, width: float, colour: str = style.INK
) -> None:
    """Writes a text at (x, y), its upper left corner, at most `width` pixels wide."""
    pen.text((x, y), fitted(pen, text, width), colour, font())


def sheet(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> np.ndarray:
    """Puts pictures into rows and columns, each column with a title.

    Args:
      rows: the pictures, equally many in each row.
      titles: the titles of the columns.

    Returns:
      uint8 [height, width, 3].
    """
    widths = [max(picture.width for picture in column) for column in zip(*rows, strict=True)]
    heights = [max(picture.height for picture in row) for row in rows]
    size = sum(widths) + _GAP * (len(widths) + 1), LINE + sum(heights) + _GAP * (len(heights) + 1)
    whole = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(whole)
    lefts = [_GAP + sum(widths[:k]) + _GAP * k for k in range(len(widths))]
    for left, width, title in zip(lefts, widths, titles, strict=True):
        write(pen, left, 4, title, width)
    top = LINE + _GAP
    for row, height in zip(rows, heights):
        for left, picture in zip(lefts, row):
            whole.paste(picture, (left, top))
        top += height + _GAP
    return np.asarray(whole)
