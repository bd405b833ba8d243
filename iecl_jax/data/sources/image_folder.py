"""Opens a folder of images as a data set."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_collections
import numpy as np
from absl import logging

from iecl_jax.data import class_folders, images
from iecl_jax.data.listing import shown
from iecl_jax.data.sources.tfds import MEAN, STD, Settings
from iecl_jax.data.split import MAX_NATIVE_SIZE, BrokenFiles, Indices, Record, Split

CROPPED_ON_HOST = True
__all__ = ["CROPPED_ON_HOST", "MEAN", "STD", "Settings", "check", "open_split"]


def check(data: ml_collections.ConfigDict) -> None:
    """Raises ValueError if `data.dir` is empty."""
    if not data.dir:
        raise ValueError("data.name='image_folder' needs data.dir, the folder of the images.")


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens a split of the folder `data.dir`.

    The splits are DIR/train and DIR/val (see `class_folders`) if they exist; otherwise DIR is
    "train". Each subfolder of a split is a class, with all images below it (see `listing`). If most
    images lie in the split's folder itself, the whole split is unlabelled; otherwise those are left
    out.

    The header of every file is read here. A broken file is logged, and the next good one takes its
    place. Whatever is left out is logged, too.

    Raises:
      ValueError: `class_folders.find` raises it, or more files are broken than `BrokenFiles`
        allows.
    """
    top = Path(data.dir).expanduser()
    if not top.is_dir():
        raise ValueError(f"data.dir={data.dir!r} is not a folder.")
    found, reading = class_folders.find(top, split), images.reading(data)
    where = shown(found.root)
    broken = BrokenFiles(len(found.paths), where)
    logging.info("Reading the headers of %d images in %s.", len(found.paths), where)

    def header(path: Path) -> images.Header | None:
        try:
            return images.read_header(path, reading)
        except images.DECODE_ERRORS as error:
            broken.add(shown(path), error)
            return None

    with ThreadPoolExecutor(data.num_threads) as pool:
        headers = list(pool.map(header, found.paths))
    slots = _next_good([header is not None for header in headers])
    records = [Record(found.paths[slot], found.labels[slot]) for slot in slots]
    shapes = {header.size[::-1] for header in headers if header is not None}
    small = len(shapes) == 1 and max(max(shapes)) <= MAX_NATIVE_SIZE

    def read(indices: Indices) -> list[Record]:
        return [records[index] for index in indices]

    return Split(
        name="image_folder",
        class_names=found.class_names,
        image_shape=shapes.pop() if small else None,
        length=len(records),
        read=read,
        read_labels=lambda: np.array([record.label for record in records]),
        broken=broken,
        is_train=split != "test",
        facts={"digest": _digest(found.paths, found.root)},
    )


def _digest(paths: Sequence[Path], root: Path) -> str:
    """Returns the SHA-256 (hex) of the images' paths below `root` and their sizes in bytes."""
    sha = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size if path.exists() else None  # None = a link that leads nowhere
        sha.update(os.fsencode(path.relative_to(root)) + f" {size}\n".encode())
    return sha.hexdigest()


def _next_good(good: Sequence[bool]) -> list[int]:
    """Returns for each place the first good place from there on, continuing at the start."""
    slots, following = [], good.index(True)
    for place in reversed(range(len(good))):
        following = place if good[place] else following
        slots.append(following)
    return slots[::-1]
