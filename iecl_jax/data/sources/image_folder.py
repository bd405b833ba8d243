"""Opens a folder of JPEG, PNG and WebP files as a data set."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_collections
import numpy as np
from absl import logging
from PIL import Image

from iecl_jax.data import files
from iecl_jax.data.sources.tfds import MEAN, STD, Settings
from iecl_jax.data.split import DECODE_ERRORS, MAX_NATIVE_SIZE, BrokenFiles, Indices, Record, Split

CROPPED_ON_HOST = True
__all__ = ["CROPPED_ON_HOST", "MEAN", "STD", "Settings", "check", "list_images", "open_split"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def check(data: ml_collections.ConfigDict) -> None:
    """Raises ValueError if `data.dir` is empty."""
    if not data.dir:
        raise ValueError("data.name='image_folder' needs data.dir, the folder of the images.")


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens a split of the folder `data.dir`.

    The splits are DIR/train and DIR/val (or DIR/test) if they exist; otherwise DIR is "train". Each
    subfolder of a split is a class, with all images below it. If an image lies in the split's
    folder itself, the whole split is unlabelled. Files whose name begins with a dot are ignored.

    The header of every file is read here. A broken file is logged, and the next good one takes its
    place.

    Raises:
      ValueError: there is no such split, it has no image or a class that DIR/train lacks, or more
        than 1 % of the files are broken.
    """
    top = Path(data.dir).expanduser()
    if not top.is_dir():
        raise ValueError(f"data.dir={data.dir!r} is not a folder.")
    train = top / "train" if (top / "train").is_dir() else top
    root = train if split != "test" else _test_folder(top)
    paths = list_images(root)
    if not paths:
        raise ValueError(f"{root} holds no image ({', '.join(SUFFIXES)}).")

    class_names = _class_names(list_images(train) if root != train else paths, train)
    label_of = {name: label for label, name in enumerate(class_names)}
    if root != train and class_names and (extra := set(_class_names(paths, root)) - set(label_of)):
        raise ValueError(f"{root} has the class {min(extra)!r}, which {train} does not have.")
    labels = [label_of.get(path.relative_to(root).parts[0], -1) for path in paths]

    broken = BrokenFiles(len(paths), str(root))
    logging.info("Reading the headers of %d images in %s.", len(paths), root)
    with ThreadPoolExecutor(data.num_threads) as pool:
        sizes = list(pool.map(lambda path: _size(path, broken), paths))
    slots = _next_good([size is not None for size in sizes])
    records = [Record(paths[slot], labels[slot]) for slot in slots]
    shapes = {size[::-1] for size in sizes if size is not None}
    small = len(shapes) == 1 and max(max(shapes)) <= MAX_NATIVE_SIZE

    def read(indices: Indices) -> list[Record]:
        return [records[index] for index in indices]

    return Split(
        name="image_folder",
        class_names=class_names,
        image_shape=shapes.pop() if small else None,
        length=len(records),
        read=read,
        read_labels=lambda: np.array([record.label for record in records]),
        broken=broken,
        is_train=split != "test",
        facts={"digest": _digest(paths, root)},
    )


def list_images(root: Path) -> list[Path]:
    """Returns all images below `root`, sorted by path; symbolic links are followed.

    The folder of a run is left out: its pictures are no data.
    """
    found = []
    for folder, below, names in os.walk(root, followlinks=True):
        below[:] = [name for name in below if not files.is_run(Path(folder, name))]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                found.append(Path(folder, name))
    return sorted(found)


def _digest(paths: Sequence[Path], root: Path) -> str:
    """Returns the SHA-256 (hex) of the images' paths below `root` and their sizes in bytes."""
    sha = hashlib.sha256()
    for path in paths:
        sha.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode(errors="replace"))
    return sha.hexdigest()


def _test_folder(top: Path) -> Path:
    """Returns the folder of the test images, or raises ValueError if there is none."""
    for name in ("val", "test"):
        if (top / "train").is_dir() and (top / name).is_dir():
            return top / name
    raise ValueError(
        f"{top} has no test images: put the images into {top / 'train'} and {top / 'val'}."
    )


def _class_names(paths: Sequence[Path], root: Path) -> tuple[str, ...]:
    """Returns the sorted subfolders that have images; () if an image lies in `root` itself."""
    parts = [path.relative_to(root).parts for path in paths]
    if any(len(part) == 1 for part in parts):
        return ()
    return tuple(sorted({part[0] for part in parts}))


def _size(path: Path, broken: BrokenFiles) -> tuple[int, int] | None:
    """Returns (width, height) from the file's header, or None if the header is broken."""
    try:
        with Image.open(path) as image:
            return image.size
    except DECODE_ERRORS as error:
        broken.add(str(path), error)
        return None


def _next_good(good: Sequence[bool]) -> list[int]:
    """Returns for each place the first good place from there on, continuing at the start."""
    slots, following = [], good.index(True)
    for place in reversed(range(len(good))):
        following = place if good[place] else following
        slots.append(following)
    return slots[::-1]
