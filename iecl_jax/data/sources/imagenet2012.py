"""ImageNet (ILSVRC 2012): 1,281,167 training and 50,000 validation images in 1,000 classes."""

import ml_collections

from iecl_jax.data.sources import tfds
from iecl_jax.data.sources.tfds import MEAN, STD, Settings
from iecl_jax.data.split import Split

CROPPED_ON_HOST = True

__all__ = ["CROPPED_ON_HOST", "MEAN", "STD", "Settings", "open_split", "prepare"]

FILES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens a split; "test" is the validation set, because the test set of TFDS has no labels."""
    tfds_split = "validation" if split == "test" else "train"
    return tfds.open_records("imagenet2012", data.dir, tfds_split)


def prepare(data: ml_collections.ConfigDict) -> None:
    """Writes the data set into `data.dir`, from files that the user must download by hand.

    Raises:
      ValueError: a file is missing; the message says which and where it belongs.
    """
    manual = tfds.data_dir(data.dir) / "downloads" / "manual"
    missing = [file for file in FILES if not (manual / file).exists()]
    if missing:
        raise ValueError(
            f"ImageNet must be downloaded by hand from https://image-net.org/download-images: put "
            f"{' and '.join(missing)} into {manual}."
        )
    tfds.prepare_as("imagenet2012", data.dir)
