"""Finds the images of a list of file names, such as ImageNet's lists of 1 % and 10 % of the labels.

Those are `imagenet_subsets/1percent.txt` and `10percent.txt` of github.com/google-research/simclr
(Chen et al. 2020, section B.5): 12,811 and 128,116 names such as `n01440764_10026.JPEG`.
"""

import functools
from pathlib import Path, PurePosixPath

import numpy as np

from iecl_jax import console
from iecl_jax.config.rules import shown
from iecl_jax.data.split import Split

_CHUNK = 1024  # images whose names are read at once


@functools.lru_cache(maxsize=2)
def places(split: Split, key: str, path: str) -> np.ndarray:
    """Returns which images of a split a list names, int64 [n], sorted.

    A line of the list is the name of a file, or the last parts of its path, as in `cat/1.jpg`. An
    empty line is passed over.

    Args:
      split: the images, which have names if they are files or if their source knows the names.
      key: the setting that names the list, for messages.
      path: the list, a text file.

    Raises:
      ValueError: the list cannot be read or is empty, the images have no names, or a line names no
        image, several images, or one that has no label.
    """
    lines = _lines(key, path)
    depths = {len(line.parts) for line in lines}
    known: dict[PurePosixPath, list[int]] = {line: [] for line in lines}
    for place, name in enumerate(_names(split, key)):
        parts = PurePosixPath(name).parts
        for depth in depths:
            tail = PurePosixPath(*parts[-depth:])
            if tail in known:
                known[tail].append(place)
    missing = [line for line, found in known.items() if not found]
    if missing:
        raise ValueError(
            f"{key}={path!r} names {len(missing)} files that {split.name} does not have, beginning "
            f"with {shown(str(missing[0]))}: use a list of its files."
        )
    for line, found in known.items():
        if len(found) > 1:
            raise ValueError(
                f"{key}={path!r} has the line {shown(str(line))}, which {len(found)} images of "
                f"{split.name} fit: write the folder before it, as in class/{line.name}."
            )
        if split.labels[found[0]] < 0:
            raise ValueError(
                f"{key}={path!r} has the line {shown(str(line))}, an image without a label: take "
                "it out."
            )
    return np.unique(np.concatenate([*known.values()]))


def _lines(key: str, path: str) -> list[PurePosixPath]:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(f"{key}={path!r} cannot be read ({why}): name a text file.") from None
    lines = [PurePosixPath(line.strip()) for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{key}={path!r} is empty: write the name of a file on each line.")
    return lines


def _names(split: Split, key: str) -> list[str]:
    """Returns the names of the files of all images, in their order."""
    found: list[str] = []
    with console.progress(f"Reading the names of {split.name}", len(split), "image") as told:
        for start in range(0, len(split), _CHUNK):
            for record in split.read(range(start, min(start + _CHUNK, len(split)))):
                name = record.name or (str(record.image) if isinstance(record.image, Path) else "")
                if not name:
                    raise ValueError(
                        f"{key} needs images with file names, and {split.name} has none: take it "
                        "out."
                    )
                found.append(name)
            told.update(len(found))
    return found
