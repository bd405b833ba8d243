"""STL-10 (Coates et al. 2011): images of 96 px in 10 classes, most of them unlabelled."""

import ml_collections

from iecl_jax.data.sources import tfds
from iecl_jax.data.sources.tfds import Settings, prepare
from iecl_jax.data.split import Split, concatenate

MEAN, STD = (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)

__all__ = ["MEAN", "STD", "Settings", "open_split", "prepare"]


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens a split; "pretrain" has the 100,000 unlabelled images, then the 5,000 of "train"."""
    if split != "pretrain":
        return tfds.open_split(data, split)
    parts = [tfds.open_records("stl10", data.dir, part) for part in ("unlabelled", "train")]
    return concatenate("stl10", parts)
