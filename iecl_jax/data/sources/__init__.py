"""Data sources, a file each: what `config.data.name` may name, and how its images are opened.

It names a file here, the path of any `.py` file like them, or a data set that TFDS has prepared
(`tfds.py`). A source has

    Settings                 a `config.section.Section`: keys of config.data that it reads alone
    MEAN, STD                per channel, of values in [0, 1]: what images are normalised with
    open_split(data, split)  -> Split of "pretrain" (all images that may be trained on without
                             labels), "train" or "test"; ValueError if it is not there

where `data` is config.data, and may have

    check(data)              raises ValueError before anything compiles
    prepare(data)            what `iecl_jax.tools.prepare` calls, with data.name and data.dir
    CROPPED_ON_HOST = True   images are large or of several sizes, whatever data.image_size is
"""

import dataclasses

import ml_collections

from iecl_jax.config import kinds
from iecl_jax.config.rules import one_of
from iecl_jax.data.split import MAX_NATIVE_SIZE, Split

SPLITS = ("pretrain", "train", "test")
Channels = tuple[float, ...]


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens split "pretrain", "train" or "test" of the source `data.name`.

    Raises:
      ValueError: `data` is wrong or the images are not there; the message says what to run.
    """
    one_of("split", split, SPLITS)
    kinds.check("data", data.name, data)
    opened = kinds.load("data", data.name).open_split(data, split)
    return dataclasses.replace(opened, num_threads=data.num_threads)


def statistics(data: ml_collections.ConfigDict) -> tuple[Channels, Channels]:
    """(mean, std) that images are normalised with: those of `data`, or where it has none the
    source's; each three numbers, of values in [0, 1]."""
    source = kinds.load("data", data.name)
    return tuple(data.mean or source.MEAN), tuple(data.std or source.STD)


def cropped_on_host(data: ml_collections.ConfigDict) -> bool:
    """Whether the host should crop the images, as far as that is known without opening them."""
    source = kinds.load("data", data.name)
    return getattr(source, "CROPPED_ON_HOST", data.image_size > MAX_NATIVE_SIZE)
