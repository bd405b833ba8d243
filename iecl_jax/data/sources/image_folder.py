"""Opens a folder of images as a data set."""

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_collections
import numpy as np
from absl import logging

from iecl_jax import console
from iecl_jax.config.rules import Rule
from iecl_jax.config.section import Section, key
from iecl_jax.data import class_folders, images
from iecl_jax.data.listing import digest, shown
from iecl_jax.data.sources.tfds import MEAN, STD
from iecl_jax.data.split import MAX_NATIVE_SIZE, BrokenFiles, Indices, Record, Split

CROPPED_ON_HOST = True
_LOOKED_AT = 16  # images of more than 8 bits whose largest value is measured
__all__ = ["CROPPED_ON_HOST", "MEAN", "STD", "Settings", "check", "open_split"]


class Settings(Section):
    """The settings of a folder of images."""

    test_share = key(
        0.0,
        Rule(lambda value: 0 <= value < 1, "at least 0 and less than 1"),
        "share of each class held out for the test, by its names, in a folder without test images",
    )


def check(data: ml_collections.ConfigDict) -> None:
    """Raises ValueError if `data.dir` is empty."""
    if not data.dir:
        raise ValueError("data.name='image_folder' needs data.dir, the folder of the images.")


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens a split of the folder `data.dir`.

    The splits are DIR/train and DIR/val (see `class_folders`) if they exist; otherwise DIR is
    "train", without the images that `data.test_share` holds out for "test". Each subfolder of a
    split is a class, with all images below it (see `listing`). If most images lie in the split's
    folder itself, the whole split is unlabelled; otherwise those are left out.

    The header of every file is read here. A broken file is logged, and the next good one takes its
    place. Whatever is left out is logged, too.

    Raises:
      ValueError: `class_folders.find` raises it, or more files are broken than `BrokenFiles`
        allows.
    """
    top = Path(data.dir).expanduser()
    if not os.path.isdir(top):  # unlike Path.is_dir, it never raises
        raise ValueError(f"data.dir={data.dir!r} is not a folder.")
    listed = class_folders.find(top, split, test_share=data.test_share)
    reading = images.reading(data)
    where = shown(listed.root)
    broken = BrokenFiles(len(listed.paths), where)

    def header(path: Path) -> images.Header | None:
        try:
            return images.read_header(path, reading)
        except images.DECODE_ERRORS as error:
            broken.add(shown(path), error)
            return None

    headers: list[images.Header | None] = []
    with (
        ThreadPoolExecutor(data.num_threads) as pool,
        console.progress(f"Reading the headers in {where}", len(listed.paths), "image") as told,
    ):
        for each in pool.map(header, listed.paths):
            headers.append(each)
            told.update(len(headers))
    slots = _next_good([each is not None for each in headers])
    records = [Record(listed.paths[slot], listed.labels[slot]) for slot in slots]
    _tell(where, records, [kept for slot in slots if (kept := headers[slot])], reading)
    shapes = {each.size[::-1] for each in headers if each is not None}
    small = len(shapes) == 1 and max(max(shapes)) <= MAX_NATIVE_SIZE

    def read(indices: Indices) -> list[Record]:
        return [records[index] for index in indices]

    return Split(
        name="image_folder",
        class_names=listed.class_names,
        image_shape=shapes.pop() if small else None,
        length=len(records),
        read=read,
        read_labels=lambda: np.array([record.label for record in records]),
        broken=broken,
        is_train=split != "test",
        facts={"digest": digest(listed.paths, listed.root)},
    )


def _tell(
    where: str, records: Sequence[Record], headers: Sequence[images.Header], how: images.Reading
) -> None:
    """Logs how many images are transparent, turned or deep, and what is done with those."""
    total = len(headers)
    if count := sum(header.transparent for header in headers):
        done = {"white": "laid over white", "drop": "used without their alpha"}[how.alpha]
        logging.info(
            "%s: %d of %d images are transparent and are %s (data.alpha=%s).",
            *(where, count, total, done, how.alpha),
        )
    if count := sum(header.turned for header in headers):
        done = "turned upright" if how.exif_rotation else "not turned"
        logging.info(
            "%s: %d of %d images lie turned by their EXIF and are %s (data.exif_rotation=%s).",
            *(where, count, total, done, how.exif_rotation),
        )
    if deep := [record.image for record, header in zip(records, headers) if header.deep]:
        _tell_of_deep(where, deep[:: -(-len(deep) // _LOOKED_AT)], len(deep), how.bit_depth)


def _tell_of_deep(where: str, some: Sequence[images.Source], count: int, bits: int) -> None:
    """Warns if images of more than 8 bits do not fill the range that is assumed, or exceed it."""
    largest = 0
    for image in some:
        with contextlib.suppress(*images.DECODE_ERRORS):  # a broken file, found when it is read
            largest = max(largest, images.largest_value(image))
    used = max(8, largest.bit_length())
    log = logging.warning if used > bits or used < bits - 1 else logging.info
    log(
        "%s: %d images have more than 8 bits; the largest value in %d of them is %d, of %d bits, "
        "and data.bit_depth=%d takes %d for white%s.",
        *(where, count, len(some), largest, used, bits, 2**bits - 1),
        "" if log is logging.info else f": data.bit_depth={min(used, 16)} would fit it",
    )


def _next_good(good: Sequence[bool]) -> list[int]:
    """Returns for each place the first good place from there on, continuing at the start."""
    slots, following = [], good.index(True)
    for place in reversed(range(len(good))):
        following = place if good[place] else following
        slots.append(following)
    return slots[::-1]
