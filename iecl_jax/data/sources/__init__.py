"""The data sources, one file each, which open the images that `config.data.name` names.

The name is that of a file here, the path of another `.py` file, or that of a data set that TFDS has
prepared (`tfds.py`). The file of a source defines, where `data` is config.data,

    Settings                 a `config.section.Section`: the keys of config.data that only this
                             source reads
    MEAN, STD                mean and standard deviation per channel, of values in [0, 1], with
                             which images are normalised
    open_split(data, split)  -> Split: "pretrain" (all images that may be trained on without
                             labels), "train" or "test"; ValueError if there is no such split

and optionally

    check(data)              raises ValueError before anything compiles
    prepare(data)            writes the data set; `iecl_jax.tools.prepare` calls it with data.name
                             and data.dir
    NO_FOLDER = True         says that the source reads no folder: data.dir must be ""
    CROPPED_ON_HOST = True   says that images are large or of several sizes for any data.image_size
"""

import dataclasses

import ml_collections

from iecl_jax.config import kinds
from iecl_jax.config.rules import one_of
from iecl_jax.data import images
from iecl_jax.data.split import MAX_NATIVE_SIZE, Split

SPLITS = ("pretrain", "train", "test")
Channels = tuple[float, ...]


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens split "pretrain", "train" or "test" of the source `data.name`.

    Raises:
      ValueError: `data` is invalid or the images are missing; the message says what to run.
    """
    one_of("split", split, SPLITS)
    kinds.check("data", data.name, data)
    opened = kinds.load("data", data.name).open_split(data, split)
    return dataclasses.replace(opened, num_threads=data.num_threads, reading=images.reading(data))


def statistics(data: ml_collections.ConfigDict) -> tuple[Channels, Channels]:
    """Returns (mean, std) that normalise images, three numbers each, for values in [0, 1].

    They are `data.mean` and `data.std`, or the source's if those are ().
    """
    source = kinds.load("data", data.name)
    return tuple(data.mean or source.MEAN), tuple(data.std or source.STD)


def cropped_on_host(data: ml_collections.ConfigDict) -> bool:
    """Returns whether the host crops the images, as far as that is known without opening them."""
    source = kinds.load("data", data.name)
    return getattr(source, "CROPPED_ON_HOST", data.image_size > MAX_NATIVE_SIZE)
