"""A split of a data set: images and labels by index, for every kind of file behind them."""

import dataclasses
import functools
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from absl import logging

from iecl_jax import console
from iecl_jax.data import images
from iecl_jax.data.listing import shown

T = TypeVar("T")
Indices = Sequence[int] | np.ndarray

MAX_NATIVE_SIZE = 96  # pixels: larger images are cropped on the host
MAX_BROKEN, MAX_BROKEN_SHARE = 3, 0.01  # files that may be broken: the larger of the two


class Record(NamedTuple):
    """An image, not decoded yet (encoded bytes, a path, or pixels uint8 [H,W,3]), and its label."""

    image: images.Source
    label: int  # -1 = unlabelled
    name: str = ""  # of the file; "" = that of the path, or none


class BrokenFiles:
    """Counts the files that cannot be decoded; more than 3 and than 1 % of `total` are an error."""

    def __init__(self, total: int, where: str):
        self.names: list[str] = []
        self._total, self._where, self._lock = total, where, threading.Lock()

    def add(self, name: str, error: Exception) -> None:
        """Counts a broken file, and logs it as a warning the first time.

        Raises:
          ValueError: more than 3 and more than 1 % of the files are broken, or all of them.
        """
        with self._lock:
            if name not in self.names:
                self.names.append(name)
                count = f"{len(self.names)} of {self._total} so far"
                logging.warning("%s is broken and is skipped (%s): %s", name, count, error)
            if len(self.names) > max(MAX_BROKEN, MAX_BROKEN_SHARE * self._total):
                too_many = f"more than {MAX_BROKEN} and more than 1 %"
            elif len(self.names) == self._total:
                too_many = "all of them"
            else:
                return
            raise ValueError(
                f"{len(self.names)} of the {self._total} images in {self._where} are broken, "
                f"{too_many}: repair or remove them, beginning with {', '.join(self.names[:3])}."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Random access to N images.

    `read(indices)` returns their Records. `read_labels()` returns all labels, without decoding an
    image. If `broken` is set, an image that cannot be decoded is replaced by the next one that can,
    with the label of that one. Otherwise a ValueError names it.
    """

    name: str
    class_names: tuple[str, ...]  # () = unlabelled
    image_shape: tuple[int, int] | None  # (h, w) if all images have it and it is small
    length: int
    read: Callable[[Indices], list[Record]]
    read_labels: Callable[[], np.ndarray]
    num_threads: int = 8
    broken: BrokenFiles | None = None
    reading: images.Reading = images.AS_IT_IS
    is_train: bool = False  # whether these are the same images as those of split "train"
    # What identifies the images besides their number, as JSON values: a version, a digest.
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return self.length

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies these images: {"images": N, "classes", ...}, JSON values."""
        return {"images": len(self), "classes": self.num_classes, **self.facts}

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 = unlabelled, or all of one class: nothing to tell apart."""
        return len(self.class_names) if len(self.class_names) > 1 else 0

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The labels, int32 [N], -1 = unlabelled; they are read at the first use."""
        return self.read_labels().astype(np.int32)

    def load(self, index: int) -> np.ndarray:
        """Returns an image as RGB, uint8 [H,W,3]."""
        return self.decode([index], lambda _, image: images.decode(image, self.reading))[0][0]

    def encoded(self, index: int) -> bytes | None:
        """Returns the bytes of an image's file, or None if the image is given as pixels."""
        image = self.read([index])[0].image
        if isinstance(image, Path):
            return image.read_bytes()
        return image if isinstance(image, bytes) else None

    def decode(
        self, indices: Indices, function: Callable[[int, images.Source], T]
    ) -> tuple[list[T], np.ndarray]:
        """Calls `function(position in indices, image)` for each image.

        Returns:
          (results, labels): the list of results, and the labels, int32 [len(indices)].
        """
        results, labels = [], []
        for position, (index, record) in enumerate(zip(indices, self.read(indices))):
            result, label = self._decode_one(int(index), record, position, function)
            results.append(result)
            labels.append(label)
        return results, np.array(labels, np.int32)

    def _decode_one(self, index, record, position, function):
        while True:
            try:
                return function(position, record.image), record.label
            except images.DECODE_ERRORS as error:
                if self.broken is None:
                    raise ValueError(
                        f"image {index} of {self.name} cannot be decoded: {error}."
                    ) from error
                self.broken.add(shown(str(record.image)), error)
            index = (index + 1) % len(self)
            record = self.read([index])[0]

    @functools.cached_property
    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """All images, uint8 [N,H,W,3], and labels, int32 [N]; decoded at the first use and kept.

        Raises:
          ValueError: the images are large or their sizes vary.
        """
        if self.image_shape is None:
            raise ValueError(
                f"{self.name} has images that are large or of several sizes, which data.cache "
                "cannot keep: use data.cache='none'."
            )
        pixels = np.empty((len(self), *self.image_shape, 3), np.uint8)
        labels = np.empty(len(self), np.int32)
        chunks = np.array_split(np.arange(len(self)), max(1, len(self) // 256))

        def fill(chunk: np.ndarray) -> None:
            decoded, labels[chunk] = self.decode(
                chunk, lambda _, image: images.decode(image, self.reading)
            )
            pixels[chunk] = decoded

        with (
            ThreadPoolExecutor(self.num_threads) as pool,
            console.progress(f"Decoding {self.name}", len(self), "image") as shown,
        ):
            for chunk, _ in zip(chunks, pool.map(fill, chunks), strict=True):
                shown.update(int(chunk[-1]) + 1)
        return pixels, labels


def concatenate(name: str, splits: Sequence[Split]) -> Split:
    """Joins splits in order; the classes and the image size are those of the last one."""
    ends = np.cumsum([len(split) for split in splits])

    def read(indices: Indices) -> list[Record]:
        records = []
        for index in indices:
            part = int(np.searchsorted(ends, index, side="right"))
            offset = int(ends[part]) - len(splits[part])
            records += splits[part].read([int(index) - offset])
        return records

    return dataclasses.replace(
        splits[-1],
        name=name,
        length=int(ends[-1]),
        read=read,
        read_labels=lambda: np.concatenate([split.labels for split in splits]),
        is_train=False,
        facts={
            name: [split.facts.get(name) for split in splits]
            for name in dict.fromkeys(name for split in splits for name in split.facts)
        },
    )


def subset(split: Split, indices: np.ndarray) -> Split:
    """Returns the images at some places, int [n]; the facts get a digest of the places."""
    chosen = np.asarray(indices, np.int64)
    places = hashlib.sha256(chosen.tobytes()).hexdigest()
    return dataclasses.replace(
        split,
        length=len(chosen),
        read=lambda indices: split.read(chosen[np.asarray(indices)]),
        read_labels=lambda: split.labels[chosen],
        is_train=False,
        facts={**split.facts, "places": places},
    )


def keep_classes(name: str, split: Split, class_names: Sequence[str]) -> Split:
    """Returns the images of the named classes, labelled by the place of the class in the list.

    Raises:
      ValueError: the split does not have one of the classes.
    """
    if missing := [wanted for wanted in class_names if wanted not in split.class_names]:
        raise ValueError(f"{split.name} has no class {missing[0]!r}, which {name} needs.")
    new_label = np.full(split.num_classes, -1, np.int32)
    for label, class_name in enumerate(class_names):
        new_label[split.class_names.index(class_name)] = label
    kept = np.flatnonzero(new_label[split.labels] >= 0)

    def read(indices: Indices) -> list[Record]:
        records = split.read(kept[np.asarray(indices)])
        return [each._replace(label=int(new_label[each.label])) for each in records]

    return dataclasses.replace(
        split,
        name=name,
        class_names=tuple(class_names),
        length=len(kept),
        read=read,
        read_labels=lambda: new_label[split.labels[kept]],
    )
