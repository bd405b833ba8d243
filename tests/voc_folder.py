"""A small folder in the layout of PASCAL VOC, which tests change."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog")
SIZE = (20, 30)  # height, width
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""
BOX = (3, 5, 12, 10)  # of every image's object: pixels from 1, both corners inside


def mask(root: Path, name: str, values: np.ndarray | None = None, folder="SegmentationClass"):
    """Writes a mask with a palette; by default class 1 within BOX, with an ignored row below."""
    if values is None:
        values = np.zeros(SIZE, np.uint8)
        values[BOX[1] - 1 : BOX[3], BOX[0] - 1 : BOX[2]] = 1
        values[BOX[3], BOX[0] - 1 : BOX[2]] = 255
    image = Image.fromarray(values)
    image.putpalette([(7 * i) % 256 for i in range(768)])
    (root / folder).mkdir(exist_ok=True)
    image.save(root / folder / f"{name}.png")


def annotation(root: Path, name: str, *objects: tuple):
    """Writes an annotation: objects are (class, box) or (class, box, difficult)."""
    texts = [
        OBJECT.format(*box, name=label, difficult=int(bool(difficult)))
        for label, box, *difficult in objects
    ]
    size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
    (root / "Annotations").mkdir(exist_ok=True)
    path = root / "Annotations" / f"{name}.xml"
    path.write_text(f"<annotation>{size}{''.join(texts)}</annotation>")


def image(root: Path, name: str, seed: int = 0):
    """Writes an image of noise."""
    (root / "JPEGImages").mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")


def listed(root: Path, name: str, text: str, kinds=("Segmentation", "Main")):
    """Writes a list."""
    for kind in kinds:
        folder = root / "ImageSets" / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text(text)


def make(root: Path, count: int = 6, *, lists: bool = True) -> Path:
    """Writes images im0, im1, ... with masks and boxes; the last two are those of val."""
    root.mkdir(parents=True, exist_ok=True)
    names = [f"im{number}" for number in range(count)]
    for number, name in enumerate(names):
        image(root, name, number)
        mask(root, name)
        annotation(root, name, (CLASSES[number % 2], BOX))
    if lists:
        listed(root, "train", "\n".join(names[:-2]) + "\n")
        listed(root, "val", "\n".join(names[-2:]) + "\n")
    return root
