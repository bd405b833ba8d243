"""Draws query images, each in a row with the images whose features are nearest to its own."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from iecl_jax.evals.pictures import sheets, style

_CELL, _FRAME, _GAP, _LINE = 72, 4, 8, 15  # pixels: image, frame, space between, line of text
_APART = 28  # pixels between a query and its neighbours
_PLAIN = "#9a9a9a"


class Row(NamedTuple):
    """A query with its neighbours, nearest first.

    Attributes:
      query: uint8 [H, W, 3].
      label: the query's class; -1 = unlabelled.
      images: K images uint8 [H, W, 3].
      labels: K classes of them; -1 = unlabelled.
      cosines: K cosine similarities to the query.
    """

    query: np.ndarray
    label: int
    images: Sequence[np.ndarray]
    labels: Sequence[int]
    cosines: Sequence[float]


def draw(
    rows: Sequence[Row], names: Sequence[str], *, among_themselves: bool = False
) -> np.ndarray:
    """Draws a row for each query. The cosine similarity is below each neighbour.

    A neighbour of the query's class has a blue frame. A neighbour of another class has a red frame
    with a gap in each side, and the name of its class. Without labels, all frames are grey.

    Args:
      rows: at least one, all with equally many neighbours.
      names: the names of the classes; () if the images are unlabelled.
      among_themselves: whether queries and neighbours are images of one set, for the headings.

    Returns:
      uint8 [height, width, 3].
    """
    step, height = _CELL + 2 * _FRAME + _GAP, _CELL + 2 * _FRAME + _LINE + _GAP
    coloured = any(_known(row, label) for row in rows for label in row.labels)
    size = (
        _GAP + step + _APART + step * len(rows[0].images),
        _LINE + _GAP + height * len(rows) + (_LINE + _GAP) * coloured,
    )
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)

    def write(x: int, y: int, text: str, width: int = step - _GAP) -> None:
        sheets.write(pen, x, y, text, width)

    first = _GAP + step + _APART
    query, others = ("image", "other") if among_themselves else ("test image", "training")
    write(_GAP, 4, query)
    write(first, 4, f"nearest {others} images, with the cosine of their features", size[0])
    for number, row in enumerate(rows):
        y = _LINE + _GAP + number * height
        _paste(sheet, pen, (_GAP, y), row.query, style.INK)
        below = y + _CELL + 2 * _FRAME + 1
        write(_GAP, below, names[row.label] if 0 <= row.label < len(names) else "")
        for place, (image, label, cosine) in enumerate(
            zip(row.images, row.labels, row.cosines, strict=True)
        ):
            x, text, colour, whole = first + place * step, f"{cosine:.2f}", _PLAIN, True
            if _known(row, label):
                whole = label == row.label
                colour = style.BLUE if whole else style.RED
                text += "" if whole else f" {names[label]}"
            _paste(sheet, pen, (x, y), image, colour, whole=whole)
            write(x, below, text)
    if coloured:
        y = size[1] - _LINE - 4
        for x, colour, whole, text in (
            (first, style.BLUE, True, f"the class of the {query}"),
            (first + 220, style.RED, False, "another class"),
        ):
            _frame(pen, (x, y + 1, x + 13, y + 14), colour, 3, whole=whole)
            write(x + 20, y, text, 200)
    return np.asarray(sheet)


def _known(row: Row, label: int) -> bool:
    return row.label >= 0 and label >= 0


def _paste(sheet, pen, at: tuple[int, int], image: np.ndarray, colour: str, *, whole: bool = True):
    """Pastes an image, scaled to the cell's side, with a frame around it."""
    small = max(image.shape[:2]) <= _CELL
    how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    picture = Image.fromarray(np.ascontiguousarray(image)).resize((_CELL, _CELL), how)
    left, top = at
    end = _CELL + 2 * _FRAME - 1
    _frame(pen, (left, top, left + end, top + end), colour, _FRAME, whole=whole)
    sheet.paste(picture, (left + _FRAME, top + _FRAME))


def _frame(pen, box: tuple[int, int, int, int], colour: str, width: int, *, whole: bool) -> None:
    """Draws a frame; if not `whole`, the middle third of each side is left out."""
    pen.rectangle(box, outline=colour, width=width)
    if not whole:
        left, top, right, bottom = box
        third = (right - left) // 3
        pen.rectangle((left + third, top, right - third, bottom), fill="white")
        pen.rectangle((left, top + third, right, bottom - third), fill="white")
