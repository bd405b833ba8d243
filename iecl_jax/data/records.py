"""Data sets that TFDS has prepared as ArrayRecord files, read without TensorFlow."""

import os
import shlex
from pathlib import Path

import numpy as np
from absl import logging

from iecl_jax.data.files import open_whole
from iecl_jax.data.split import MAX_NATIVE_SIZE, Indices, Record, Split

_CHUNK = 1024


def data_dir(directory: str) -> Path:
    """`directory`, or if empty TFDS's own: $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    directory = directory or os.environ.get("TFDS_DATA_DIR", "") or "~/tensorflow_datasets"
    return Path(directory).expanduser()


def prepared_dir(name: str, directory: str) -> Path | None:
    """The folder of the newest prepared version of data set `name`, or None."""
    infos = data_dir(directory).glob(f"{name}/*.*.*/dataset_info.json")
    versions = [info.parent for info in infos if info.parent.name.replace(".", "").isdigit()]
    return max(versions, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def prepare_command(name: str, directory: str) -> str:
    """The shell command that prepares data set `name`."""
    target = shlex.quote(str(data_dir(directory)))
    return f"python -m iecl_jax.tools.prepare --name={name} --dir={target}"


def open_records(name: str, directory: str, split: str) -> Split:
    """Opens a split of a prepared TFDS data set that has the features `image` and `label`.

    ValueError with the command to run if it is not prepared, or not as ArrayRecord.
    """
    path = prepared_dir(name, directory)
    if path is None:
        raise ValueError(
            f"Data set {name} is not prepared in {data_dir(directory)}: run "
            f"`{prepare_command(name, directory)}` or set data.dir."
        )
    import tensorflow_datasets as tfds  # Takes half a second, and not every data set needs it.

    builder = tfds.builder_from_directory(path)
    if not any(path.glob("*.array_record*")):
        raise ValueError(
            f"{path} holds no ArrayRecord files: move it away and run "
            f"`{prepare_command(name, directory)}`."
        )
    if split not in builder.info.splits:
        raise ValueError(f"{path} has no split {split!r}, only {', '.join(builder.info.splits)}.")
    source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    height, width = builder.info.features["image"].shape[:2]
    small = height and width and max(height, width) <= MAX_NATIVE_SIZE

    def read(indices: Indices) -> list[Record]:
        examples = source.__getitems__([int(index) for index in indices])
        return [Record(example["image"], int(example["label"])) for example in examples]

    def read_labels() -> np.ndarray:
        return _cached_labels(path / f"labels_{split}.npy", read, len(source))

    return Split(
        name=name,
        class_names=tuple(builder.info.features["label"].names),
        image_shape=(height, width) if small else None,
        length=len(source),
        read=read,
        read_labels=read_labels,
    )


def _cached_labels(path: Path, read, length: int) -> np.ndarray:
    """The labels int32 [length] from `path`, or from the records (and then kept in `path`)."""
    if path.exists():
        labels = np.load(path)
        if labels.shape == (length,):
            return labels
    labels = np.empty(length, np.int32)
    for start in range(0, length, _CHUNK):
        records = read(range(start, min(start + _CHUNK, length)))
        labels[start : start + len(records)] = [record.label for record in records]
        logging.log_every_n_seconds(
            logging.INFO, "Reading labels for %s: %d %%", 10, path, 100 * start // length
        )
    try:
        with open_whole(path) as file:
            np.save(file, labels)
    except OSError as error:
        logging.info("The labels are not kept in %s: %s", path, error)
    return labels
