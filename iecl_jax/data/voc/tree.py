"""Opens a folder in the layout of PASCAL VOC: images with masks of classes, or with boxes."""

import collections
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from iecl_jax import console
from iecl_jax.config.rules import near
from iecl_jax.data import images
from iecl_jax.data.listing import digest, shown, some
from iecl_jax.data.voc import annotation, layout, lists, mask
from iecl_jax.data.voc.annotation import Annotation, Objects
from iecl_jax.data.voc.layout import Part

__all__ = ["CLASSES", "Objects", "Tree", "class_names", "open_tree"]

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_KINDS = {"masks": layout.MASKS, "boxes": layout.BOXES}
_NUM_THREADS, _LOOKED_AT = 8, 32  # masks whose numbers are checked when a tree is opened


@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
    """Random access to N images with their truth.

    Attributes:
      ids: the names of the images.
      classes: the C names of the classes, without background.
      sizes: int [N, 2], height and width of each image in pixels.
      identity: what identifies images and truth, JSON values.
      image: maps a place to uint8 [H, W, 3].
      mask: maps a place to uint8 [H, W]: 0 = background, 1 to C = classes, 255 = ignored.
      objects: maps a place to its `Objects`.

    The functions may be called from several threads. They raise ValueError, which names the file,
    if it is missing or broken.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    sizes: np.ndarray
    identity: Mapping[str, Any]
    image: Callable[[int], np.ndarray]
    mask: Callable[[int], np.ndarray]
    objects: Callable[[int], Objects]

    def __len__(self) -> int:
        return len(self.ids)


def class_names(text: str) -> tuple[str, ...]:
    """Returns the names in "A,B,C"; those of PASCAL VOC if it is empty.

    Raises:
      ValueError: a name is empty, is there twice, or is "background"; or they are too many.
    """
    names = tuple(name.strip() for name in text.split(",")) if text.strip() else CLASSES
    wrong = [name for name in names if not name or names.count(name) > 1 or name == "background"]
    if wrong or len(names) >= mask.IGNORED:
        raise ValueError(
            f"data.classes={text!r} must be up to {mask.IGNORED - 1} different names with commas "
            "between them, in the order of their numbers in the masks, without the background."
        )
    return names


def open_tree(
    folder: str,
    *,
    split: str = "train",
    pair: tuple[str, str] = ("train", "val"),
    classes: Sequence[str] = CLASSES,
    needs: str = "masks",
    seed: int = 0,
    box_origin: str = "voc",
) -> Tree:
    """Opens a split of a folder with JPEGImages, ImageSets and the truth.

    Masks are PNG files in SegmentationClass or, for an image that has none there, in
    SegmentationClassAug; the lists are in ImageSets/Segmentation. Boxes are XML files in
    Annotations; the lists are in ImageSets/Main. `lists.draw` replaces a list that is missing.

    A split may join lists of several folders in `folder`: "VOC2007/trainval+VOC2012/trainval".

    All lists, headers and annotations are read here, and the numbers in some of the masks.

    Args:
      folder: the folder.
      split: the name of the list, without ".txt"; one of `pair`.
      pair: the lists of the job, for training and for the test.
      classes: the names of the classes; the first has number 1 in masks and label 0.
      needs: "masks" or "boxes": which truth every image must have.
      seed: for a list that is drawn.
      box_origin: see `Annotation.objects`.

    Raises:
      ValueError: a file is missing or wrong; the sentence names it and the way out.
    """
    top = Path(folder).expanduser()
    if not os.path.isdir(top):  # unlike Path.is_dir, it never raises
        raise ValueError(f"data.dir={folder!r} is not a folder.")
    is_test = split == pair[1]
    places = _listed(top, split, pair[0] if is_test else pair[1], needs, is_test=is_test, seed=seed)
    paths = [part.images[name] for part, name in places]
    truths = [part.truth(name) for part, name in places]
    sizes = _sizes(paths)
    opened = Tree(
        ids=tuple(str((part.root / name).relative_to(top)) for part, name in places),
        classes=tuple(classes),
        sizes=sizes,
        identity={
            "images": len(paths),
            "classes": len(classes),
            "digest": digest([*paths, *truths], top),
        },
        image=lambda place: _image(paths[place]),
        mask=lambda place: mask.read(truths[place], tuple(sizes[place]), len(classes)),
        objects=lambda place: _not_open("boxes"),
    )
    if needs == "masks":
        for place in range(0, len(opened), -(-len(opened) // _LOOKED_AT)):
            opened.mask(place)
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            list(pool.map(mask.check_header, truths, map(tuple, sizes)))
        return opened
    objects = _objects(truths, sizes, classes, box_origin)
    return dataclasses.replace(
        opened, mask=lambda place: _not_open("masks"), objects=lambda place: objects[place]
    )


def _not_open(needs: str) -> Any:
    raise TypeError(f"open the tree with needs={needs!r}")


def _listed(
    top: Path, split: str, other: str, needs: str, *, is_test: bool, seed: int
) -> list[tuple[Part, str]]:
    """Returns the images of a split; warns if some are in the other split, too."""
    found = layout.parts(top, split, _KINDS[needs])
    names = [part.names() for part in found]
    beside = layout.parts(top, other, _KINDS[needs])
    taken = {(part.root, name) for part in beside for name in part.names() or ()}
    for number, part in enumerate(found):
        if names[number] is None:
            if len(found) > 1:
                raise ValueError(f"The list {shown(part.path)} does not exist: write it.")
            names[number] = lists.draw(
                part.path,
                part.images.keys() & part.truths.keys(),
                part.kind.word,
                taken=[name for root, name in taken if root == part.root],
                is_test=is_test,
                seed=seed,
            )
    places = [(part, name) for part, listed in zip(found, names) for name in listed or ()]
    times = collections.Counter((part.root, name) for part, name in places)
    if twice := [name for (_, name), count in times.items() if count > 1]:
        raise ValueError(
            f"The lists of {split} have the same images ({len(twice)}): {some(twice)}."
        )
    if both := sorted(name for part, name in places if (part.root, name) in taken):
        logging.warning(
            "%s has images in both lists, %s and %s (%d): %s.",
            *(shown(top), *((other, split) if is_test else (split, other)), len(both), some(both)),
        )
    return places


def _sizes(paths: Sequence[Path]) -> np.ndarray:
    """Returns height and width of the images, int [N, 2]."""

    def size(path: Path) -> tuple[int, int]:
        try:
            return images.read_header(path, images.AS_IT_IS).size[::-1]
        except images.DECODE_ERRORS as error:
            raise _broken(path, error) from error

    what = f"Reading the headers in {shown(paths[0].parent)}"
    with (
        ThreadPoolExecutor(_NUM_THREADS) as pool,
        console.progress(what, len(paths), "image") as told,
    ):
        sizes = []
        for each in pool.map(size, paths):
            sizes.append(each)
            told.update(len(sizes))
    return np.array(sizes, int)


def _image(path: Path) -> np.ndarray:
    try:
        return images.decode(path)
    except images.DECODE_ERRORS as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"The image {shown(path)} cannot be read ({error}): repair it, or take it out of the list."
    )


def _objects(
    paths: Sequence[Path], sizes: np.ndarray, classes: Sequence[str], origin: str
) -> list[Objects]:
    """Returns the objects of each image, and warns of boxes that were cut."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        read: list[Annotation] = list(pool.map(annotation.read, paths))
    if unknown := [
        (each.path, name) for each in read for name in each.names if name not in classes
    ]:
        path, name = unknown[0]
        every = ",".join(sorted({name for each in read for name in each.names}))
        raise ValueError(
            f"{shown(path)} has an object of the class {shown(name)!r}, which data.classes does "
            f"not name: {near(name, classes)}the annotations have the classes {shown(every)}."
        )
    labels = {name: label for label, name in enumerate(classes)}
    found = [each.objects(labels, (h, w), origin) for each, (h, w) in zip(read, sizes.tolist())]
    # A corner may lie a pixel outside by counting from 0 instead of 1; more is worth a word.
    if beyond := [(by, path) for (_, by), path in zip(found, paths) if by > 1]:
        most, path = max(beyond)
        logging.warning(
            "There are images with boxes that reach beyond them and are cut (%d): by up to %g "
            "pixels in %s.",
            *(len(beyond), most, shown(path)),
        )
    return [objects for objects, _ in found]
