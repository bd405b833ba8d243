"""ImageNet-100: the images of ImageNet that belong to the 100 classes of imagenet100.txt."""

from importlib import resources

import ml_collections

from iecl_jax.data.sources import imagenet2012
from iecl_jax.data.sources.imagenet2012 import CROPPED_ON_HOST, MEAN, STD, Settings, prepare
from iecl_jax.data.split import Split, keep_classes

__all__ = ["CROPPED_ON_HOST", "MEAN", "STD", "Settings", "open_split", "prepare"]


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens a split, from the prepared files of ImageNet."""
    return keep_classes("imagenet100", imagenet2012.open_split(data, split), class_names())


def class_names() -> list[str]:
    """Returns the WordNet ids of the classes, in label order."""
    text = resources.files(__package__).joinpath("imagenet100.txt").read_text()
    return [line for line in text.splitlines() if not line.startswith("#")]
