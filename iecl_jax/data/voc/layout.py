"""Finds lists, images and truth in a folder with the layout of PASCAL VOC."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path

from iecl_jax.data.listing import SUFFIXES, entries, is_hidden, shown
from iecl_jax.data.voc import lists

_IMAGES = "JPEGImages"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of truth.

    Attributes:
      word: what a file of it is called, with its article.
      lists: the folder in ImageSets with the lists of its splits.
      folders: where its files are; the first folder that has one for an image is taken.
      ending: the ending of its files.
    """

    word: str
    lists: str
    folders: tuple[str, ...]
    ending: str


# SegmentationClassAug has masks from elsewhere, such as those of SBD.
MASKS = Kind("a mask", "Segmentation", ("SegmentationClass", "SegmentationClassAug"), ".png")
BOXES = Kind("an annotation", "Main", ("Annotations",), ".xml")


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A list of images, in a folder with images and truth.

    Attributes:
      root: the folder.
      path: the list; it may be missing.
      images: all images of the folder by name.
      kind: the kind of truth.
    """

    root: Path
    path: Path
    images: Mapping[str, Path]
    kind: Kind

    def names(self) -> list[str] | None:
        """Returns the names in the list; None if it does not exist."""
        return lists.read(self.path, self.images) if os.path.exists(self.path) else None

    @functools.cached_property
    def truths(self) -> dict[str, Path]:
        """The files of the truth by the names of their images."""
        found: dict[str, Path] = {}
        for folder in self.kind.folders:
            if os.path.isdir(self.root / folder):
                for entry in entries(self.root / folder):
                    path = Path(entry.path)
                    if path.suffix.lower() == self.kind.ending:
                        found.setdefault(path.stem, path)
        return found

    def truth(self, name: str) -> Path:
        """Returns the file of the truth of an image; raises ValueError if there is none."""
        if name not in self.truths:
            path = self.root / self.kind.folders[0] / (name + self.kind.ending)
            raise ValueError(
                f"{shown(self.path)} names {shown(name)}, which lacks {self.kind.word}: "
                f"{shown(path)} does not exist. Add it, or take the image out of the list."
            )
        return self.truths[name]


def parts(top: Path, split: str, kind: Kind) -> list[Part]:
    """Returns the lists that a split joins: "train", or "VOC2007/train+VOC2012/train".

    Raises:
      ValueError: a list has no name, or a folder no images, or two of the same name.
    """
    found = []
    for text in split.split("+"):
        below, _, name = text.strip().rpartition("/")
        if not name:
            raise ValueError(f"The split {split!r} names no list, such as 'train': name one.")
        root = top / below.strip("/")
        path = root / "ImageSets" / kind.lists / f"{name}.txt"
        found.append(Part(root, path, _images(root), kind))
    return found


def _images(root: Path) -> dict[str, Path]:
    if not os.path.isdir(root / _IMAGES):
        inner = [path.parent for path in (*root.glob(f"*/{_IMAGES}"), *root.glob(f"*/*/{_IMAGES}"))]
        hint = f": did you mean data.dir={shown(min(inner))}?" if inner else "."
        raise ValueError(f"{shown(root)} has no folder {_IMAGES}{hint}")
    found: dict[str, Path] = {}
    for entry in entries(root / _IMAGES):
        path = Path(entry.path)
        if path.suffix.lower() in SUFFIXES and not is_hidden(entry.name, is_folder=False):
            if path.stem in found:
                raise ValueError(
                    f"{shown(path.parent)} has {shown(found[path.stem].name)} and "
                    f"{shown(path.name)}, which differ only in their ending: remove or rename one."
                )
            found[path.stem] = path
    return found
