"""Reads the objects of an image from VOC's XML file."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from iecl_jax.data.listing import shown

ORIGINS = ("voc", "as_is")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Objects(NamedTuple):
    """The objects of an image, or n = 0 of them.

    Attributes:
      boxes: float32 [n, 4], x1 y1 x2 y2 in pixels; the image covers (0, 0) to (width, height).
      labels: int32 [n], places of the classes in the list of classes, which has no background.
      difficult: bool [n]: detecting it is neither right nor wrong.
    """

    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray


class Annotation(NamedTuple):
    """What a file says of the objects, in its own words and coordinates.

    Attributes:
      path: the file.
      names: names of the classes.
      corners: float64 [n, 4], xmin ymin xmax ymax.
      difficult: whether an object is difficult.
    """

    path: Path
    names: list[str]
    corners: np.ndarray
    difficult: list[bool]

    def objects(
        self, classes: Mapping[str, int], size: tuple[int, int], origin: str
    ) -> tuple[Objects, float]:
        """Returns the objects, with boxes cut to the image, and by how many pixels at most.

        Args:
          classes: the label of each name; it has all of `names`.
          size: (height, width) of the image.
          origin: "voc": pixels count from 1 and both corners lie inside the box, so it becomes
            (xmin - 1, ymin - 1, xmax, ymax), as in detectron2. "as_is": the numbers are taken as
            they are, as in torchvision.

        Raises:
          ValueError: a box has no width or no height, or lies outside the image.
        """
        shift = {"voc": (1, 1, 0, 0), "as_is": (0, 0, 0, 0)}
        boxes = self.corners - shift[origin]
        height, width = size
        cut = np.clip(boxes, 0, np.array([width, height, width, height]))
        for number in np.flatnonzero((cut[:, 2:] <= cut[:, :2]).any(axis=1)):
            empty = (boxes[number, 2:] <= boxes[number, :2]).any()
            why = (
                "no width or no height" if empty else f"no part inside its {width} x {height} image"
            )
            kept = ", ".join(f"{x:g}" for x in self.corners[number])
            hint = ""
            if empty and (self.corners[number, 2:] >= self.corners[number, :2]).all():
                hint = ", or count the pixels of both corners with data.box_origin='voc'"
            raise ValueError(
                f"{shown(self.path)}: the box of object {number + 1} ({self.names[number]}) has "
                f"{why} ({', '.join(_CORNERS)} = {kept}): mend or remove the object{hint}."
            )
        labels = np.array([classes[name] for name in self.names], np.int32)
        found = Objects(cut.astype(np.float32), labels, np.array(self.difficult, bool))
        return found, float(np.abs(boxes - cut).max(initial=0))


def read(path: Path) -> Annotation:
    """Reads an XML file of VOC; parts of objects are left out.

    Raises:
      ValueError: the file cannot be read, or an object has no name or no complete box.
    """
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(
            f"The annotation {shown(path)} cannot be read ({error}): repair it, or take its image "
            "out of the list."
        ) from error
    names = [(each.findtext("name") or "").strip() for each in objects]
    corners = [[each.findtext(f"bndbox/{corner}") for corner in _CORNERS] for each in objects]
    for number, (name, texts) in enumerate(zip(names, corners), 1):
        if not name:
            raise ValueError(f"{shown(path)}: object {number} has no name: add it.")
        if not all(map(_is_number, texts)):
            raise ValueError(
                f"{shown(path)}: object {number} ({shown(name)}) needs a bndbox of four numbers, "
                f"{', '.join(_CORNERS)}, but has {', '.join(map(str, texts))}."
            )
    difficult = [(each.findtext("difficult") or "").strip() not in ("", "0") for each in objects]
    return Annotation(path, names, np.array(corners, np.float64).reshape(-1, 4), difficult)


def _is_number(text: str | None) -> bool:
    try:
        return math.isfinite(float(text or ""))
    except ValueError:
        return False
