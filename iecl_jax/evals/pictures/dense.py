"""Draws segmentations and detections beside the truth, and how good they are for each class."""

import colorsys
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from iecl_jax.data.voc.annotation import Objects
from iecl_jax.data.voc.mask import IGNORED
from iecl_jax.evals.measures import average_precision
from iecl_jax.evals.measures.average_precision import Detections
from iecl_jax.evals.measures.precision_recall import Curve, area
from iecl_jax.evals.pictures import sheets, style

_SIDE, _CHIP, _PAD = 280, 9, 4  # pixels: a picture's longer side, a sample of colour, space around
_LUMA = np.array([0.299, 0.587, 0.114])
_COVER = 0.55  # how much of the image a mask's colour covers
_GREY = "#8a8a8a"
_GOLDEN = (math.sqrt(5) - 1) / 2
MOST_CURVES, MOST_BARS = 20, 40


class Segmented(NamedTuple):
    """An image with its mask and the mask that was predicted.

    Attributes:
      image: uint8 [H, W, 3].
      truth: uint8 [H, W], 0 = background, IGNORED = not counted.
      predicted: integers [H, W], 0 = background.
    """

    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


class Detected(NamedTuple):
    """An image, uint8 [H, W, 3], with its objects and those that were found."""

    image: np.ndarray
    truth: Objects
    found: Detections


def colours(count: int) -> np.ndarray:
    """Returns the colours of classes 1 to `count`, uint8 [count, 3], all of them far from grey.

    The colours of VOC's own masks, of which one is grey, would not show over an image in grey.
    """
    # Steps of the golden ratio spread any number of hues evenly.
    found = [
        colorsys.hsv_to_rgb(k * _GOLDEN % 1, (1.0, 0.65)[k % 2], (0.95, 0.7, 0.45)[k % 3])
        for k in range(count)
    ]
    return np.rint(255 * np.array(found).reshape(-1, 3)).astype(np.uint8)


def masks(rows: Sequence[Segmented], names: Sequence[str]) -> np.ndarray:
    """Draws in each row an image, its mask over it, and the predicted mask over it.

    Below a mask are the names of its classes in their colours, those with most pixels first. What
    is ignored is white. Background is grey.

    Args:
      rows: at least one.
      names: the names of the classes without background.

    Returns:
      uint8 [height, width, 3].
    """
    palette = colours(len(names))
    pictures = [
        [
            Image.fromarray(_resized(row.image, Image.Resampling.LANCZOS)),
            *(_masked(row.image, mask, palette, names) for mask in (row.truth, row.predicted)),
        ]
        for row in rows
    ]
    return sheets.sheet(pictures, ("image", "true", "predicted"))


def boxes(rows: Sequence[Detected], names: Sequence[str], *, least: float = 0.5) -> np.ndarray:
    """Draws in each row an image with its objects, and with those that were found.

    True objects have green frames. A frame of what was found is blue if it is right by VOC's rule
    (IoU of at least 0.5), and red, without the middle of its sides, if it is wrong. The frames of
    difficult objects, and of what was found there, are thin and grey.

    Args:
      rows: at least one.
      names: the names of the classes.
      least: the lowest score that is drawn.

    Returns:
      uint8 [height, width, 3].
    """
    pictures = []
    for row in rows:
        kept = np.flatnonzero(row.found.scores >= least)
        kept = kept[np.argsort(row.found.scores[kept], kind="stable")]  # the surest on top
        found = Detections(*(each[kept] for each in row.found))
        right, neither = average_precision.voc_match(row.truth, found)
        true = [
            _Frame(box, names[label], _GREY if hard else style.GREEN)
            for box, label, hard in zip(*row.truth)
        ]
        seen = [
            _Frame(
                box,
                f"{names[label]} {score:.2f}",
                _GREY if neither[k] else style.BLUE if right[k] else style.RED,
            )
            for k, (box, label, score) in enumerate(zip(*found))
        ]
        pictures.append([_framed(row.image, true), _framed(row.image, seen)])
    found_title = f"found (score {least:g} or more): right blue, wrong red"
    return sheets.sheet(pictures, ("true", found_title))


def curves(found: Sequence[Curve], names: Sequence[str], title: str) -> Figure:
    """Draws precision over recall of each class. Call it within `style.context`.

    Of more than MOST_CURVES classes with objects, those with most objects are drawn.

    Args:
      found: the curves of all classes.
      names: the names of the classes.
      title: the title.
    """
    order = sorted(range(len(found)), key=lambda k: -found[k].positives)
    drawn = sorted(k for k in order[:MOST_CURVES] if found[k].positives)
    columns = min(5, max(1, len(drawn)))
    rows = -(-max(1, len(drawn)) // columns)
    figure, axes = style.subplots(
        rows, columns, width=max(4.0, 1.9 * columns), height=0.6 + 1.7 * rows
    )
    for place, cell in enumerate(axes.flat):
        if place >= len(drawn):
            cell.set_visible(place == 0)
            continue
        curve, name = found[drawn[place]], names[drawn[place]]
        start = curve.envelope[:1]  # nothing if nothing was found
        cell.plot(curve.recall, curve.precision, color=style.MUTED, linewidth=0.7)
        recall, precision = np.append(0 * start, curve.recall), np.append(start, curve.envelope)
        cell.step(recall, precision, where="pre", color=style.BLUE)
        cell.set(xlim=(0, 1.02), ylim=(0, 1.04), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        cell.set_title(f"{name} {100 * area(curve):.0f} %", parse_math=False)
    figure.suptitle(title, fontsize=10)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    return figure


def bars(values: Mapping[str, float], title: str, unit: str) -> Figure:
    """Draws a share in [0, 1] of each class as a bar, the highest on top, with a line at the mean.

    Call it within `style.context`. Classes whose value is NaN are left out. Of more than MOST_BARS
    the lowest are drawn.
    """
    known = sorted(((x, name) for name, x in values.items() if np.isfinite(x)), reverse=True)
    drawn = known[-MOST_BARS:]
    height = 0.9 + 0.22 * max(len(drawn), 1)
    figure, ((axes,),) = style.subplots(1, 1, width=6.4, height=height)
    places = np.arange(len(drawn))
    shares = [100 * x for x, _ in drawn]
    axes.barh(places, shares, 0.7, color=style.BLUE)
    for place, share in zip(places, shares):
        axes.annotate(
            f"{share:.1f}", (share, place), (4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(places, [name for _, name in drawn], parse_math=False)
    axes.set(xlim=(0, 108), ylim=(max(len(drawn), 1) - 0.5, -0.5), title=title, xlabel=unit)
    if known:
        style.reference_line(axes, 100 * float(np.mean([x for x, _ in known])), vertical=True)
    axes.grid(visible=False, axis="y")
    return figure


class _Frame(NamedTuple):
    """A box, float [4], with its words and its colour."""

    box: np.ndarray
    words: str
    colour: str


def _resized(image: np.ndarray, how: Image.Resampling) -> np.ndarray:
    """Returns an image [H, W] or [H, W, 3] with _SIDE pixels at its longer side."""
    scale = _SIDE / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), how))


def _masked(
    image: np.ndarray, mask: np.ndarray, palette: np.ndarray, names: Sequence[str]
) -> Image.Image:
    """Draws a mask over its image in grey, with the names of its classes below."""
    counts = np.bincount(mask.ravel().astype(np.int64), minlength=IGNORED + 1)
    counts = counts[1 : len(palette) + 1]
    present = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]]
    small = _resized(mask.astype(np.uint8), Image.Resampling.NEAREST)
    grey = (_resized(image, Image.Resampling.LANCZOS) @ _LUMA)[..., None]
    of_class = (small > 0) & (small != IGNORED)
    covered = np.where((small == IGNORED)[..., None], 255.0, grey).repeat(3, axis=-1)
    covered[of_class] *= 1 - _COVER
    covered[of_class] += _COVER * palette[small[of_class] - 1]
    height, width = small.shape
    cell = Image.new("RGB", (max(width, _SIDE), height + sheets.LINE), "white")
    cell.paste(Image.fromarray(np.rint(covered).astype(np.uint8)))
    pen, x = ImageDraw.Draw(cell), 0.0
    for k in present:
        words = sheets.fitted(pen, names[k], cell.width - x - _CHIP - _PAD)
        pen.rectangle((x, height + _PAD, x + _CHIP, height + _PAD + _CHIP), tuple(palette[k]))
        sheets.write(pen, x + _CHIP + _PAD, height + 2, words, cell.width)
        x += _CHIP + 3 * _PAD + pen.textlength(words, sheets.font())
        if x > cell.width - 3 * _CHIP:
            break
    return cell


def _framed(image: np.ndarray, frames: Sequence[_Frame]) -> Image.Image:
    """Draws frames with their words over an image."""
    scale = _SIDE / max(image.shape[:2])
    cell = Image.fromarray(_resized(image, Image.Resampling.LANCZOS))
    pen = ImageDraw.Draw(cell)
    for frame in frames:
        x1, y1, x2, y2 = (round(float(x) * scale) for x in frame.box)
        x2, y2 = max(x1, x2 - 1), max(y1, y2 - 1)
        parts = ((0.0, 0.35), (0.65, 1.0)) if frame.colour == style.RED else ((0.0, 1.0),)
        pixels = 1 if frame.colour == _GREY else 3
        for start, end in parts:
            left, right = x1 + start * (x2 - x1), x1 + end * (x2 - x1)
            top, bottom = y1 + start * (y2 - y1), y1 + end * (y2 - y1)
            for y in (y1, y2):
                pen.line((left, y, right, y), frame.colour, pixels)
            for x in (x1, x2):
                pen.line((x, top, x, bottom), frame.colour, pixels)
    for frame in frames:
        x, y = (round(float(x) * scale) for x in frame.box[:2])
        words = sheets.fitted(pen, frame.words, cell.width)
        length = pen.textlength(words, sheets.font())
        x = round(max(0, min(x, cell.width - length - _PAD)))
        y = y - sheets.LINE + 1 if y >= sheets.LINE else y
        pen.rectangle((x, y, x + length + _PAD, y + sheets.LINE - 2), frame.colour)
        sheets.write(pen, x + _PAD // 2, y, words, cell.width, "white")
    return cell
