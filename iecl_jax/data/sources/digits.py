"""The 1,797 handwritten digits of scikit-learn as a TFDS data set, prepared without a download.

The images are 8 x 8. Their grey values 0 to 16 are stored as 0 to 255. The split is fixed: 1,437
training and 360 test images, a stratified permutation by `sklearn.model_selection.train_test_split`
with seed 0.
"""

import contextlib
import functools
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from iecl_jax import console
from iecl_jax.data.sources import tfds
from iecl_jax.data.sources.tfds import Settings
from iecl_jax.data.split import Split

MEAN, STD = (0.305,) * 3, (0.376,) * 3

__all__ = ["MEAN", "STD", "Settings", "check", "open_split", "prepare"]

VERSION = "1.0.0"
NUM_TEST = 360


def check(data: ml_collections.ConfigDict) -> None:
    """Raises ValueError if `data.dir` is a folder without the digits, which need none."""
    if data.dir and tfds.prepared_dir("digits", data.dir) is None:
        raise ValueError(
            f"data.dir={data.dir!r} holds no digits: take it out, since they come with "
            f"scikit-learn, or run `{tfds.prepare_command('digits', data.dir)}`."
        )


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens a split; first prepares the data set if it is missing in TFDS's default folder."""
    if tfds.prepared_dir("digits", data.dir) is None:
        prepare(data)
    return tfds.open_split(data, split)


def prepare(data: ml_collections.ConfigDict) -> None:
    """Writes the data set into `data.dir` with TFDS and TensorFlow, unless it exists.

    Raises:
      ValueError: it exists but is damaged.
    """
    directory = tfds.data_dir(data.dir)
    target = directory / "digits" / VERSION
    if target.exists():
        tfds.check_files(target, "digits", data.dir)
        return
    console.say("Preparing the digits of scikit-learn with TensorFlow, once ...")
    builder_class = make_builder_class()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may do this at the same time. Each writes into a folder of its own and moves
    # that into place; the first one wins.
    with tempfile.TemporaryDirectory(dir=directory, prefix=".digits-") as scratch:
        builder = builder_class(data_dir=scratch, file_format="array_record")
        # TFDS tells of a download, which this is not, and of the folder that is about to move.
        silence = io.StringIO()
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            builder.download_and_prepare()
        try:
            os.rename(builder.data_dir, target)
        except OSError:
            if not target.exists():
                raise


@functools.cache  # TFDS registers each name only once
def make_builder_class() -> type[Any]:
    """Returns the TFDS builder of `digits`: image uint8 [8,8,1] (PNG) and label 0 to 9."""
    import tensorflow_datasets as tf_datasets  # imports TensorFlow, which training does not need

    class Digits(tf_datasets.core.GeneratorBasedBuilder):
        VERSION = tf_datasets.core.Version(VERSION)
        pkg_dir_path = Path(__file__).parent

        def _info(self) -> tf_datasets.core.DatasetInfo:
            features = tf_datasets.features.FeaturesDict(
                {
                    "image": tf_datasets.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tf_datasets.features.ClassLabel(num_classes=10),
                }
            )
            return tf_datasets.core.DatasetInfo(
                builder=self, features=features, supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            train, test = split_indices()
            return {"train": self._generate_examples(train), "test": self._generate_examples(test)}

        def _generate_examples(self, indices):
            images, labels = load_arrays()
            for index in indices:
                yield int(index), {"image": images[index], "label": int(labels[index])}

    return Digits


def load_arrays() -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 [1797,8,8,1] and labels int64 [1797], in the order of scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None], digits.target


def split_indices() -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the 1,437 training and of the 360 test images."""
    from sklearn.model_selection import train_test_split

    labels = load_arrays()[1]
    train, test = train_test_split(
        np.arange(len(labels)), test_size=NUM_TEST, random_state=0, stratify=labels
    )
    return train, test
