"""Every data set by its name: what `config.data` may say, and how its splits are opened."""

import dataclasses
import difflib
from importlib import resources

import ml_collections

from iecl_jax.data import generated, image_folder, records
from iecl_jax.data.split import Split, concatenate, keep_classes

NAMES = (
    "cifar10",
    "cifar100",
    "digits",
    "generated",
    "image_folder",
    "imagenet100",
    "imagenet2012",
    "stl10",
)
SPLITS = ("pretrain", "train", "test")
CACHES = ("none", "host", "device")


def check(data: ml_collections.ConfigDict) -> None:
    """Checks `config.data` without touching a file; ValueError says what is wrong."""
    if data.name not in NAMES:
        near = difflib.get_close_matches(data.name, NAMES)
        hint = f"did you mean {' or '.join(near)}? All names: " if near else "use one of "
        raise ValueError(f"data.name={data.name!r} is unknown: {hint}{', '.join(NAMES)}.")
    if data.name == "image_folder" and not data.dir:
        raise ValueError("data.name='image_folder' needs data.dir, the folder of the images.")
    if data.cache not in CACHES:
        raise ValueError(f"data.cache={data.cache!r} is unknown: use one of {', '.join(CACHES)}.")
    if data.image_size < 1:
        raise ValueError(f"data.image_size={data.image_size} must be at least 1 pixel.")
    if data.num_threads < 1:
        raise ValueError(f"data.num_threads={data.num_threads} must be at least 1.")
    if data.prefetch < 0:
        raise ValueError(f"data.prefetch={data.prefetch} must be at least 0 batches.")


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens split "pretrain", "train" or "test" of the data set `data.name`.

    "pretrain" holds all images that may be trained on without labels, and is "train" for all but
    stl10. ValueError if `data` is wrong or the data set is not there; the message says what to run.
    """
    check(data)
    if split not in SPLITS:
        raise ValueError(f"Split {split!r} is unknown: use one of {', '.join(SPLITS)}.")
    return dataclasses.replace(_open(data, split), num_threads=data.num_threads)


def _open(data: ml_collections.ConfigDict, split: str) -> Split:
    tfds_split = "test" if split == "test" else "train"
    if data.name == "generated":
        return generated.open_generated(data.image_size, split)
    if data.name == "image_folder":
        return image_folder.open_folder(data.dir, tfds_split, data.num_threads)
    if data.name == "stl10" and split == "pretrain":
        parts = [records.open_records("stl10", data.dir, part) for part in ("unlabelled", "train")]
        return concatenate("stl10", parts)
    if data.name in ("imagenet2012", "imagenet100"):
        tfds_split = "validation" if split == "test" else "train"
        whole = records.open_records("imagenet2012", data.dir, tfds_split)
        if data.name == "imagenet100":
            return keep_classes("imagenet100", whole, imagenet100())
        return whole
    if data.name == "digits" and records.prepared_dir("digits", data.dir) is None:
        from iecl_jax.data import digits  # Imports TFDS, and TensorFlow when it prepares.

        digits.prepare(records.data_dir(data.dir))
    return records.open_records(data.name, data.dir, tfds_split)


def imagenet100() -> list[str]:
    """WordNet ids of the 100 classes of ImageNet-100 in label order."""
    text = resources.files("iecl_jax.data").joinpath("imagenet100.txt").read_text()
    return [line for line in text.splitlines() if not line.startswith("#")]
