"""Finds the splits and classes of a folder of images, from the names of its folders."""

import difflib
import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import logging

from iecl_jax.data.listing import SUFFIXES, Listing, entries, is_hidden, list_images, shown, some

# Names of the folders of the two splits, in any case; the first that exists is taken.
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("val", "valid", "validation", "test", "testing")


class Labelled(NamedTuple):
    """The images of a split, with their labels.

    Attributes:
      root: the folder of the split.
      class_names: names of the classes, sorted; () = unlabelled.
      paths: the images, sorted.
      labels: for each image, the place of its class in `class_names`; -1 = unlabelled.
    """

    root: Path
    class_names: tuple[str, ...]
    paths: list[Path]
    labels: list[int]


def find(top: Path, split: str, *, test_share: float = 0.0) -> Labelled:
    """Returns the images of split "pretrain", "train" or "test", and logs what is left out.

    Args:
      top: the folder.
      split: the name of the split.
      test_share: if above 0, the share of each class, rounded, that is "test" and no other split,
        in a folder without test images. It is decided by the names: those whose SHA-256 is least.

    Raises:
      ValueError: there is no such split or no image in it, it is unclear which folder it is, it has
        a class that the training images lack, or a folder cannot be read.
    """
    train, test = _split_folders(top)
    if test_share and test is not None:
        raise ValueError(
            f"data.test_share={test_share} is for a folder without test images, and {shown(top)} "
            f"has {test.name}: take it out."
        )
    if split == "test" and test is None and not test_share:
        raise ValueError(
            f"{shown(top)} has no test images: put the images into {shown(top / 'train')} and "
            f"{shown(top / 'val')}, or hold out a fifth of each class with data.test_share=0.2."
        )
    root = train if split != "test" or test is None else test
    listing = list_images(root)
    for note in listing.notes:
        logging.info("%s", note)
    if not listing.images:
        holds = " ".join([f"{shown(root)} holds no image ({', '.join(SUFFIXES)}).", *listing.notes])
        raise ValueError(holds)
    inside = [path for path in listing.images if path.parent != root]
    if root == train:
        class_names = _class_names(listing)
        _warn_of_classes(listing, class_names)
    else:
        class_names = _class_names(list_images(train))
        _compare_classes(listing, class_names, train)
    paths = inside if class_names and inside else listing.images
    if strays := [path for path in listing.images if path.parent == root]:
        if len(paths) < len(listing.images):
            words = "%s: left out what lies beside the folders of the classes (images: %d): %s."
            logging.warning(words, shown(root), len(strays), some(strays))
        elif inside:
            words = "%s: most images lie in no folder of a class, so all are taken as unlabelled."
            logging.warning(words, shown(root))
    label_of, depth = {name: label for label, name in enumerate(class_names)}, len(root.parts)
    labels = [label_of.get(path.parts[depth], -1) for path in paths]
    if test_share:
        held = _held_out(paths, labels, root, test_share)
        kept = [place for place in range(len(paths)) if (place in held) == (split == "test")]
        paths, labels = [paths[place] for place in kept], [labels[place] for place in kept]
        words = "%s: %d of its images are the test, %.3g of each class (data.test_share)."
        logging.info(words, shown(root), len(held), test_share)
        if not paths:
            raise ValueError(
                f"data.test_share={test_share} leaves no image of {shown(root)} for the split "
                f"{split}: choose another share."
            )
    return Labelled(root, tuple(map(shown, class_names)), paths, labels)


def _held_out(paths: Sequence[Path], labels: Sequence[int], root: Path, share: float) -> set[int]:
    """Returns the places of the images that are held out of each class."""
    of_class: dict[int, list[tuple[bytes, int]]] = defaultdict(list)
    for place, (path, label) in enumerate(zip(paths, labels, strict=True)):
        name = os.fsencode(path.relative_to(root).as_posix())
        of_class[label].append((hashlib.sha256(name).digest(), place))
    return {
        place
        for found in of_class.values()
        for _, place in sorted(found)[: round(share * len(found))]
    }


def splits(top: Path) -> tuple[str, ...]:
    """Returns the names of the splits that a folder has: ("train",) or ("train", "test").

    Raises:
      ValueError: it is unclear which folders they are.
    """
    return ("train",) if _split_folders(top)[1] is None else ("train", "test")


def _split_folders(top: Path) -> tuple[Path, Path | None]:
    """Returns the folders of the training and of the test images.

    Raises:
      ValueError: it is unclear which they are.
    """
    there: dict[str, list[Path]] = {}
    for entry in entries(top):
        if os.path.isdir(entry.path) and not is_hidden(entry.name, is_folder=True):
            there.setdefault(entry.name.lower(), []).append(top / entry.name)
    train, test = (_first(there, names) for names in (TRAIN_FOLDERS, TEST_FOLDERS))
    others = sorted(path for paths in there.values() for path in paths if path not in (train, test))
    if train is None and (test is not None or (others and all(map(_is_like_a_split, others)))):
        raise ValueError(
            f"{shown(top)} has {_names([test, *others])}, but no folder train: rename the "
            "folder of the training images to train and that of the test images to val, or name "
            "one of them instead of the folder above it."
        )
    if train is None:
        return top, None
    if test is None and (more := [path for path in others if _holds_images(path)]):
        raise ValueError(
            f"{shown(top)} has {train.name} and beside it folders with images: {_names(more)}. "
            f"Put all of them into {shown(train)} if {train.name} is a class, or else move them "
            "away."
        )
    if others:
        logging.info("%s: not read, beside train and val: %s.", shown(top), _names(others))
    return train, test


def _names(paths: Iterable[Path | None]) -> str:
    return some([path.name for path in paths if path is not None])


def _is_like_a_split(folder: Path) -> bool:
    """Returns whether a folder has a name such as train2017 or test_set."""
    words = "|".join((*TRAIN_FOLDERS, *TEST_FOLDERS))
    endings = r"[\W_\d]*(set|data|images|imgs|\d*)"
    return re.fullmatch(f"({words}){endings}", folder.name.lower()) is not None


def _holds_images(folder: Path) -> bool:
    return any(entry.name.lower().endswith(SUFFIXES) for entry in entries(folder))


def _first(there: Mapping[str, list[Path]], names: Sequence[str]) -> Path | None:
    """Returns the folder of the first of `names` that exists; None if there is none."""
    for name in names:
        paths = there.get(name, [])
        if len(paths) > 1:
            raise ValueError(
                f"{some(paths)} differ only in case: rename or remove the one that is not meant."
            )
        if paths:
            return paths[0]
    return None


def _class_names(listing: Listing) -> tuple[str, ...]:
    """Returns the sorted folders that have images; () if most images lie in `root` itself."""
    depth = len(listing.root.parts)
    inside = [path.parts[depth] for path in listing.images if path.parent != listing.root]
    return tuple(sorted(set(inside))) if 2 * len(inside) >= len(listing.images) else ()


def _warn_of_classes(listing: Listing, class_names: Sequence[str]) -> None:
    """Warns of folders without images, and of names that differ only in case."""
    if class_names and listing.empty:
        where, names = shown(listing.root), some(listing.empty)
        logging.warning("%s: folders without an image, which are no classes: %s.", where, names)
    alike: dict[str, list[str]] = {}
    for name in class_names:
        alike.setdefault(_plain(name), []).append(name)
    for same in alike.values():
        if len(same) > 1:
            logging.warning("Classes whose names differ only in case or accents: %s.", some(same))


def _compare_classes(listing: Listing, known: Sequence[str], train: Path) -> None:
    """Compares the classes of the test images with those of the training images.

    Raises:
      ValueError: a class is not in `known`.
    """
    depth = len(listing.root.parts)
    found = {path.parts[depth] for path in listing.images if path.parent != listing.root}
    if known and (extra := sorted(found - set(known))):
        plain = {_plain(name): name for name in known}
        near = difflib.get_close_matches(_plain(extra[0]), plain, n=1)
        hint = f" (it has {shown(plain[near[0]])!r})" if near else ""
        raise ValueError(
            f"{shown(listing.root)} has the class {shown(extra[0])!r}, which {shown(train)} does "
            f"not have{hint}: rename or remove the folder."
        )
    if known and found and (missing := sorted(set(known) - found)):
        logging.warning("%s: no image of the classes %s.", shown(listing.root), some(missing))


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
