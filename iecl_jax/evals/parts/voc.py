"""The images of the jobs on PASCAL VOC: a folder in its layout, or generated ones."""

from typing import Any

from iecl_jax.config.rules import FEW, FEW_OR_NONE
from iecl_jax.config.section import Section, key
from iecl_jax.data.voc import generated, tree


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


def open_splits(settings: Any, *, needs: str, seed: int, **how: Any) -> tuple[tree.Tree, tree.Tree]:
    """Opens the training and the test images.

    Args:
      settings: the values of `Images`.
      needs: "masks" or "boxes".
      seed: draws a list that is missing.
      how: further arguments of `tree.open_tree`.

    Raises:
      ValueError: there is no folder, or something in it is missing or wrong.
    """
    pair = settings.train_split, settings.test_split
    if not settings.dir:
        if not settings.generated:
            raise ValueError(
                "config.data.dir is empty: name a folder in the layout of PASCAL VOC, "
                "--config.data.dir=FOLDER, or draw images by --config.data.generated=True."
            )
        return generated.open_tree(split="train"), generated.open_tree(split="test")
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
    return train, test
