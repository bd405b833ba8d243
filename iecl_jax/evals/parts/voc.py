"""The images of the jobs on PASCAL VOC: a folder in its layout, or generated ones."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections

from iecl_jax import console
from iecl_jax.config.rules import FEW, FEW_OR_NONE
from iecl_jax.config.section import Section, key
from iecl_jax.data import stream
from iecl_jax.data.voc import generated, tree
from iecl_jax.evals.parts.subject import Subject


class Images(Section):
    """The keys of `config.data`."""

    dir = key("", None, "folder with JPEGImages, ImageSets and the truth, as VOCdevkit/VOC2012")
    generated = key(False, None, 'with dir="": images of shapes, drawn by the program')
    classes = key(
        "", None, 'names "A,B,C" of the classes without the background; "" = the 20 of VOC'
    )
    train_split = key("train", None, "list of the training images, without .txt")
    test_split = key("val", None, "list of the test images, without .txt")
    num_threads = key(8, FEW, "threads that read and place images")
    prefetch = key(
        2, FEW_OR_NONE, "batches read ahead of the step, and as many put on the device ahead"
    )


class Splits(NamedTuple):
    """The images of a job."""

    train: tree.Tree
    test: tree.Tree


def splits(subject: Subject, name: str, *, needs: str) -> Splits:
    """Returns the images of a job, which are opened once for the same settings.

    Args:
      subject: what is evaluated; `own_data` has the values of `Images`.
      name: the evaluation, for messages.
      needs: "masks" or "boxes".

    Raises:
      ValueError: this is a pretraining, no job; or see `open_splits`.
    """
    if subject.own_data is None:
        raise ValueError(
            f"eval.names has {name!r}, which trains on images of its own: take it out, and run "
            f"configs/voc_{name}.py on the checkpoint."
        )
    settings = ml_collections.FrozenConfigDict(subject.own_data)  # the key of a cache
    return _opened(settings, needs, subject.seed)


@functools.lru_cache(maxsize=1)
def _opened(settings: Any, needs: str, seed: int) -> Splits:
    with console.waiting("Opening the images"):
        return open_splits(settings, needs=needs, seed=seed)


def batches(
    subject: Subject, split: tree.Tree, read: Callable[..., Any], settings: Any
) -> Callable[..., stream.Stream]:
    """Returns the batches of training images for `training.Task`.

    `read` is called as read(split, settings, seed, index, step, place), see `stream.of_examples`.
    """
    reading = subject.own_data
    assert reading is not None  # as `splits` has made sure
    return functools.partial(
        stream.of_examples,
        functools.partial(read, split, settings, subject.seed),
        len(split),
        batch_size=settings.batch_size,
        seed=subject.seed,
        num_threads=reading.num_threads,
        prefetch=reading.prefetch,
    )


def open_splits(settings: Any, *, needs: str, seed: int) -> Splits:
    """Opens the training and the test images.

    Args:
      settings: the values of `Images`, and "box_origin" if there are boxes.
      needs: "masks" or "boxes".
      seed: draws a list that is missing.

    Raises:
      ValueError: there is no folder, or something in it is missing or wrong.
    """
    how = {"box_origin": settings.box_origin} if needs == "boxes" else {}
    pair = settings.train_split, settings.test_split
    if not settings.dir:
        if not settings.generated:
            raise ValueError(
                "config.data.dir is empty: name a folder in the layout of PASCAL VOC, "
                "--config.data.dir=FOLDER, or draw images by --config.data.generated=True."
            )
        return Splits(*(generated.open_tree(split=split) for split in ("train", "test")))
    if pair[0] == pair[1]:
        raise ValueError(
            f"data.train_split and data.test_split are both {pair[0]!r}: name two lists."
        )
    names = tree.class_names(settings.classes)
    train, test = (
        tree.open_tree(
            settings.dir, split=split, pair=pair, classes=names, needs=needs, seed=seed, **how
        )
        for split in pair
    )
    return Splits(train, test)
