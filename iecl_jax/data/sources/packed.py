"""Opens a folder of images that was packed: a few large files of records instead of many small.

`python -m iecl_jax.tools.prepare --pack` writes them (see `iecl_jax.data.packing`):

    index.json              the classes, how the images were made smaller, and the files of a split
    train-00000.array_record, ...
                            the images as encoded bytes, in the order of the folder
    train-00000.tsv, ...    a line for each record: its label, a tab, the path in the folder
    SHA256SUMS              the sums of all files
"""

import json
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from iecl_jax.data import records, sealed
from iecl_jax.data.listing import shown
from iecl_jax.data.sources.tfds import MEAN, STD, Settings
from iecl_jax.data.split import Indices, Record, Split

__all__ = ["CROPPED_ON_HOST", "MEAN", "STD", "Settings", "check", "open_split"]

CROPPED_ON_HOST = True
FORMAT = 1
INDEX, UNFINISHED = "index.json", "unfinished.json"
# One record is read at a time, without threads of the library.
_OPTIONS = {"max_parallelism": "0"}
_COMMAND = "python -m iecl_jax.tools.prepare --pack --dir=FOLDER --out="


def check(data: ml_collections.ConfigDict) -> None:
    """Raises ValueError if `data.dir` is empty."""
    if not data.dir:
        raise ValueError(
            "data.name='packed' needs data.dir, the folder that "
            f"`{_COMMAND}DIR` wrote from a folder of images."
        )


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens a split of the folder `data.dir`.

    Raises:
      ValueError: it holds no finished pack, or no such split, or a file is damaged.
    """
    folder = Path(data.dir).expanduser()
    index = _read_index(folder)
    name = "test" if split == "test" else "train"
    if name not in index["splits"]:
        raise ValueError(
            f"data.dir={data.dir!r} was packed from a folder without test images: pack one that "
            "has them, or hold some out with --test_share."
        )
    shards = [(folder / file, count) for file, count in index["splits"][name]["shards"]]
    again = f"remove {shown(folder)} and run `{_COMMAND}{shown(folder)}`."
    wrong = sealed.check(folder, [INDEX, *(tsv(path.name) for path, _ in shards)])
    if wrong or (wrong := records.damaged(shards)):
        raise ValueError(f"{wrong}: {again}")
    lines = [
        line.partition("\t")
        for path, _ in shards
        for line in (folder / tsv(path.name)).read_text(encoding="utf-8").splitlines()
    ]
    labels = np.array([int(label) for label, _, _ in lines], np.int32)
    source = ArrayRecordDataSource([str(path) for path, _ in shards], _OPTIONS)

    def read(indices: Indices) -> list[Record]:
        try:
            images = [source[int(index)] for index in indices]
        except RuntimeError as error:
            where = records.damaged(shards, whole=True) or shown(folder)
            raise ValueError(f"{where} ({error}): {again}") from error
        rows = zip(images, indices, strict=True)
        return [Record(image, int(labels[at]), lines[at][2]) for image, at in rows]

    shape = index["image_shape"]
    return Split(
        name="packed",
        class_names=tuple(index["classes"]),
        image_shape=(shape[0], shape[1]) if shape else None,
        length=len(labels),
        read=read,
        read_labels=lambda: labels,
        is_train=split != "test",
        facts={
            "digest": index["splits"][name]["digest"],
            "shorter": index["shorter"],
            "quality": index["quality"],
        },
    )


def tsv(shard: str) -> str:
    """Returns the name of the file with the labels and paths of a file of records."""
    return shard.replace(".array_record", ".tsv")


def _read_index(folder: Path) -> dict[str, Any]:
    """Reads index.json; raises ValueError if it is not there or not of this format."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (folder / UNFINISHED).exists():
            raise ValueError(
                f"{shown(folder)} holds an unfinished pack: the command that began it goes on."
            ) from None
        raise ValueError(
            f"{shown(folder)} holds no packed images: write them with "
            f"`{_COMMAND}{shown(folder)}`, or use data.name='image_folder' for a folder of files."
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{shown(path)} cannot be read ({error}): pack the images again."
        ) from None
    if index.get("format") != FORMAT:
        raise ValueError(
            f"{shown(path)} has the format {index.get('format')}, and this version reads {FORMAT}: "
            "pack the images again."
        )
    return index
