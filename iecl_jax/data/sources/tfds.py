"""Opens any data set that TFDS has prepared as ArrayRecord files, by its TFDS name."""

import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from iecl_jax import console
from iecl_jax.config import kinds
from iecl_jax.config.rules import near
from iecl_jax.config.section import Section
from iecl_jax.data import records, sealed
from iecl_jax.data.split import MAX_NATIVE_SIZE, Indices, Record, Split

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's

_CHUNK = 1024  # records that are read at once for their labels
_INFO, _FEATURES = "dataset_info.json", "features.json"


class Settings(Section):
    """The settings of a TFDS data set: only those that all sources have."""


def check(data: ml_collections.ConfigDict) -> None:
    """Raises ValueError if `data.name` is not prepared."""
    if prepared_dir(data.name, data.dir) is None:
        names = kinds.names("data")
        raise ValueError(
            f"data.name={data.name!r} is unknown: {near(data.name, names)}use one of "
            f"{', '.join(names)}, the path of a .py file, or a data set of TFDS once it is "
            f"prepared, `{prepare_command(data.name, data.dir)}`."
        )


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens a split; "test" is the "test" of TFDS or, if there is none, its "validation"."""
    splits = ("test", "validation") if split == "test" else ("train",)
    return open_records(data.name, data.dir, *splits)


def prepare(data: ml_collections.ConfigDict) -> None:
    """Downloads the data set and writes it into `data.dir`; this needs TensorFlow.

    Raises:
      ValueError: TFDS has no such data set, or it is there but damaged.
    """
    prepare_as(data.name, data.dir)


def prepare_as(name: str, directory: str) -> None:
    """Does what `prepare` does, for a data set by its TFDS name."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir(directory), file_format="array_record")
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f"TFDS has no data set {name!r}: {near(name, tfds.list_builders())}"
            "https://www.tensorflow.org/datasets/catalog lists them."
        ) from None
    builder.download_and_prepare()
    check_files(Path(builder.data_dir), name, directory)


def data_dir(directory: str) -> Path:
    """Returns `directory`, or if it is empty $TFDS_DATA_DIR, or else ~/tensorflow_datasets."""
    directory = directory or os.environ.get("TFDS_DATA_DIR", "") or "~/tensorflow_datasets"
    return Path(directory).expanduser()


def prepared_dir(name: str, directory: str) -> Path | None:
    """Returns the folder of the newest prepared version of a data set, damaged or not, or None."""
    found = (file.parent for file in (data_dir(directory) / name).glob("*.*.*/*"))
    versions = {path for path in found if path.name.replace(".", "").isdigit()}
    return max(versions, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def prepare_command(name: str, directory: str) -> str:
    """Returns the shell command that prepares a data set."""
    target = shlex.quote(str(data_dir(directory)))
    return f"python -m iecl_jax.tools.prepare --name={name} --dir={target}"


def open_records(name: str, directory: str, *splits: str) -> Split:
    """Opens the first of `splits` that a prepared TFDS data set has.

    The images are the feature `image`. The labels are the feature `label` if it is a class;
    otherwise the split is unlabelled.

    Raises:
      ValueError: the data set is not prepared, its files are not ArrayRecord, it has no feature
        `image`, or it has none of the splits.
    """
    path = prepared_dir(name, directory)
    if path is None:
        raise ValueError(
            f"Data set {name} is not prepared in {data_dir(directory)}: run "
            f"`{prepare_command(name, directory)}` or set data.dir."
        )
    check_files(path, name, directory)
    again = f"move {path} away and run `{prepare_command(name, directory)}`."
    import tensorflow_datasets as tfds  # takes half a second; not every source needs it

    try:
        builder = tfds.builder_from_directory(path)
        features, infos = dict(builder.info.features.items()), dict(builder.info.splits)
    except Exception as error:  # of many types, for which TFDS has no common one
        files = f"{path / _INFO} or {path / _FEATURES}"
        raise ValueError(f"{files} is damaged ({_first_line(error)}): {again}") from error
    split = _first_of(splits, infos, path)
    if not isinstance(features.get("image"), tfds.features.Image):
        raise ValueError(f"{path} has no image under the name 'image', only {', '.join(features)}.")
    shards = [*zip(map(Path, infos[split].filepaths), infos[split].shard_lengths)]
    if damaged := records.damaged(shards):
        raise ValueError(f"{damaged}: {again}")
    # The images stay encoded, so that `images` can decode a JPEG at a fraction of its size.
    source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    label = features.get("label")
    class_names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()

    def read(indices: Indices) -> list[Record]:
        try:
            examples = source.__getitems__([int(index) for index in indices])
        except Exception as error:
            where = (
                records.damaged(shards, whole=True)
                or f"{path / _FEATURES} does not fit the records"
            )
            raise ValueError(f"{where} ({_first_line(error)}): {again}") from error
        labels = [int(example["label"]) if class_names else -1 for example in examples]
        if max(labels, default=-1) >= len(class_names) > 0:
            raise ValueError(
                f"{path / _FEATURES} has {len(class_names)} classes, but a record has the label "
                f"{max(labels)}: {again}"
            )
        names = [_file_name(example) for example in examples]
        return [Record(x["image"], at, name) for x, at, name in zip(examples, labels, names)]

    def read_labels() -> np.ndarray:
        if not class_names:
            return np.full(len(source), -1, np.int32)
        return _cached_labels(path, split, read, len(source))

    return Split(
        name=name,
        class_names=class_names,
        image_shape=_small(features["image"].shape[:2]),
        length=len(source),
        read=read,
        read_labels=read_labels,
        is_train=split == "train",
        facts={"version": path.name, "split": split},
    )


def _file_name(example: Mapping[str, Any]) -> str:
    """Returns the name of an image's file, which for example ImageNet has, or ""."""
    name = example.get("file_name", "")
    return name.decode() if isinstance(name, bytes) else str(name)


def check_files(path: Path, name: str, directory: str) -> None:
    """Raises ValueError unless the files in the folder of a version are there and undamaged.

    Damage of the records themselves is only found when they are read.
    """
    wrong = f"{path} holds no ArrayRecord files"
    if any(path.glob("*.array_record*")):
        wrong = sealed.check(path, _descriptions(path)) or ""
    if wrong:
        raise ValueError(f"{wrong}: move {path} away and run `{prepare_command(name, directory)}`.")


def _descriptions(path: Path) -> list[str]:
    """Returns the names of the files that describe a data set: its splits, features and classes."""
    return sorted({_INFO, _FEATURES} | {file.name for file in path.glob("*.labels.txt")})


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _first_of(splits: Sequence[str], there: Collection[str], path: Path) -> str:
    """Returns the first of `splits` that is among `there`, or raises ValueError."""
    for split in splits:
        if split in there:
            return split
    wanted = " or ".join(map(repr, splits))
    raise ValueError(f"{path} has no split {wanted}, only {', '.join(there)}.")


def _small(shape: Sequence[int | None]) -> tuple[int, int] | None:
    """Returns (height, width) of the images, or None if they vary or are large."""
    height, width = shape
    if height and width and max(height, width) <= MAX_NATIVE_SIZE:
        return height, width
    return None


def _cached_labels(path: Path, split: str, read, length: int) -> np.ndarray:
    """Returns the labels, int32 [length], from a file in `path`, or else from the records.

    Labels that were read from the records are kept in `path` for the next time.
    """
    kept = path / f"labels_{split}.sealed"
    of = b"".join((path / name).read_bytes() for name in _descriptions(path))
    labels = sealed.read_labels(kept, of, length)
    if labels is not None:
        return labels
    labels = np.empty(length, np.int32)
    with console.progress(f"Reading the labels of {path}", length, "image") as shown:
        for start in range(0, length, _CHUNK):
            part = read(range(start, min(start + _CHUNK, length)))
            labels[start : start + len(part)] = [record.label for record in part]
            shown.update(start + len(part))
    sealed.write_labels(kept, of, labels)
    return labels
